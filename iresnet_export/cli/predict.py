"""`predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iresnet_export.cli.console import is_standard_output, notice, progress_bar, show, write_report
from iresnet_export.cli.options import (
    MOST_CLASSES,
    AtATime,
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
    backends,
    spec_options,
)
from iresnet_export.cli.places import require_distinct
from iresnet_export.errors import InputError

if TYPE_CHECKING:
    from iresnet_export.prediction import PredictOptions


def predict(
    artifact: Annotated[Path, typer.Argument(help="An artifact or a checkpoint.", show_default=False)],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE_OR_FOLDER",
            help="Image files, folders with images at any depth, shards (.tar), and addresses of any of these, such as s3://...",
            show_default=False,
        ),
    ],
    top_k: Annotated[int, typer.Option("--top-k", help="How many classes to show, at most all.", min=1, max=MOST_CLASSES)] = 5,
    batch_size: AtATime = 32,
    checkpoint: NetworkFile = None,
    which: WhichOfFile = None,
    device: Device = "auto",
    backend: Annotated[
        str | None,
        typer.Option("--backend", help="Run by this one, not by the first that can.", show_default=False, autocompletion=backends),
    ] = None,
    trust: Trust = False,
    image_size: ImageSize = None,
    resize: Resize = None,
    interpolation: InterpolationName = None,
    mean: Mean = None,
    std: Std = None,
    labels: LabelsFile = None,
    json: JsonFile = None,
    jsonl: Annotated[
        Path | None,
        typer.Option("--jsonl", help="Write a line of JSON for each image, as it is predicted, to this file.", show_default=False),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option("--parquet", help="Write the same as a Parquet file, when all images are predicted.", show_default=False),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of --jsonl or --parquet where a run ended.")
    ] = False,
) -> None:
    """Say what images show: the likeliest classes, with their probabilities.

    Images are prepared as the artifact's own network was trained to see them. One that cannot be read is named, the others are
    predicted nevertheless, and the exit status is 2.
    """
    from iresnet_export.prediction import PredictOptions, predicted
    from iresnet_export.reporting.tables import predict_table
    from iresnet_export.system.devices import usable_device

    said = spec_options(image_size, resize, interpolation, mean, std, labels)
    options = PredictOptions(top_k, batch_size, usable_device(device), checkpoint, trust, backend, which, said)
    if jsonl is not None or parquet is not None:
        _write_lines(jsonl, parquet, artifact, images, options, json, resume)
        return
    if resume:
        raise InputError("--resume goes on with the file of --jsonl or --parquet;", "name that.")
    with progress_bar() as progress:
        found = predicted(artifact, images, options, progress)
    show(predict_table(found.results))
    for image in found.unreadable:
        notice(image.reason or "")
    if json is not None:
        write_report(json, found.report())
    if found.unreadable:
        notice(f"Not read: {len(found.unreadable)} of {len(found.results)} images; see the reasons above.")
        raise typer.Exit(2)


def _write_lines(
    jsonl: Path | None,
    parquet: Path | None,
    artifact: Path,
    images: list[str],
    options: PredictOptions,
    json: Path | None,
    resume: bool,
) -> None:
    """Lines, and from these a Parquet file where that is asked for: beside it, and removed then, where --jsonl names no file."""
    from iresnet_export.prediction import predict_to
    from iresnet_export.reporting.parquet_file import lines_of, parquet_from_lines, require_parquet
    from iresnet_train.torchrun import is_first

    for option, file in (("--jsonl", jsonl), ("--parquet", parquet)):
        if file is not None and json is not None:
            raise InputError(f"--json is a report of all images, and {option} has a line for each:", "give one of them.")
        if file is not None and is_standard_output(file):
            raise InputError(f"{option} is a file that a later run can go on with, and no stream;", "name a file.")
    require_distinct({option: file for option, file in (("--jsonl", jsonl), ("--parquet", parquet)) if file is not None})
    if parquet is not None:
        require_parquet(parquet)
    lines = jsonl if parquet is None or jsonl is not None else lines_of(parquet)
    assert lines is not None
    with progress_bar() as progress:
        found = predict_to(lines, artifact, images, options, progress, resume=resume)
    if not is_first():
        raise typer.Exit(2 if found.unreadable else 0)
    if parquet is not None:
        parquet_from_lines(lines, parquet)
        if jsonl is None:
            lines.unlink()
    before = f", {found.before:,} of them before" if found.before else ""
    for file in (jsonl, parquet):
        if file is not None:
            notice(f"Predictions: {file} ({found.images:,} image{'s' if found.images != 1 else ''}{before})")
    if found.unreadable:
        notice(f"Not read: {found.unreadable} of {found.images} images; their lines say why.")
        raise typer.Exit(2)
