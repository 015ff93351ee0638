"""What a network is, as data: its family, depth, classes and preprocessing. Needs no torch.

The tables are those of the paper (Duta, Liu, Zhu, Shao, "Improved Residual Networks for Image and Video
Recognition", arXiv 2004.04989) and of its authors' public implementation.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args

from iresnet_models.errors import InputError
from iresnet_models.typed import shortly, typed

Shortcut = Literal["conv", "pool"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Sides = int | tuple[int, int]
"""Of a square image its side, of any other its height and width, in pixels."""
Which = Literal["average", "raw"]
"""Of a checkpoint's weights: their average over training, or those of the last step."""

MOST_CLASSES = 100_000
LARGEST_IMAGE = 2048
"""Pixels of a side. A spec may come from a file, and memory follows from it: it is bounded before any is taken."""

_SMALLEST_SIDE = 32
"""Five times halved it is one pixel."""
_LARGEST_RESIZE = 4096
_LONGEST_LABEL = 1000
MOST_SYNTHETIC = 20_000_000
"""Images: more than ImageNet-21k has, and an epoch's order of them still fits into memory."""
_FURTHEST_MEAN, _STD_LIMITS = 1e6, (1e-6, 1e6)


@dataclass(frozen=True)
class Family:
    """A row of the paper's table of networks.

    `resstage`: blocks are laid out as start, middle and end blocks (paper, section 3.1). `shortcut`: how a
    stage's first block brings its input to the new size (section 3.2). `groups`: groups of the 3x3
    convolution in each stage, as fractions of the network's `groups` (section 3.3); None where it is dense.
    """

    resstage: bool
    shortcut: Shortcut
    group_divisors: tuple[int, int, int, int] | None
    depths: tuple[int, ...]


_PLAIN_DEPTHS = (18, 34, 50, 101, 152, 200)
_GROUP_DEPTHS = (50, 101, 152)
_GROWING, _FIXED = (8, 4, 2, 1), (1, 1, 1, 1)

FAMILIES: dict[str, Family] = {
    "resnet": Family(False, "conv", None, _PLAIN_DEPTHS),
    "resstage": Family(True, "conv", None, _PLAIN_DEPTHS),
    "iresnet": Family(True, "pool", None, (*_PLAIN_DEPTHS, 302, 404, 1001)),
    "resgroup": Family(False, "conv", _GROWING, _GROUP_DEPTHS),
    "resgroupfix": Family(False, "conv", _FIXED, _GROUP_DEPTHS),
    "iresgroup": Family(True, "pool", _GROWING, _GROUP_DEPTHS),
    "iresgroupfix": Family(True, "pool", _FIXED, _GROUP_DEPTHS),
}

BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    302: (4, 34, 58, 4),
    404: (4, 46, 80, 4),
    1001: (4, 155, 170, 4),
}
"""Blocks in each of the four stages, by depth; basic blocks below 50, bottlenecks from there on."""

DEFAULT_GROUPS = 64

IMAGENET_TOP1: dict[tuple[str, int], float] = {
    ("resnet", 50): 76.12,
    ("resnet", 101): 78.00,
    ("resnet", 152): 78.45,
    ("resnet", 200): 77.55,
    ("iresnet", 50): 77.31,
    ("iresnet", 101): 78.64,
    ("iresnet", 152): 79.34,
    ("iresnet", 200): 79.48,
}
"""Top-1 accuracy on ImageNet in percent, as the authors published it."""

