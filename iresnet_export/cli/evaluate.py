"""`eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iresnet_export.cli.console import notice, progress_bar, say, show, write_report
from iresnet_export.cli.options import (
    MOST_MISTAKES,
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
    WhichOfFile,
    device_from_option,
    digits_or_folder,
    spec_options,
)
from iresnet_export.errors import InputError


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
    which: WhichOfFile = None,
    device: Device = "auto",
    backend: BackendNames = None,
    trust: Trust = False,
    mistakes: Annotated[
        int, typer.Option("--mistakes", help="How many of the most confident mistakes to name, of each.", min=0, max=MOST_MISTAKES)
    ] = 5,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Put small pictures of these mistakes into the report of --json.")
    ] = False,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", help="Write every image's class to this .csv or .jsonl file.", show_default=False),
    ] = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    interpolation: InterpolationName = None,
    mean: Mean = None,
    std: Std = None,
    labels: LabelsFile = None,
    json: JsonFile = None,
) -> None:
    """Count what checkpoints and artifacts get right on held-out images, class by class, and name what they get wrong.

    Of several files each class is compared with that of the first in float32: what a precision hurts is told, if it is more than
    chance.
    """
    from iresnet_export.evaluation import EvalOptions, accuracies, eval_report
    from iresnet_export.reporting.predictions_file import predictions_file
    from iresnet_export.reporting.remarks import evaluation_remarks
    from iresnet_export.reporting.tables import classes_table, eval_table, mistakes_table

    if thumbnails and json is None:
        raise InputError("--thumbnails puts pictures into a report;", "name its file with --json.")
    named = tuple(backend or ())
    said = spec_options(image_size, resize, interpolation, mean, std, labels)
    options = EvalOptions(
        data, batch_size, workers, device_from_option(device), checkpoint, trust, named, mistakes, thumbnails, which, said
    )
    with progress_bar() as progress, predictions_file(predictions) as keep:
        found = accuracies(files, options, progress, keep)
    report = eval_report(found, options)
    for number, result in enumerate(report.first_of_each_file):
        show(classes_table(number, result, most=20, fewest=10))
        if result.mistakes:
            show(mistakes_table(number, result))
    show(eval_table(report.results))
    for line in evaluation_remarks(report.results):
        say(line)
    if predictions is not None:
        notice(f"Predictions: {predictions}")
    write_report(json, report)
    if not any(result.status == "ok" for result in report.results):
        raise typer.Exit(3)
