"""`eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iresnet_export.cli.console import progress_bar, say, show, write_report
from iresnet_export.cli.options import (
    MOST_THREADS,
    AtATime,
    BackendNames,
    Device,
    ImageSize,
    InterpolationName,
    JsonFile,
    LabelsFile,
    Mean,
    NetworkFile,
    Resize,
    Std,
    Trust,
    device_from_option,
    digits_or_folder,
    spec_options,
)


def evaluate(
    files: Annotated[
        list[Path], typer.Argument(metavar="MODEL_OR_ARTIFACT...", help="Checkpoints and artifacts.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="`digits` or a folder. Default: what the network was trained on.",
            show_default=False,
            autocompletion=digits_or_folder,
        ),
    ] = None,
    batch_size: AtATime = 32,
    workers: Annotated[int, typer.Option("--workers", help="Processes that load images.", min=0, max=MOST_THREADS)] = 0,
    checkpoint: NetworkFile = None,
    device: Device = "auto",
    backend: BackendNames = None,
    trust: Trust = False,
    image_size: ImageSize = None,
    resize: Resize = None,
    interpolation: InterpolationName = None,
    mean: Mean = None,
    std: Std = None,
    labels: LabelsFile = None,
    json: JsonFile = None,
) -> None:
    """Count top-1 and top-5 accuracy on held-out images, of checkpoints and artifacts alike."""
    from iresnet_export.evaluation import EvalOptions, accuracies, eval_report
    from iresnet_export.reporting.tables import eval_table

    said = spec_options(image_size, resize, interpolation, mean, std, labels)
    chosen = tuple(backend or ())
    options = EvalOptions(data, batch_size, workers, device_from_option(device), checkpoint, trust, chosen, said)
    with progress_bar() as progress:
        found = accuracies(files, options, progress)
    report = eval_report(found, options)
    show(eval_table(report.results))
    for result in report.results:
        if result.reason is not None:
            say(f"{result.artifact} by {result.backend}: {result.status}: {result.reason}")
    write_report(json, report)
    if not any(result.status == "ok" for result in report.results):
        raise typer.Exit(3)