OFFICIAL_WEIGHTS: dict[tuple[str, int], str] = {
    ("resnet", 50): "1yqp8Z6qp03ZKToACTJHLtynDBUToRLrU",
    ("resnet", 101): "13_OnBf7qJnFFBMrDZXdox7kmhMmxCXAG",
    ("resnet", 152): "1BsYmoAVJxumH4yWKH-DcJ_YDk__3ArQT",
    ("resnet", 200): "1n4turCIswvNdWoRq2imZn1Ump-2giwKa",
    ("resstage", 50): "1r2GvTm50xF6euU4Z6A_MYoMkiKbYRO3a",
    ("resstage", 101): "16qGLSElXet4ByQfG3a-zO9fNxGofRsLt",
    ("resstage", 152): "1m798qbvw8g-rW4aORIV9JY8c1JGzoVCI",
    ("resstage", 200): "16ZYVIkMfycnSjof4BzP312Gk3XNw1xwg",
    ("iresnet", 50): "1Waw3ob8KPXCY9iCLdAD6RUA0nvVguc6K",
    ("iresnet", 101): "1cZ4XhwZfUOm_o0WZvenknHIqgeqkY34y",
    ("iresnet", 152): "10heFLYX7VNlaSrDy4SZbdOOV9xwzwyli",
    ("iresnet", 200): "1Ao-f--jNU7MYPqSW8UMonXVrq3mkLRpW",
    ("iresnet", 302): "1UcyvLhLzORJZBUQDNJdsx3USCloXZT6V",
    ("iresnet", 404): "1hEOHErsD6AF1b3qQi56mgxvYDneTvMIq",
    ("resgroup", 50): "1iKdFnKcQoGdqfCpRPkTzQcyzdZV8Ur-3",
    ("resgroup", 101): "1eYhQxYGydTgzS9d_Ks4bvviM-g6lzXdb",
    ("resgroup", 152): "18wlEo9igKvS73W76_5L2fzm1Gr7Rygpt",
    ("resgroupfix", 50): "1O9-pGasclSTY8jVB_ez1ANv-DTZ8Sgo9",
    ("resgroupfix", 101): "1oqTfG-zpiHr7hKYuxMbE2v10nF2zNSxO",
    ("resgroupfix", 152): "1-TveOWnOHdDZLrAsKZ2Xj6pFO25X1cIG",
    ("iresgroup", 50): "1mCcUKTLbJfjLr2ZiUZPT89wlNf6WxWr_",
    ("iresgroup", 101): "1i_btVQzQeXFgHFfDi5nTEb_fb7gCtqLG",
    ("iresgroup", 152): "1rXDMj-yWcKEiO3LILLZlarh69HEibXMc",
    ("iresgroupfix", 50): "12oeCmPhaID2s3Doay8ZXMehnaaWqa_ek",
    ("iresgroupfix", 101): "1A8MIGI1ZEIfaB1bn_NN4QkoHKGRGxW_i",
    ("iresgroupfix", 152): "1s-4zKwbwlAJruSm-OFYmw96_qew7F2nw",
}
"""Google Drive id of each checkpoint that the authors published."""


def list_models() -> list[tuple[str, int]]:
    """(arch, depth) of the 33 official networks, by family."""
    return [(arch, depth) for arch, family in FAMILIES.items() for depth in family.depths]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes an input: its shorter side resized to `resize`, the middle cropped to `image_size`, both in pixels.

    No crop is larger than the resized image: `resize` is at least the longer side of `image_size`.
    `mean`, `std`: per channel, RGB, of pixel values in [0, 1]. Raises InputError for values that make no sense, or that would take
    memory without bound.
    """

    image_size: Sides = 224
    resize: int = 256
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.height == self.width:
            object.__setattr__(self, "image_size", self.height)
        if min(self.sides) < 1 or self.resize < self.longer_side:
            raise InputError(
                f"An image is resized to {shortly(self.resize)} pixels and then cropped to {self.size_in_words}; "
                "both must be positive, and the crop no larger than the image."
            )
        if self.longer_side > LARGEST_IMAGE or self.resize > _LARGEST_RESIZE:
            raise InputError(
                f"image_size is at most {LARGEST_IMAGE} pixels and resize at most {_LARGEST_RESIZE}, "
                f"not {self.size_in_words} and {shortly(self.resize)}."
            )
        if not (len(self.mean) == 3 and all(-_FURTHEST_MEAN <= value <= _FURTHEST_MEAN for value in self.mean)):
            raise InputError(
                f"mean holds a number for each of the three channels, up to {_FURTHEST_MEAN:g}, not {shortly(self.mean)}."
            )
        low, high = _STD_LIMITS
        if not (len(self.std) == 3 and all(low <= value <= high for value in self.std)):
            raise InputError(
                f"std holds a positive number for each of the three channels, from {low:g} to {high:g}, not {shortly(self.std)}."
            )
        if self.interpolation not in get_args(Interpolation):
            raise InputError(f"interpolation is one of {', '.join(get_args(Interpolation))}, not {shortly(self.interpolation)}.")

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the crop."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def height(self) -> int:
        return self.sides[0]

    @property
    def width(self) -> int:
        return self.sides[1]

    @property
    def longer_side(self) -> int:
        return max(self.sides)

    @property
    def size_in_words(self) -> str:
        """`224`, or height and width: `224 x 320`."""
        return shortly(self.image_size) if not isinstance(self.image_size, tuple) else " x ".join(map(shortly, self.image_size))

    @property
    def free_sides(self) -> tuple[int, int]:
        """The smallest and the largest height and width of images where these are free: 32, or half its own if that is less, to
        twice its own."""
        return max(1, min(_SMALLEST_SIDE, min(self.sides) // 2)), min(LARGEST_IMAGE, 2 * self.longer_side)

    def image_shape(self, *, as_pixels: bool) -> tuple[int, int, int]:
        """Of one image as an artifact takes it: pixels (h, w, 3), or an input (3, h, w)."""
        return (*self.sides, 3) if as_pixels else (3, *self.sides)

    @property
    def in_words(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"resize {self.resize}, crop {self.size_in_words}, {self.interpolation}, mean {mean}, std {std}"

    def with_image_size(self, image_size: Sides) -> Self:
        """The same for other images; the resize keeps its proportion to the crop's longer side, as 256 to 224."""
        longer = max(image_size) if isinstance(image_size, tuple) else image_size
        resize = max(longer, round(longer * self.resize / self.longer_side))
        return dataclasses.replace(self, image_size=image_size, resize=resize)


