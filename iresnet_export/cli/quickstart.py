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
    from iresnet_export.reporting.tables import Cell, ResultTable


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
            say(f"{candidate.artifact.name} by {candidate.backend} {candidate.status}: {candidate.reason}")
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
    if best is None or best.result is None or best.result.latency is None:
        return (
            "Which is the fastest cannot be said: no measurement of one that passed was steady. Measure again on a quiet machine."
        )
    latency, speedup = best.result.latency, best.result.speedup
    name, loaded = f"{best.path.name} by {best.backend}", under_load(summary.warnings)
    low, high = latency.p50_ci95
    said = f"{name}, {latency.p50:.2f} ms an image (median; 95 % interval {low:.2f} to {high:.2f})"
    if speedup is None:
        return f"Fastest as measured: {said}; {best.result.missing.get('speedup', 'no verdict')}."
    times = f"{speedup.p50:.1f} times as fast as eager PyTorch ({speedup.ci95[0]:.1f} to {speedup.ci95[1]:.1f})"
    if loaded:
        return f"Fastest as measured, while the machine was loaded: {said}; {times}, to be measured again on a quiet one."
    return bold(f"Fastest on this machine: {said}; {times}.")


def _table(summary: Summary) -> ResultTable:
    from iresnet_export.reporting.tables import table

    columns = ("artifact", "runs by", "precision", "parity", ">noise ratio", ">top-1", ">median ms", ">speed-up", ">size")
    made = table(*columns, keys=2)
    for row in summary.rows:
        made.line(*_row(row))
    return made


def _row(row: Row) -> list[Cell]:
    from iresnet_export.reporting.tables import noise, status
    from iresnet_export.reporting.words import megabytes

    cells: list[Cell] = [row.path.name, row.backend, row.precision]
    size = megabytes(row.size_bytes)
    candidate, found, result = row.candidate, row.accuracy.evaluation, row.result
    if candidate is None:
        cells += ["reference", ""]
    else:
        cells += [status(candidate.status), "" if candidate.outputs is None else noise(candidate.outputs)]
    cells.append("" if found is None else f"{found.top1:.1f} %")
    if result is None or result.latency is None:
        return [*cells, "", "", size]
    if result.speedup is None:
        said = "baseline" if result.is_baseline else status(result.status) if result.status != "ok" else "no verdict"
    else:
        said = f"{result.speedup.p50:.2f} ×" + (" (tie)" if result.speedup.tie else "")
    return [*cells, f"{result.latency.p50:.2f}", said, size]
