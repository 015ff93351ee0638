"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from iresnet_export.reporting.words import one_line, printable

if TYPE_CHECKING:
    from iresnet_export.evaluation import Accuracy
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


_LEAST = (24, 16, 12)
"""Columns of text are folded to no fewer characters than this; the first one at which something fits."""


class ResultTable(Table):
    """A table whose first `keys` columns say what a row is of. Nothing in a cell acts on the terminal."""

    def __init__(self, columns: Sequence[str], title: str | None, keys: int) -> None:
        title = None if title is None else one_line(title)
        super().__init__(
            title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, collapse_padding=True
        )
        self.names, self.keys = tuple(columns), keys
        self.lines: list[tuple[tuple[Cell, ...], str | None]] = []
        for column in columns:
            self.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold")

    def line(self, *cells: Cell, style: str | None = None) -> None:
        """Adds a row."""
        shown = tuple(safe(cell) for cell in cells)
        self.lines.append((shown, style))
        self.add_row(*shown, style=style)


def table(*columns: str, title: str | None = None, keys: int = 1) -> ResultTable:
    """An empty table of the project's look; columns whose name begins with `>` are aligned right."""
    return ResultTable(columns, title, keys)


def safe(text: Cell) -> Cell:
    """Text with what would act on a terminal written out."""
    plain = text.plain if isinstance(text, Text) else text
    shown = printable(plain)
    return text if shown == plain else Text(shown, text.style) if isinstance(text, Text) else shown


def fitted(made: ResultTable, width: int) -> list[ResultTable]:
    """The table in as many parts, one below the other, as it takes to fit so many characters; each says what its rows are of.

    Figures are never folded, text is to no fewer than a dozen characters. A row that says nothing in a part is left out there.
    """
    natural = [_natural(made, index) for index in range(len(made.names))]
    for least in _LEAST:
        needed = [_needed(made, index, least) for index in range(len(made.names))]
        keys = list(range(made.keys))
        if _framed([needed[index] for index in keys] + [max(needed[made.keys :], default=0)]) <= width:
            break
    whole = _framed(natural) <= width
    parts: list[list[int]] = [[]]
    for index in range(made.keys, len(made.names)):
        if not whole and not any(str(cells[index]) for cells, _ in made.lines):
            continue  # there is little room
        if parts[-1] and _framed([needed[place] for place in (*keys, *parts[-1], index)]) > width:
            parts.append([])
        parts[-1].append(index)
    shown = []
    for part in parts:
        columns = [*keys, *part]
        found = made if len(columns) == len(made.names) else _part(made, columns, first=part is parts[0])
        widths = _widths([needed[index] for index in columns], [natural[index] for index in columns], width)
        for column, size in zip(found.columns, widths, strict=True):
            column.width = size
        shown.append(found)
    return shown


def _widths(needed: Sequence[int], natural: Sequence[int], width: int) -> list[int]:
    """What each column gets: what it needs, and of the rest what brings the narrowest nearest to their longest line."""
    widths = list(needed)
    while _framed(widths) < width and widths != list(natural):
        index = max(range(len(widths)), key=lambda place: natural[place] - widths[place])
        widths[index] += 1
    return widths


def _natural(made: ResultTable, index: int) -> int:
    """The longest line of a column."""
    cells = [made.names[index].removeprefix(">"), *(str(cells[index]) for cells, _ in made.lines)]
    return max(cell_len(line) for cell in cells for line in cell.split("\n"))


def _needed(made: ResultTable, index: int, least: int) -> int:
    """The fewest characters that a column takes: figures whole, text at least so many, each word of the head whole."""
    name = made.names[index]
    lines = [line for cells, _ in made.lines for line in str(cells[index]).split("\n")]
    longest = max(map(cell_len, lines), default=0)
    words = max(map(cell_len, name.removeprefix(">").split()), default=0)
    return max(words, longest if name.startswith(">") else min(longest, least))


def _framed(widths: Sequence[int]) -> int:
    """What columns take with what stands between and beside them."""
    return sum(widths) + 2 * len(widths)


def _part(made: ResultTable, columns: Sequence[int], first: bool) -> ResultTable:
    part = table(*(made.names[index] for index in columns), title=str(made.title) if first and made.title else None, keys=made.keys)
    part.show_header = made.show_header
    for cells, style in made.lines:
        if first or any(str(cells[index]) for index in columns[made.keys :]):
            part.line(*(cells[index] for index in columns), style=style)
    return part


def status(text: str) -> Text:
    return Text(text, STATUS_STYLE.get(text, ""))


def noise(outputs: OutputsReport) -> str:
    """The error in noise floors, or of int8 and fp8 the signal-to-noise ratio."""
    if outputs.noise_ratio is not None:
        return f"{outputs.noise_ratio:.2f}"
    return "" if outputs.sqnr_db is None else f"{outputs.sqnr_db:.1f} dB"


def verify_table(verification: Verification) -> ResultTable:
    columns = ("artifact", "backend", "precision", "verdict", ">weights", ">noise ratio", ">max error", ">top-1 agrees", "batch")
    made = table(*columns, keys=2)
    for candidate in verification.candidates:
        made.line(*_verify_row(candidate))
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
    row: list[Cell] = [one_line(candidate.artifact.name), candidate.backend, candidate.precision, status(candidate.status), equal]
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
        verdict = accuracy.verdict(limit)
        lines.append(figures if verdict in (candidate.reason or "") else f"{figures}: {verdict}")
    return lines


def localisation_table(candidate: Candidate, found: Localisation) -> ResultTable:
    title = f"{candidate.artifact.name} by {candidate.backend}, block by block"
    made = table("place", ">signal to noise", ">of the reference's rounding", ">times its error", title=title)
    for entry in found.places:
        decibels = ["" if value is None else f"{value:.1f} dB" for value in (entry.sqnr_db, entry.floor_db)]
        style = "bold red" if entry.place == found.first else None
        made.line(entry.place, *decibels, "" if entry.ratio is None else f"{entry.ratio:.2f}", style=style)
    return made


def eval_table(accuracies: Sequence[Accuracy]) -> ResultTable:
    made = table("file", "backend", ">images", ">top-1", ">top-5", ">loss", keys=2)
    for accuracy in accuracies:
        found = accuracy.evaluation
        row = [one_line(accuracy.artifact.name), accuracy.backend]
        if found is None:
            made.line(*row, status(accuracy.status), "", "", "")
        else:
            made.line(*row, f"{found.images:,}", f"{found.top1:.2f} %", f"{found.top5:.2f} %", f"{found.loss:.4f}")
    return made