@dataclass(frozen=True, kw_only=True)
class Split:
    """What was held out of a flat folder of classes: `fraction` of each, by the contents of its files (`iresnet_data.splits`).

    Of `images` photos `held_out` were, copies not counted. `sha256` is that of all contents and their classes.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}

    fraction: float
    images: int
    held_out: int
    sha256: str

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise InputError(f"The fraction of a split is above 0 and below 1, not {shortly(self.fraction)}.")
        if not 0 < self.held_out < self.images:
            raise InputError(f"A split holds out some images of all, not {shortly(self.held_out)} of {shortly(self.images)}.")
        if re.fullmatch("[0-9a-f]{64}", self.sha256) is None:
            raise InputError(f"A SHA-256 is 64 hexadecimal digits, unlike {shortly(self.sha256)}.")


@dataclass(frozen=True)
class NetworkSpec(Preprocessing):
    """What is known of every network: what it is called, and all that feeds it and reads its answers. Travels in every artifact.

    `depth`: None for networks of no family of ours. `data`: the embedded data set that it was trained on, if it was one: what a
    file says is never opened, fetched or run. `split`: which images of a folder without train/ and val/ it has not seen.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}

    arch: str
    depth: int | None
    num_classes: int = 1000
    labels: tuple[str, ...] | None = None
    data: str | None = None
    split: Split | None = None

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9_]{1,80}", self.arch) is None:
            raise InputError(f"A network's name has up to 80 letters, digits and underscores, unlike {shortly(self.arch)}.")
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise InputError(f"num_classes is at least one class, and at most {MOST_CLASSES:,}, not {shortly(self.num_classes)}.")
        super().__post_init__()
        if self.labels is not None:
            self._require_labels(self.labels)
        if self.data is not None and not _may_be_named(self.data):
            raise InputError(
                f"data names an embedded data set (digits, synthetic, or synthetic:N up to {MOST_SYNTHETIC:,}), not "
                f"{shortly(self.data)}: folders, URLs and commands are taken from the command line alone, never from a file.",
                "Name data with --data.",
            )

    def _require_labels(self, labels: tuple[str, ...]) -> None:
        if len(labels) != self.num_classes:
            raise InputError(f"{len(labels)} labels were given for {self.num_classes} classes.")
        for label in labels:
            if len(label) > _LONGEST_LABEL or any("\ud800" <= letter <= "\udfff" for letter in label):
                raise InputError(
                    f"labels are texts of up to {_LONGEST_LABEL} characters that can be written as UTF-8, unlike {shortly(label)}.",
                    "Rename the class.",
                )

    @property
    def name(self) -> str:
        """Such as `iresnet50`."""
        return f"{self.arch}{'' if self.depth is None else self.depth}"

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values; `spec_from_json` reads it back equal."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}
        return {"arch": self.arch, "depth": self.depth, **plain}


