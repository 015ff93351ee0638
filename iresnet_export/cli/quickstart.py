"""`quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iresnet_export.cli.console import bold, notice, progress_bar, say, show, warn
from iresnet_export.cli.options import MOST_SECONDS, finite
from iresnet_export.cli.training_progress import training_bar

if TYPE_CHECKING:
    from rich.text import Text

    from iresnet_export.quickstart import Row, Summary
    from iresnet_export.reporting.tables import Cell, Table


def quickstart(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that it makes.")] = Path("quickstart"),
    epochs: Annotated[
        int | None, typer.Option("--epochs", help="Default: the digits preset's.", show_default=False, min=1, max=10_000)
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", help="Measured time for each candidate of the benchmark.", min=0.001, max=MOST_SECONDS, callback=finite
        ),
    ] = 3.0,
) -> None:
    """Train, export, verify and measure, all in one: a small iResNet on real handwritten digits, in a minute or two."""
    from iresnet_export.quickstart import deploy, train_digits

    say("1. Training iResNet-18 on scikit-learn's handwritten digits (1,297 images; 500 more are held out)")
    with training_bar() as training_progress:
        training = train_digits(output, epochs, training_progress)
    say(f"   {training.val_acc1:.1f} % of the held-out digits are recognised, after {training.seconds:.0f} s")
    with progress_bar() as progress:
        summary = deploy(output, training, seconds, progress, say)
    show(_table(summary))
    _explain(summary)
    say(bold(f"\nOpen {summary.page} in a browser: all of this on one page, with plots."))
    if not summary.verification.passed:
        raise typer.Exit(1)


def _explain(summary: Summary) -> None:
    from iresnet_export.cli.pasting import command_line
    from iresnet_export.verification.criteria import NOISE_LIMIT

    for name, reason in summary.missing.items():
        notice(f"{name} was not exported: {reason}")
    for candidate in summary.verification.candidates:
        if candidate.reason is not None:
            say(f"{candidate.artifact} by {candidate.backend} {candidate.status}: {candidate.reason}")
    units = "error against float64 in units of the network's own rounding error in that precision"
    say(f"Parity: {units}; up to {NOISE_LIMIT:g} is rounding.")
    say("int8 has no such unit: its signal to noise in dB, and its decisions, are held against what calibration predicted.")
    for warning in summary.warnings:
        warn(warning)
    say(_speed_in_words(summary))
    folder = summary.folder
    say(f"\nEverything lies in {folder}/: the run (log.csv, best.pt) in run/, the artifacts and their manifests in artifacts/,")
    say("the measurements in verify.json, eval.json and bench.json. Try next:")
    say(f"  {command_line('inspect', folder / 'artifacts' / 'iresnet18.onnx')}")
    say(f"  {command_line('verify', folder / 'artifacts' / 'iresnet18.onnx', '--json', 'report.json')}")
    say("  iresnet-export train --data FOLDER --depth 50      your own images: FOLDER/train/<class>/ and FOLDER/val/<class>/")
    say("  iresnet-export onnx --depth 101 --weights official  the authors' ImageNet weights")


def _speed_in_words(summary: Summary) -> Text | str:
    """Which is the fastest, and by how much; with all doubt, and in plain print, where the machine was loaded or not steady."""
    from iresnet_export.system.machine import under_load

    best = summary.fastest
    if best is None or best.result is None or best.result.latency_ms is None:
        return (
            "Which is the fastest cannot be said: no measurement of one that passed was steady. Measure again on a quiet machine."
        )
    latency, speedup = best.result.latency_ms, best.result.speedup
    name, loaded = f"{best.path.name} by {best.backend}", under_load(summary.warnings)
    said = f"{name}, {latency.p50:.2f} ms an image ({latency.in_words()})"
    if speedup is None:
        return f"Fastest as measured: {said}; {best.result.null_reasons.get('speedup', 'no verdict')}."
    times = f"{speedup.p50:.1f} times as fast as eager PyTorch ({speedup.ci95[0]:.1f} to {speedup.ci95[1]:.1f})"
    if loaded:
        return f"Fastest as measured, while the machine was loaded: {said}; {times}, to be measured again on a quiet one."
    return bold(f"Fastest on this machine: {said}; {times}.")


def _table(summary: Summary) -> Table:
    from iresnet_export.reporting.tables import table

    columns = ("artifact", "by", "precision", "parity", ">error", ">top-1", ">median ms", ">speed-up", ">size")
    return table("quickstart", "", columns, map(_row, summary.rows), keys=2)


def _row(row: Row) -> list[Cell | str]:
    from iresnet_export.reporting.tables import status_cell
    from iresnet_export.reporting.words import backend_name, figures, megabytes, parity_figure, percent, times

    candidate, result, size = row.candidate, row.result, megabytes(row.size_bytes)
    cells: list[Cell | str] = [row.path.name, backend_name(row.backend), row.precision]
    if candidate is None:
        cells += ["reference", ""]
    else:
        cells += [status_cell(candidate.status), parity_figure(candidate.noise_ratio, candidate.sqnr_db)]
    cells.append(percent(row.accuracy.top1))
    if result is None or result.latency_ms is None:
        return [*cells, "", "", size]
    said: Cell | str = "baseline" if result.is_baseline else status_cell(result.status) if result.status != "ok" else "no verdict"
    if result.speedup is not None:
        said = times(result.speedup.p50) + (" (tie)" if result.speedup.is_tie else "")
    return [*cells, figures(result.latency_ms.p50), said, size]
