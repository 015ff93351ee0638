"""Options that several commands share, and the choices that they allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from iresnet_export.errors import InputError
from iresnet_models.spec import BLOCKS, FAMILIES, Interpolation, ModelSpec, Sides, SpecOptions, Which

if TYPE_CHECKING:
    import torch

    from iresnet_export.artifacts.source import Source

NETWORK, IMAGES, OUTPUT = "Network and weights", "Images and classes", "Output"

MOST_SEED = 2**63 - 1
"""What every generator of random numbers here takes."""
MOST_PIXELS, MOST_CLASSES, MOST_BATCH, MOST_IMAGES = 4096, 1_000_000, 65_536, 10_000_000
MOST_THREADS, MOST_SECONDS, MOST_REPEATS, MOST_RATE, MOST_MISTAKES = 1024, 86_400.0, 10_000, 1e6, 1000
"""More than anybody needs; beyond, a number is a slip, and is told before it takes memory or time."""

FloatingPrecision = Literal["fp32", "fp16", "bf16"]
OnnxPrecision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
ArchName = Literal["resnet", "resstage", "iresnet", "resgroup", "resgroupfix", "iresgroup", "iresgroupfix"]
"""Written out, as `typer` needs them: a test holds them against what there is."""


def offering(*values: object) -> Callable[[str], list[str]]:
    """Completes an option that takes more than these: numbers, devices with an index, several separated by commas."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{value}" for value in map(str, values) if value.startswith(last)]

    return complete


