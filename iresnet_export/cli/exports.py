"""`torchscript` and `onnx`, and what every export says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from iresnet_export.cli.console import progress_bar, say, warn
from iresnet_export.cli.options import (
    OUTPUT,
    Arch,
    CalibrationData,
    CalibrationImages,
    CalibratorName,
    CheckpointFile,
    Depth,
    DynamicBatch,
    DynamicSize,
    Fold,
    Force,
    ImageSize,
    InterpolationName,
    KeepFloat,
    LabelsFile,
    MaxAccuracyDrop,
    Mean,
    MinSqnr,
    NumClasses,
    Output,
    OutputNames,
    PrecisionName,
    QuantizedPrecisionName,
    Resize,
    Seed,
    StaticBatch,
    Std,
    WeightsName,
    WhichWeights,
    WithPreprocessing,
    offering,
    output_names,
    source_from_options,
    spec_options,
)
from iresnet_export.errors import InputError

if TYPE_CHECKING:
    from iresnet_export.artifacts.artifact import Artifact
    from iresnet_export.artifacts.manifest import FormatName
    from iresnet_export.artifacts.source import Source
    from iresnet_export.backends.base import ExportOptions
    from iresnet_export.quantization.codes import Quantization

_UNTRAINED = (
    "no checkpoint was given, so the weights are untrained (seed {seed}): good for measuring latency, not for "
    "classifying. Give --checkpoint FILE or --weights official."
)

_BOUNDS_FROM_NOISE = (
    "some channels are folded by bounds on their activations, and these were measured over noise, not "
    "over images that "
    "the network was trained on. Give some with --calibration-data FOLDER (with train/), or leave BatchNorms in place with "
    "--no-fold."
)

_WIDE_DB = 2.0
"""Either way, of a prediction."""
_ENOUGH_IMAGES = 512

_PARENTS = {
    "engine": "the ONNX file that the engine is built from",
    "aotinductor": "the torch.export program that the package is compiled from",
}

Opset = Annotated[
    int | None,
    typer.Option(
        "--opset",
        help="ONNX operator set, 18 to 25. Default: 20; 22 for bf16.",
        rich_help_panel=OUTPUT,
        show_default=False,
        autocompletion=offering(*range(18, 26)),
    ),
]


def torchscript(
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
    precision: PrecisionName = "fp32",
    fold: Fold = True,
    with_preprocessing: WithPreprocessing = False,
    outputs: OutputNames = None,
    dynamic_size: DynamicSize = False,
    calibration_data: CalibrationData = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Export to TorchScript: traced, frozen, any batch size.

    torch itself has deprecated TorchScript; it still runs wherever LibTorch does.
    """
    from iresnet_export.backends.base import ExportOptions

    options = ExportOptions(
        precision=precision,
        fold=fold,
        with_preprocessing=with_preprocessing,
        outputs=output_names(outputs),
        dynamic_size=dynamic_size,
        calibration_data=calibration_data,
    )
    said = spec_options(image_size, resize, interpolation, mean, std, labels)
    source = source_from_options(arch, depth, checkpoint, weights, seed, num_classes, which, said)
    run_export("torchscript", source, options, output, force)


