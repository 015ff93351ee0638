"""Options that several commands share, and the choices that they allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iresnet_export.errors import InputError
from iresnet_models.spec import FAMILIES, ModelSpec

if TYPE_CHECKING:
    import torch

    from iresnet_export.backends.onnxruntime_cuda import CudaSettings
    from iresnet_export.source import Source

NETWORK, OUTPUT = "Network and weights", "Output"

Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        help=f"Family: {', '.join(FAMILIES)}. Default: the checkpoint's, or iresnet.",
        rich_help_panel=NETWORK,
        show_default=False,
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth", help="Depth of the network. Default: the checkpoint's, or 50.", rich_help_panel=NETWORK, show_default=False
    ),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Weights: one of our, the official or torchvision's files.",
        rich_help_panel=NETWORK,
        show_default=False,
    ),
]
WeightsName = Annotated[
    str | None,
    typer.Option(
        "--weights", help="`official`: download the authors' ImageNet weights.", rich_help_panel=NETWORK, show_default=False
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", help="Fills untrained weights, where no checkpoint is given.", rich_help_panel=NETWORK, min=0)
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        help="Height and width of the input. Default: the checkpoint's, or 224.",
        rich_help_panel=NETWORK,
        show_default=False,
        min=1,
    ),
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        "--num-classes",
        help="Number of classes. Default: the checkpoint's, or 1000.",
        rich_help_panel=NETWORK,
        show_default=False,
        min=1,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="File to write. Default: artifacts/<arch><depth>.<format>.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a file of another origin.", rich_help_panel=OUTPUT)]
DynamicBatch = Annotated[
    bool, typer.Option("--dynamic-batch/--static-batch", help="Take any batch size, or --batch alone.", rich_help_panel=OUTPUT)
]
PrecisionName = Annotated[
    str,
    typer.Option(
        "--precision", help="fp32, fp16, bf16, int8, or fp8 for TensorRT; inputs and outputs stay float32.", rich_help_panel=OUTPUT
    ),
]
WithPreprocessing = Annotated[
    bool,
    typer.Option(
        "--with-preprocessing",
        help="Take uint8 pixels (batch, height, width, RGB), and give logits and probabilities.",
        rich_help_panel=OUTPUT,
    ),
]
CalibratorName = Annotated[
    str | None,
    typer.Option(
        "--calibrator",
        help="int8, fp8: minmax, percentile (99.999) or entropy (int8 alone). Default: percentile for int8, minmax for fp8.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
CalibrationImages = Annotated[
    int,
    typer.Option("--calibration-images", help="int8, fp8: how many images to measure ranges with.", rich_help_panel=OUTPUT, min=1),
]
Fold = Annotated[
    bool,
    typer.Option("--fold/--no-fold", help="Fold every BatchNorm away, exactly, and prove it.", rich_help_panel=OUTPUT),
]
CalibrationData = Annotated[
    str | None,
    typer.Option(
        "--calibration-data",
        help="`digits` or a folder with train/: images for quantized ranges and the fold's bounds. Default: the network's own.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option("--device", help="`cpu`, `cuda`, or `auto` for a GPU where there is one.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the full report to this file.", show_default=False)]
BackendNames = Annotated[
    list[str] | None,
    typer.Option("--backend", help="Run by this one alone; may be repeated. Default: all that are installed.", show_default=False),
]
OrtCuda = Annotated[
    str | None,
    typer.Option(
        "--ort-cuda",
        help="How ONNX Runtime computes on a GPU: tf32, nhwc, cuda-graph, search=heuristic, or several. Default: for parity.",
        show_default=False,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Load files that run native code (TorchScript, .pt2, engines) even if no manifest vouches for them."
    ),
]


def source_from_options(
    arch: str | None,
    depth: int | None,
    checkpoint: Path | None,
    weights: str | None,
    seed: int,
    image_size: int | None,
    num_classes: int | None,
) -> Source:
    """The network that the options name: from a checkpoint, from the official weights, or untrained."""
    from iresnet_export.source import source_from_checkpoint, untrained_source

    if weights not in (None, "official"):
        raise InputError(f"--weights takes `official`, not {weights!r}; a file of weights is given with --checkpoint.")
    if weights is not None and checkpoint is not None:
        raise InputError("--checkpoint and --weights official both name the weights; give one of them.")
    if weights is not None:
        from iresnet_models.official import download_official

        spec = ModelSpec(arch or "iresnet", depth or 50)
        checkpoint = download_official(spec.arch, spec.depth)
        arch, depth = spec.arch, spec.depth
    if checkpoint is not None:
        return source_from_checkpoint(checkpoint, arch=arch, depth=depth, num_classes=num_classes, image_size=image_size)
    spec = ModelSpec(arch or "iresnet", depth or 50, num_classes=num_classes or 1000)
    return untrained_source(spec if image_size is None else spec.with_image_size(image_size), seed)


def device_from_option(name: str) -> torch.device:
    """The device asked for; UnavailableError if it is not here."""
    import torch

    from iresnet_export.errors import UnavailableError

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device takes cpu, cuda or auto, not {name!r}.")
    if kind == "cuda" and not torch.cuda.is_available():
        from iresnet_export import nvidia

        missing = nvidia.absence()
        why = "torch finds none" if missing is None else missing.sentence
        raise UnavailableError(f"No NVIDIA GPU can be used here: {why}; or use --device cpu.")
    return torch.device(name)


def cuda_settings(text: str | None) -> CudaSettings | None:
    """What --ort-cuda says; None where it was not given."""
    from iresnet_export.backends.onnxruntime_cuda import CudaSettings

    return None if text is None else CudaSettings.parsed(text)


def integers(text: str, option: str) -> tuple[int, ...]:
    """`1,8,32` as numbers, each once, in order."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"{option} takes whole numbers of at least 1, separated by commas, such as 1,8,32; not {text!r}.")
    return numbers