def digits_or_folder(incomplete: str) -> list[str]:
    """`digits`, and the folders that are there."""
    start = Path(incomplete)
    parent = start if incomplete.endswith("/") else start.parent
    try:
        folders = [f"{path}/" for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        folders = []
    return [value for value in ("digits", *folders) if value.startswith(incomplete)]


def backends(incomplete: str) -> list[str]:
    """All that there are; a backend is imported only when it is used."""
    from iresnet_export.backends.registry import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def finite(value: float | None) -> float | None:
    """NaN passes every bound, since it is neither below nor above it."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no number to go by; give a finite one.")
    return value


Arch = Annotated[
    ArchName | None,
    typer.Option(
        "--arch",
        metavar="FAMILY",
        help=f"{', '.join(FAMILIES)}. Default: the checkpoint's, or iresnet.",
        rich_help_panel=NETWORK,
        show_default=False,
    ),
]
Depth = Annotated[
    int | None,
    typer.Option(
        "--depth",
        help=f"Depth of the network: {', '.join(map(str, BLOCKS))}. Default: the checkpoint's, or 50.",
        rich_help_panel=NETWORK,
        show_default=False,
        autocompletion=offering(*BLOCKS),
    ),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Weights: one of our, the official, torchvision's or timm's files, .safetensors too.",
        rich_help_panel=NETWORK,
        show_default=False,
    ),
]
_WHICH = "Of a checkpoint's weights: their average over training, or the raw ones. Default: the average where there is one."
WhichWeights = Annotated[Which | None, typer.Option("--which", help=_WHICH, rich_help_panel=NETWORK, show_default=False)]
WhichOfFile = Annotated[Which | None, typer.Option("--which", help=_WHICH, show_default=False)]
WeightsName = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME",
        help="Published weights: torchvision:resnet50.IMAGENET1K_V2, timm:resnet50.a1_in1k, or `official`, the authors' own.",
        rich_help_panel=NETWORK,
        show_default=False,
        autocompletion=offering("official", "official:iresnet50", "torchvision:resnet50", "timm:resnet50"),
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="SEED",
        help="Fills untrained weights, where no checkpoint is given.",
        rich_help_panel=NETWORK,
        min=0,
        max=MOST_SEED,
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="N|HxW",
        help="Height and width of the input, cropped from the middle: 224, or 224x320. Default: the checkpoint's, or 224.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        "--resize",
        help="What the shorter side is resized to before the crop. Default: the checkpoint's, or 256.",
        rich_help_panel=IMAGES,
        show_default=False,
        min=1,
        max=MOST_PIXELS,
    ),
]
InterpolationName = Annotated[
    Interpolation | None,
    typer.Option(
        "--interpolation",
        help="How it is resized. Default: the checkpoint's, or bilinear.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="R,G,B",
        help="Of pixels from 0 to 1, subtracted. Default: the checkpoint's, or ImageNet's.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="R,G,B",
        help="What they are divided by then. Default: the checkpoint's, or ImageNet's.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="Names of the classes: a line each, or a JSON list. Default: the checkpoint's.",
        rich_help_panel=IMAGES,
        show_default=False,
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
        max=MOST_CLASSES,
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
    FloatingPrecision,
    typer.Option("--precision", help="Of weights and activations; in- and outputs stay float32.", rich_help_panel=OUTPUT),
]
QuantizedPrecisionName = Annotated[
    OnnxPrecision,
    typer.Option(
        "--precision", help="Of weights and activations; in- and outputs stay float32. fp8 is for TensorRT.", rich_help_panel=OUTPUT
    ),
]
StaticBatch = Annotated[
    int, typer.Option("--batch", help="The batch size of --static-batch.", rich_help_panel=OUTPUT, min=1, max=MOST_BATCH)
]
WithPreprocessing = Annotated[
    bool,
    typer.Option(
        "--with-preprocessing",
        help="Take uint8 pixels (batch, height, width, RGB), and give logits and probabilities.",
        rich_help_panel=OUTPUT,
    ),
]
DynamicSize = Annotated[
    bool,
    typer.Option(
        "--dynamic-size",
        help="Leave height and width of images free, from 32 pixels to twice the network's size; verified at three sizes.",
        rich_help_panel=OUTPUT,
    ),
]
OutputNames = Annotated[
    str | None,
    typer.Option(
        "--outputs",
        metavar="NAMES",
        help="What the file gives, with commas: logits (always first), probabilities, embedding, layer1 to layer4. Default: "
        "logits; for pixels probabilities too.",
        rich_help_panel=OUTPUT,
        show_default=False,
        autocompletion=offering("logits,probabilities", "logits,embedding", "logits,layer1,layer2,layer3,layer4"),
    ),
]
CalibratorName = Annotated[
    Literal["auto", "minmax", "percentile", "entropy"],
    typer.Option(
        "--calibrator",
        help="int8, fp8: how ranges are found; auto tries all, and keeps what measures best on held-out images. percentile is the "
        "99.999th, entropy for int8 alone.",
        rich_help_panel=OUTPUT,
    ),
]
CalibrationImages = Annotated[
    int,
    typer.Option(
        "--calibration-images",
        help="int8, fp8: how many images to calibrate with; up to a quarter is held out, for choices and the prediction.",
        rich_help_panel=OUTPUT,
        min=1,
        max=MOST_IMAGES,
    ),
]
KeepFloat = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-float",
        metavar="PLACE",
        help="int8, fp8: a place that stays in float32: stem, layer1, layer1.0, classifier. May be repeated.",
        rich_help_panel=OUTPUT,
        show_default=False,
        autocompletion=offering("stem", "layer1", "layer2", "layer3", "layer4", "classifier"),
    ),
]
MinSqnr = Annotated[
    float | None,
    typer.Option(
        "--min-sqnr",
        metavar="DB",
        help="int8, fp8: keep the places that cost most in float32, until this signal to noise is predicted.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
MaxAccuracyDrop = Annotated[
    float | None,
    typer.Option(
        "--max-accuracy-drop",
        metavar="POINTS",
        help="int8, fp8: the same, until labelled held-out images show, at 95 %, that top-1 accuracy drops by no more.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
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
        autocompletion=digits_or_folder,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="`cpu`, `cuda`, or `auto` for a GPU where there is one.", autocompletion=offering("auto", "cpu", "cuda")
    ),
]
NetworkFile = Annotated[
    Path | None, typer.Option("--checkpoint", help="The network of artifacts that have no manifest.", show_default=False)
]
AtATime = Annotated[int, typer.Option("--batch-size", help="Images run at a time.", min=1, max=MOST_BATCH)]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the full report to this file.", show_default=False)]
BackendNames = Annotated[
    list[str] | None,
    typer.Option(
        "--backend",
        help="Run by this one alone; may be repeated. Default: all that are installed.",
        show_default=False,
        autocompletion=backends,
    ),
]
OrtCuda = Annotated[
    str | None,
    typer.Option(
        "--ort-cuda",
        help="How ONNX Runtime computes on a GPU: tf32, nhwc, cuda-graph, search=heuristic, or several. Default: for parity.",
        show_default=False,
        autocompletion=offering("tf32", "nhwc", "cuda-graph", "search=heuristic"),
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Load files that run native code (TorchScript, .pt2, engines) even if no manifest vouches for them."
    ),
]


def output_names(given: str | None) -> tuple[str, ...]:
    """The names of an option; InputError for ones that cannot be."""
    from iresnet_models.outputs import named_outputs

    return () if given is None else named_outputs([name.strip() for name in given.split(",")])


def spec_options(
    image_size: str | None,
    resize: int | None,
    interpolation: Interpolation | None,
    mean: str | None,
    std: str | None,
    labels: Path | None,
) -> SpecOptions:
    """What the options say of images and classes; InputError for what they cannot be."""
    return SpecOptions(
        image_size=None if image_size is None else _sides(image_size),
        resize=resize,
        interpolation=interpolation,
        mean=_channels(mean, "--mean"),
        std=_channels(std, "--std"),
        labels=None if labels is None else labels_from(labels),
    )


def _sides(text: str) -> Sides:
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdigit() and len(number) < 6 for number in numbers):
        raise InputError(f"--image-size takes a side in pixels, or height and width: 224 or 224x320; not {text[:80]!r}.")
    sides = [int(number) for number in numbers]
    if not all(1 <= side <= MOST_PIXELS for side in sides):
        raise InputError(f"--image-size takes from 1 to {MOST_PIXELS} pixels, not {text[:80]}.")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def _channels(text: str | None, option: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise InputError(f"{option} takes three numbers, such as 0.485,0.456,0.406; not {text[:80]!r}.") from None
    return red, green, blue


def labels_from(path: Path) -> tuple[str, ...]:
    """The names of classes that a file lists: a line each, or a JSON list of texts."""
    from iresnet_models.files import require_file
    from iresnet_models.typed import json_from

    require_file(path, "The file of labels")
    try:
        if path.stat().st_size > _MOST_LABELS:
            raise ValueError(f"it is larger than {_MOST_LABELS:,} bytes")
        text = path.read_text(encoding="utf-8-sig")
        found = json_from(text) if text.lstrip().startswith("[") else [line.strip() for line in text.rstrip().splitlines()]
        if not found or not all(isinstance(label, str) and label for label in found):
            raise ValueError("a name is empty, or no text")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} lists no labels, a line each in UTF-8 or as a JSON list of texts: {error}.") from error
    return tuple(found)


_MOST_LABELS = 4 << 20
"""Bytes of a file: as many as an artifact may say of itself."""


def source_from_options(
    arch: str | None,
    depth: int | None,
    checkpoint: Path | None,
    weights: str | None,
    seed: int,
    num_classes: int | None,
    which: Which | None,
    said: SpecOptions,
) -> Source:
    """The network that the options name: from a checkpoint, from published weights, or untrained."""
    from iresnet_export.artifacts.source import source_from_checkpoint, untrained_source

    if weights is not None and checkpoint is not None:
        raise InputError("--checkpoint and --weights both name the weights;", "give one of them.")
    if weights is not None and weights != "official" and ":" not in weights:
        raise InputError(
            f"--weights takes `official`, or a name such as torchvision:resnet50.IMAGENET1K_V2, not {weights[:80]!r};",
            "a file of weights is given with --checkpoint.",
        )
    if weights is not None:
        from iresnet_models.pretrained import pretrained_checkpoint

        checkpoint = pretrained_checkpoint(f"official:{arch or 'iresnet'}{depth or 50}" if weights == "official" else weights)
    if checkpoint is not None:
        return source_from_checkpoint(checkpoint, arch=arch, depth=depth, num_classes=num_classes, which=which, said=said)
    if which is not None:
        raise InputError("--which says which of a checkpoint's weights to take;", "add --checkpoint, or leave it out.")
    return untrained_source(ModelSpec(arch or "iresnet", depth or 50, num_classes=num_classes or 1000), seed, said)


def device_from_option(name: str) -> torch.device:
    """The device asked for; UnavailableError if it is not here."""
    from iresnet_export.system.devices import device_named

    return device_named(name)


def runtimes_from_options(backends: list[str] | None, ort_cuda: str | None) -> tuple[str, ...]:
    """The runtimes that `--backend` names, ONNX Runtime with what `--ort-cuda` says; none for all that are installed."""
    if ort_cuda is None:
        return tuple(backends or ())
    from iresnet_export.backends.onnxruntime.cuda import CudaSettings
    from iresnet_export.backends.registry import names_unasked

    settings = CudaSettings.parsed(ort_cuda).words
    names = backends or names_unasked()
    if "onnxruntime" not in names:
        raise InputError("--ort-cuda is for ONNX files by ONNX Runtime, and nothing here is run so;", "leave it out.")
    return tuple(f"{name}[{settings}]" if settings and name == "onnxruntime" else name for name in names)


def integers(text: str, option: str, most: int | None = None) -> tuple[int, ...]:
    """`1,8,32` as numbers, each once, in order; InputError for one that is below 1 or above `most`."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"{option} takes whole numbers of at least 1, separated by commas, such as 1,8,32; not {text!r}.")
    if most is not None and max(numbers) > most:
        raise InputError(f"{option} takes numbers up to {most:,}, not {max(numbers):,}.")
    return numbers
