"""`trt`: TensorRT engines."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from iresnet_export.backends.tensorrt.plan import engine_details
from iresnet_export.cli.console import notice, say
from iresnet_export.cli.exports import Opset, run_export
from iresnet_export.cli.options import (
    MOST_BATCH,
    OUTPUT,
    Arch,
    CalibrationData,
    CalibrationImages,
    CalibratorName,
    CheckpointFile,
    Depth,
    DynamicBatch,
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
    QuantizedPrecisionName,
    Resize,
    Seed,
    Std,
    WeightsName,
    WhichWeights,
    WithPreprocessing,
    output_names,
    source_from_options,
    spec_options,
)
from iresnet_export.errors import InputError

BUILDER = "Building the engine"

Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile",
        metavar="MIN,OPT,MAX",
        help="Batch sizes to take and the one to optimise for; may be repeated. Default: 1,BATCH,MAX-BATCH.",
        rich_help_panel=BUILDER,
        show_default=False,
    ),
]
Workspace = Annotated[
    int | None,
    typer.Option(
        "--workspace",
        metavar="MIB",
        help="Most scratch memory of a layer.",
        rich_help_panel=BUILDER,
        show_default=False,
        min=1,
        max=2**24,
    ),
]
BuilderLevel = Annotated[
    int | None,
    typer.Option(
        "--builder-level",
        help="0 (builds fastest) to 5 (runs fastest); TensorRT alone. Default: its own, 3.",
        rich_help_panel=BUILDER,
        show_default=False,
        min=0,
        max=5,
    ),
]
HardwareCompatibility = Annotated[
    Literal["none", "ampere-plus", "same-compute-capability"],
    typer.Option(
        "--hardware-compatibility",
        help="Other GPUs that may run it; TensorRT alone.",
        rich_help_panel=BUILDER,
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible", help="Runs with later TensorRTs of the same major version; TensorRT alone.", rich_help_panel=BUILDER
    ),
]
Sparse = Annotated[
    bool, typer.Option("--sparse", help="Use kernels for weights that are 2:4 sparse; TensorRT alone.", rich_help_panel=BUILDER)
]
TimingCache = Annotated[
    bool,
    typer.Option(
        "--timing-cache/--no-timing-cache",
        help="Keep what the builder measured on this GPU for the next engine; TensorRT alone.",
        rich_help_panel=BUILDER,
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show all that TensorRT says.", rich_help_panel=BUILDER)]


def trt(
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
    flavour: Annotated[
        Literal["tensorrt", "tensorrt_rtx"] | None,
        typer.Option(
            "--flavour",
            help="`tensorrt` or `tensorrt_rtx`. Default: tensorrt where it and a GPU are here, else tensorrt_rtx.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            "--compute-capability",
            help="GPUs to build for, such as 8.6; may be repeated (TensorRT-RTX alone). Default: RTX GPUs from Ampere on, for fp8 "
            "from Ada on.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    profile: Profiles = None,
    workspace: Workspace = None,
    builder_level: BuilderLevel = None,
    hardware_compatibility: HardwareCompatibility = "none",
    version_compatible: VersionCompatible = False,
    sparse: Sparse = False,
    timing_cache: TimingCache = True,
    verbose: Verbose = False,
    opset: Opset = None,
    dynamic_batch: DynamicBatch = True,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            help="The batch size to optimise for, or that of --static-batch. Default: 1.",
            rich_help_panel=OUTPUT,
            min=1,
            max=MOST_BATCH,
            show_default=False,
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            "--max-batch",
            help="The largest dynamic batch. Default: 32.",
            rich_help_panel=OUTPUT,
            min=1,
            max=MOST_BATCH,
            show_default=False,
        ),
    ] = None,
    precision: QuantizedPrecisionName = "fp32",
    fold: Fold = True,
    with_preprocessing: WithPreprocessing = False,
    outputs: OutputNames = None,
    calibration_data: CalibrationData = None,
    calibrator: CalibratorName = "auto",
    calibration_images: CalibrationImages = 512,
    keep_float: KeepFloat = None,
    min_sqnr: MinSqnr = None,
    max_accuracy_drop: MaxAccuracyDrop = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Build a TensorRT engine; the ONNX file that it is built from is kept beside it.

    The engine is a raw plan, which trtexec and every TensorRT runtime of the same version read.
    """
    from iresnet_export.backends.tensorrt.builder import require_options
    from iresnet_export.backends.tensorrt.flavours import flavour_for_building
    from iresnet_export.backends.tensorrt.options import BuildOptions, EngineOptions

    if profile and (batch or max_batch):
        raise InputError("--profile says which batches an engine takes:", "leave out --batch and --max-batch.")
    options = EngineOptions(
        precision=precision,
        fold=fold,
        with_preprocessing=with_preprocessing,
        outputs=output_names(outputs),
        target="tensorrt",
        calibrator=calibrator,
        calibration_data=calibration_data,
        calibration_images=calibration_images,
        keep_float=tuple(keep_float or ()),
        min_sqnr=min_sqnr,
        max_accuracy_drop=max_accuracy_drop,
        dynamic_batch=dynamic_batch,
        batch=batch or 1,
        max_batch=max_batch or 32,
        opset=opset,
        flavour=flavour,
        compute_capabilities=tuple(compute_capability or ()),
        build=BuildOptions(
            profiles=tuple(batches(text, "--profile") for text in profile or ()),
            workspace_mib=workspace,
            builder_level=builder_level,
            hardware_compatibility=hardware_compatibility,
            version_compatible=version_compatible,
            sparse=sparse,
            timing_cache=timing_cache,
        ),
    )
    tensorrt = flavour_for_building(flavour)  # says what is missing before any work is done
    require_options(tensorrt, options)
    said = spec_options(image_size, resize, interpolation, mean, std, labels)
    source = source_from_options(arch, depth, checkpoint, weights, seed, num_classes, which, said)
    with tensorrt.listening(_said if verbose else None):
        artifact = run_export("engine", source, options, output, force)
    details = engine_details(artifact)
    say(f"Built by {details.flavour} {details.builder_version} for {details.gpus}.")


def batches(text: str, option: str) -> tuple[int, int, int]:
    """`1,8,32` as three numbers, in the order in which they stand; a profile may hold one of them twice."""
    try:
        smallest, best, largest = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option} takes MIN,OPT,MAX, three whole numbers such as 1,8,32; not {text!r}.") from error
    if largest > MOST_BATCH:
        raise InputError(f"{option} takes batches up to {MOST_BATCH:,}, not {largest:,}.")
    return smallest, best, largest


def _said(severity: str, message: str) -> None:
    notice(f"TensorRT, {severity}: {message}")
