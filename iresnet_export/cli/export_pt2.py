"""`pt2`: torch.export programs, and AOTInductor packages compiled from them."""

from __future__ import annotations

from typing import Annotated

import typer

from iresnet_export.cli.console import say
from iresnet_export.cli.exports import require_used_batch, run_export
from iresnet_export.cli.options import (
    OUTPUT,
    Arch,
    CalibrationData,
    CheckpointFile,
    Depth,
    DynamicBatch,
    DynamicSize,
    Fold,
    Force,
    ImageSize,
    InterpolationName,
    LabelsFile,
    Mean,
    NumClasses,
    Output,
    OutputNames,
    PrecisionName,
    Resize,
    Seed,
    StaticBatch,
    Std,
    WeightsName,
    WhichWeights,
    WithPreprocessing,
    device_from_option,
    offering,
    output_names,
    source_from_options,
    spec_options,
)
from iresnet_export.errors import InputError


def pt2(
    arch: Arch = None,
    depth: Depth = None,
    checkpoint: CheckpointFile = None,
    which: WhichWeights = None,
    weights: WeightsName = None,
    seed: Seed = 0,
    num_classes: NumClasses = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    interpolation: InterpolationName = None,
    mean: Mean = None,
    std: Std = None,
    labels: LabelsFile = None,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile it to a shared library by AOTInductor (.aoti.pt2).", rich_help_panel=OUTPUT),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="--compile: for `cpu`, or for the GPU at hand, `cuda`.",
            rich_help_panel=OUTPUT,
            autocompletion=offering("cpu", "cuda"),
        ),
    ] = "cpu",
    dynamic_batch: DynamicBatch = True,
    batch: StaticBatch = 1,
    precision: PrecisionName = "fp32",
    fold: Fold = True,
    with_preprocessing: WithPreprocessing = False,
    outputs: OutputNames = None,
    dynamic_size: DynamicSize = False,
    calibration_data: CalibrationData = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Export to a torch.export program, and with --compile to native code for processors, or GPUs, like this one.

    --compile needs a C++ compiler; the program that the package is compiled from is kept beside it. A package runs with the same
    version of torch on the same kind of processor, one for a GPU on GPUs of the same compute capability.
    """
    from iresnet_export.backends.aotinductor.package import Package, PackageOptions

    if device != "cpu" and not compile:
        raise InputError("--device says what --compile compiles for, and a program runs on any device;", "add --compile.")
    require_used_batch(dynamic_batch, batch)
    options = PackageOptions(
        precision=precision,
        fold=fold,
        with_preprocessing=with_preprocessing,
        outputs=output_names(outputs),
        dynamic_size=dynamic_size,
        calibration_data=calibration_data,
        dynamic_batch=dynamic_batch,
        batch=batch,
        max_batch=max(batch, 32),
        device=str(device_from_option(device)),
    )
    if compile:
        Package().settings(options)  # says what is missing before any work is done
    said = spec_options(image_size, resize, interpolation, mean, std, labels)
    source = source_from_options(arch, depth, checkpoint, weights, seed, num_classes, which, said)
    artifact = run_export("aotinductor" if compile else "pt2", source, options, output, force)
    if compile:
        from iresnet_export.backends.aotinductor.target import package_details, target_in_words

        details = package_details(artifact)
        say(f"Compiled by {details.compiler} for torch {details.torch} and {target_in_words(details)}.")
