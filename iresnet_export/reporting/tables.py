"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from iresnet_export.verification.accuracy import Accuracy
    from iresnet_export.verification.localisation import Localisation
    from iresnet_export.verification.outputs import OutputsReport
    from iresnet_export.verification.verify import Candidate, Verification

Cell = str | Text

STATUS_STYLE = {
    "pass": "green",
    "ok": "green",
    "fail": "bold red",
    "failed_parity": "bold red",
    "oom": "yellow",
    "skipped": "yellow",
    "unstable": "yellow",
}


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table of the project's look; columns whose name begins with `>` are aligned right."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def status(text: str) -> Text:
    return Text(text, STATUS_STYLE.get(text, ""))


def noise(outputs: OutputsReport) -> str:
    """The error in noise floors, or of int8 and fp8 the signal-to-noise ratio."""
    if outputs.noise_ratio is not None:
        return f"{outputs.noise_ratio:.2f}"
    return "" if outputs.sqnr_db is None else f"{outputs.sqnr_db:.1f} dB"


def verify_table(verification: Verification) -> Table:
    made = table("artifact", "backend", "precision", "verdict", ">weights", ">noise ratio", ">max error", ">top-1 agrees", "batch")
    for candidate in verification.candidates:
        made.add_row(*_verify_row(candidate))
    return made


def weights_in_words(candidate: Candidate) -> str:
    """What was found of a candidate's weights."""
    weights = candidate.weights
    if weights is None:
        return "not read"
    if not weights.matched:
        return "fused" if candidate.status == "pass" else "differ"
    return f"{weights.compared:,} equal" if weights.passed else "differ"


def _verify_row(candidate: Candidate) -> list[Cell]:
    outputs, equal = candidate.outputs, weights_in_words(candidate)
    row: list[Cell] = [candidate.artifact.name, candidate.backend, candidate.precision, status(candidate.status), equal]
    if outputs is None:
        return [*row, "", "", "", ""]
    return [
        *row,
        noise(outputs),
        f"{outputs.max_abs:.2g}",
        f"{outputs.top1_agreement:.1%}",
        ", ".join(map(str, outputs.batch_sizes)),
    ]


def decision_lines(candidate: Candidate, limit: float | None) -> list[str]:
    """What there is to say of a candidate's decisions: those that flip, and the accuracy where there are labels."""
    decisions = candidate.outputs.decisions if candidate.outputs else None
    if decisions is None:
        return []
    flips, accuracy = decisions.in_words(), decisions.accuracy
    lines = [] if flips is None else [flips]
    if accuracy is not None:
        figures = f"accuracy {accuracy.candidate.percent:.2f} %, in float64 {accuracy.reference.percent:.2f} %"
        lines.append(f"{figures}: {accuracy.verdict(limit)}")
    return lines


def localisation_table(candidate: Candidate, found: Localisation) -> Table:
    title = f"{candidate.artifact.name} by {candidate.backend}, block by block"
    made = table("place", ">signal to noise", ">of honest rounding", ">times its error", title=title)
    for entry in found.places:
        decibels = ["" if value is None else f"{value:.1f} dB" for value in (entry.sqnr_db, entry.floor_db)]
        style = "bold red" if entry.place == found.first else None
        made.add_row(entry.place, *decibels, "" if entry.ratio is None else f"{entry.ratio:.2f}", style=style)
    return made


def eval_table(accuracies: Sequence[Accuracy]) -> Table:
    made = table("file", "backend", ">images", ">top-1", ">top-5", ">loss")
    for accuracy in accuracies:
        found = accuracy.evaluation
        row = [accuracy.artifact.name, accuracy.backend]
        if found is None:
            made.add_row(*row, status(accuracy.status), "", "", "")
        else:
            made.add_row(*row, f"{found.images:,}", f"{found.top1:.2f} %", f"{found.top5:.2f} %", f"{found.loss:.4f}")
    return made