Spec = TypeVar("Spec", bound=NetworkSpec)


@dataclass(frozen=True, kw_only=True)
class SpecOptions:
    """How images are prepared and classes called, as a user says it; None leaves it to the network's file."""

    image_size: Sides | None = None
    resize: int | None = None
    interpolation: Interpolation | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.image_size, tuple) and len(set(self.image_size)) == 1:
            object.__setattr__(self, "image_size", self.image_size[0])

    @property
    def said(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def say_all_of_preprocessing(self) -> bool:
        return {"resize", "interpolation", "mean", "std"} <= self.said.keys()

    def applied(self, spec: Spec) -> Spec:
        """The spec with what was said in place of its own; another image size keeps the proportion of the resize."""
        sized = spec if self.image_size is None else spec.with_image_size(self.image_size)
        return dataclasses.replace(sized, **self.said)


NOTHING_SAID = SpecOptions()


def kind_of_spec(data: Any) -> type[NetworkSpec]:
    """Of plain values or of a spec: ModelSpec, but where they say that they have no depth."""
    depth = data.get("depth", 0) if isinstance(data, dict) else getattr(data, "depth", 0)
    return NetworkSpec if depth is None else ModelSpec


def spec_from_json(data: Any) -> NetworkSpec:
    """The spec that `to_json` wrote: a ModelSpec where it has a depth. InputError, which names the field, for anything else."""
    kind = kind_of_spec(data)
    names = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(data, dict) or not {"arch", "depth"} <= data.keys() or not data.keys() <= names:
        raise InputError(f"This is not the description of a network that this version knows: {shortly(data)}.")
    return typed(kind, data, "The description of the network")


@dataclass(frozen=True)
class ModelSpec(NetworkSpec):
    """A network of the paper's families: everything needed to rebuild it, but the weights.

    `groups`: groups of the last stage's 3x3 convolutions in a group family (the other stages follow from the
    family), None elsewhere.
    """

    depth: int
    groups: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        family = FAMILIES.get(self.arch)
        if family is None:
            raise InputError(f"There is no arch {shortly(self.arch)}; there are: {', '.join(FAMILIES)}.")
        if self.depth not in family.depths:
            depths = ", ".join(map(str, family.depths))
            raise InputError(f"There is no {self.arch} of depth {shortly(self.depth)}; its depths are {depths}.")
        if family.group_divisors is None and self.groups is not None:
            raise InputError(f"{self.arch} has no grouped convolutions;", f"leave out groups={shortly(self.groups)}.")
        if family.group_divisors is not None:
            if self.groups is None:
                object.__setattr__(self, "groups", DEFAULT_GROUPS)
            if self.groups not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
                raise InputError(
                    f"groups={shortly(self.groups)} does not divide the 256 channels of the first stage;",
                    "use a power of two up to 256.",
                )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is a probability below 1, not {shortly(self.dropout)}.")
        super().__post_init__()

    @property
    def family(self) -> Family:
        return FAMILIES[self.arch]

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        """Blocks in each stage."""
        return BLOCKS[self.depth]

    @property
    def bottleneck(self) -> bool:
        """Whether blocks have three convolutions (depth 50 and up) rather than two."""
        return self.depth >= 50

    @property
    def stage_groups(self) -> tuple[int, int, int, int]:
        """Groups of the 3x3 convolutions in each stage."""
        divisors = self.family.group_divisors
        if divisors is None or self.groups is None:
            return (1, 1, 1, 1)
        a, b, c, d = (max(1, self.groups // divisor) for divisor in divisors)
        return (a, b, c, d)

    @classmethod
    def from_json(cls, data: Any) -> ModelSpec:
        """The spec that `to_json` wrote; InputError, which names the field, for anything else, and for networks of no family."""
        found = spec_from_json(data)
        if not isinstance(found, cls):
            raise InputError(f"There is no {shortly(found.arch)} among the families of this project.")
        return found


def _may_be_named(data: str) -> bool:
    """Whether a file may name these data, which need none: `digits`, `synthetic`, or `synthetic:` and a number within bounds."""
    match = re.fullmatch(r"digits|synthetic(?::([0-9]{1,8}))?", data)
    return match is not None and (match[1] is None or 1 <= int(match[1]) <= MOST_SYNTHETIC)
