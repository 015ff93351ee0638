"""`verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iresnet_export.cli.console import notice, progress_bar, say, show, write_output, write_report
from iresnet_export.cli.options import (
    MOST_BATCH,
    MOST_IMAGES,
    BackendNames,
    Device,
    ImageSize,
    InterpolationName,
    JsonFile,
    LabelsFile,
    Mean,
    OrtCuda,
    Resize,
    Std,
    Trust,
    WhichOfFile,
    device_from_option,
    digits_or_folder,
    finite,
    integers,
    runtimes_from_options,
    spec_options,
)


def verify(
    artifacts: Annotated[list[Path], typer.Argument(help="Artifacts: .ts, .pt2, .onnx, .engine.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="What they should be, where their manifest does not lead to it.", show_default=False),
    ] = None,
    which: WhichOfFile = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="`digits` or a folder of images. Default: the network's own data set, or seeded noise.",
            show_default=False,
            autocompletion=digits_or_folder,
        ),
    ] = None,
    images: Annotated[int, typer.Option("--images", help="How many images; at least 32.", max=MOST_IMAGES)] = 64,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes to run at.")] = "1,7,32",
    device: Device = "cpu",
    localise: Annotated[
        bool, typer.Option("--localise", help="Compare block by block even if nothing fails, and show the table.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Rebuild the files and compare them, and no outputs: some seconds each.")
    ] = False,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            help="Measure again, from its data, what an export measured: calibration, the fold's proof, steps of mixed precision.",
        ),
    ] = False,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            "--max-accuracy-drop",
            metavar="POINTS",
            help="Fail unless the accuracy is shown, at 95 %, to drop by no more than this; needs labelled images.",
            show_default=False,
            min=0,
            max=100,
            callback=finite,
        ),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Compute references anew, and keep none.")] = False,
    backend: BackendNames = None,
    ort_cuda: OrtCuda = None,
    trust: Trust = False,
    image_size: ImageSize = None,
    resize: Resize = None,
    interpolation: InterpolationName = None,
    mean: Mean = None,
    std: Std = None,
    labels: LabelsFile = None,
    json: JsonFile = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", help="Write a summary for a pull request to this file.", show_default=False),
    ] = None,
) -> None:
    """Prove that artifacts are the network that was trained.

    Every file is rebuilt from its checkpoint and manifest, and compared whole. Outputs are compared with the float64 network,
    in units of the network's own float32 rounding error. Exit status: 0 if at least one passes and none fails, 1 if one fails,
    3 if nothing could be verified.
    """
    from iresnet_export.reporting.documents import verify_report
    from iresnet_export.reporting.markdown import verify_markdown
    from iresnet_export.reporting.remarks import references_in_words, verify_remarks
    from iresnet_export.reporting.tables import further_tables, localisation_table, sizes_tables, verify_table
    from iresnet_export.verification.verify import VerifyOptions
    from iresnet_export.verification.verify import verify as verify_artifacts

    options = VerifyOptions(
        checkpoint,
        data,
        images,
        integers(batch, "--batch", MOST_BATCH),
        device_from_option(device),
        trust,
        backends=runtimes_from_options(backend, ort_cuda),
        localise=localise,
        max_accuracy_drop=max_accuracy_drop,
        quick=quick,
        from_scratch=from_scratch,
        cache=not no_cache,
        which=which,
        said=spec_options(image_size, resize, interpolation, mean, std, labels),
    )
    with progress_bar() as progress:
        verification = verify_artifacts(artifacts, options, progress)
    report = verify_report(verification, options)
    for line in references_in_words(report):
        say(f"Reference: {line}.")
    show(verify_table(report.candidates))
    for made in (*further_tables(report.candidates), *sizes_tables(report.candidates)):
        show(made)
    for candidate in report.candidates if localise else ():
        if candidate.localisation is not None:
            show(localisation_table(candidate))
    for line in verify_remarks(report.candidates):
        say(line)
    write_report(json, report)
    if markdown is not None:
        write_output(markdown, verify_markdown(report), "Summary")
    if verification.exit_status == 3:
        notice("Nothing could be verified here; see the reasons above.")
    raise typer.Exit(verification.exit_status)