def onnx(
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
    opset: Opset = None,
    dynamic_batch: DynamicBatch = True,
    batch: StaticBatch = 1,
    precision: QuantizedPrecisionName = "fp32",
    target: Annotated[
        Literal["cpu", "tensorrt"],
        typer.Option("--target", help="int8: for `cpu` (U8S8) or `tensorrt` (S8S8); fp8: `tensorrt`.", rich_help_panel=OUTPUT),
    ] = "cpu",
    fold: Fold = True,
    with_preprocessing: WithPreprocessing = False,
    outputs: OutputNames = None,
    dynamic_size: DynamicSize = False,
    calibration_data: CalibrationData = None,
    calibrator: CalibratorName = "auto",
    calibration_images: CalibrationImages = 512,
    keep_float: KeepFloat = None,
    min_sqnr: MinSqnr = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Export to ONNX: one node for each operation of the network, named as the network names it."""
    from iresnet_export.backends.onnx.format import OnnxOptions

    require_used_batch(dynamic_batch, batch)
    if precision not in ("int8", "fp8") and (calibrator != "auto" or target != "cpu" or calibration_images != 512):
        raise InputError(
            f"--calibrator, --calibration-images and --target are for codes, and {precision} has none;",
            "leave them out, or add --precision int8.",
        )
    options = OnnxOptions(
        precision=precision,
        fold=fold,
        with_preprocessing=with_preprocessing,
        outputs=output_names(outputs),
        dynamic_size=dynamic_size,
        target=target,
        calibrator=calibrator,
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        keep_float=tuple(keep_float or ()),
        min_sqnr=min_sqnr,
        max_accuracy_drop=max_accuracy_drop,
        dynamic_batch=dynamic_batch,
        batch=batch,
        max_batch=max(batch, 32),
        opset=opset,
    )
    said = spec_options(image_size, resize, interpolation, mean, std, labels)
    source = source_from_options(arch, depth, checkpoint, weights, seed, num_classes, which, said)
    run_export("onnx", source, options, output, force)


def require_used_batch(dynamic_batch: bool, batch: int) -> None:
    """InputError for a batch size that would decide nothing."""
    if dynamic_batch and batch != 1:
        raise InputError("--batch is the size of a static batch;", "add --static-batch, or leave it out: any size is taken then.")


def run_export(format: FormatName, source: Source, options: ExportOptions, output: Path | None, force: bool) -> Artifact:
    """Exports, and says what was made and what of it the user should know."""
    from iresnet_export.exporting import export_artifact
    from iresnet_export.graph.precision import in_words

    if source.checkpoint is None:
        warn(_UNTRAINED.format(seed=source.weights.seed))
    for name, words in (source.layout.in_words if source.layout is not None else {}).items():
        if name != "layout":
            say(f"{name.capitalize()}: {words}.")
    with progress_bar() as progress:
        artifact = export_artifact(format, source, options, output=output, force=force, progress=progress)
    manifest = artifact.manifest
    assert manifest is not None
    batch = "any batch size" if manifest.batch is None else f"batch {manifest.batch[0]} to {manifest.batch[1]}"
    if manifest.batch is not None and manifest.batch[0] == manifest.batch[1]:
        batch = f"batch {manifest.batch[0]}"
    if manifest.parent is not None:
        say(f"{artifact.path.parent / manifest.parent.file}: {_PARENTS[manifest.format]}.")
    if (fold := manifest.details.fold) is not None:
        ratio, images = fold.proof.error_ratio, fold.proof.image_source
        left = fold.kept or "no BatchNorm is left"
        say(f"Folded: {left}. Over {images} its error is {ratio:.2f} times the unfolded network's own.")
        if source.checkpoint is not None and not fold.exact_everywhere and images.endswith("noise"):
            warn(_BOUNDS_FROM_NOISE)
    if (about := manifest.details.quantization) is not None:
        _say_quantized(about)
    if shares := manifest.details.multiply_accumulates:
        say(f"Multiply-accumulates: {in_words(shares)}.")
    if manifest.sides is not None:
        calibrated = "" if manifest.details.quantization is None else "; ranges were measured at the usual size"
        say(f"Images of {manifest.sides[0]} to {manifest.sides[1]} pixels a side{calibrated}.")
    if len(manifest.outputs) > 1:
        say(f"Outputs: {', '.join(manifest.outputs)}.")
    say(
        f"{artifact.path}: {source.spec.name}, {manifest.size_bytes / 1e6:.1f} MB, {manifest.precision}, {batch}; "
        "weights read back."
    )
    return artifact


def _say_quantized(about: Quantization) -> None:
    for name, words in about.in_words().items():
        say(f"{name.capitalize()}: {words}.")
    if about.predicted_interval_db > _WIDE_DB and about.images < _ENOUGH_IMAGES and not about.image_source.endswith("noise"):
        enough = min(_ENOUGH_IMAGES, math.ceil(about.images * (about.predicted_interval_db / _WIDE_DB) ** 2))
        warn(
            f"So few images ({about.compared}) predict little: others may give {about.predicted_interval_db:.1f} dB more or less. "
            f"Give some {enough} to calibrate with (--calibration-data, --calibration-images) for {_WIDE_DB:g} dB."
        )
