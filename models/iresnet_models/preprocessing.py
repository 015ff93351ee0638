"""The one way from an image to a network's input, for training's evaluation, calibration, verification and prediction alike.

An image becomes pixels, (height, width, 3) in uint8, and pixels become inputs, (3, height, width) normalised: an artifact
takes the one or the other. What makes arrays needs no torch; what makes tensors imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from iresnet_models.errors import InputError
from iresnet_models.image_files import image_suffixes, printable, require_regular
from iresnet_models.spec import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.transforms import v2


class ImagePreset(Protocol):
    """torchvision's `ImageClassification`, as the weights of its classifiers have it."""

    crop_size: list[int]
    resize_size: list[int]
    mean: list[float]
    std: list[float]
    interpolation: Any


def preprocessing_of(preset: ImagePreset) -> Preprocessing:
    """What torchvision's `weights.transforms()` does: the same pixels, bit for bit. InputError for anything else."""
    try:
        sides = tuple(preset.crop_size)
        if len(preset.resize_size) != 1:
            raise TypeError("both sides are resized, and images lose their proportions")
        return Preprocessing(
            image_size=sides[0] if len(sides) == 1 else (sides[0], sides[1]),
            resize=preset.resize_size[0],
            mean=tuple(preset.mean),  # type: ignore[arg-type]
            std=tuple(preset.std),  # type: ignore[arg-type]
            interpolation=preset.interpolation.value,
        )
    except (AttributeError, TypeError, LookupError) as error:
        raise InputError(
            f"preprocessing is an iresnet_export.Preprocessing, or torchvision's for classifiers, not a {type(preset).__name__}."
        ) from error


def pixels_of(image: Image.Image, spec: Preprocessing) -> NDArray[np.uint8]:
    """The first steps: a PIL image of any size and mode to pixels (height, width, 3)."""
    return np.array(_cropped(image, spec))


def inputs_of(pixels: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float32]:
    """The last steps: inputs (n, 3, h, w) of pixels (n, h, w, 3)."""
    inputs = np.multiply(pixels.transpose(0, 3, 1, 2), np.float32(1 / 255), order="C", dtype=np.float32)
    inputs -= np.array(spec.mean, np.float32).reshape(3, 1, 1)
    inputs /= np.array(spec.std, np.float32).reshape(3, 1, 1)
    return inputs


def preprocessing(spec: Preprocessing) -> v2.Transform:
    """A transform from a PIL image of any size and mode to a float32 tensor (3, height, width).

    RGB; the shorter side resized (on 8-bit pixels, antialiased, as the official evaluation does it), centre crop,
    scaled to [0, 1], normalised by the spec's mean and std.
    """
    from torchvision.transforms import v2

    return v2.Compose([partial(_cropped, spec=spec), to_input(spec)])


def to_pixels(spec: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """`pixels_of` as a tensor."""
    import torch

    return lambda image: torch.from_numpy(pixels_of(image, spec))


def to_input(spec: Preprocessing) -> v2.Transform:
    """The last steps alone: an RGB image of the right size to a normalised float32 tensor."""
    import torch
    from torchvision.transforms import v2

    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(spec.mean), list(spec.std))])


def normalised(pixels: Tensor, spec: Preprocessing) -> Tensor:
    """Inputs (n, 3, h, w) in float32 of pixels (n, h, w, 3) in uint8; as `to_input` and `inputs_of` give them, bit for bit."""
    import torch
    from torchvision.transforms.v2 import functional

    scaled = functional.to_dtype_image(pixels.permute(0, 3, 1, 2).contiguous(), torch.float32, scale=True)
    inputs: Tensor = functional.normalize_image(scaled, list(spec.mean), list(spec.std))
    return inputs


def noise_pixels(spec: Preprocessing, count: int, seed: int) -> Tensor:
    """Seeded noise in place of images (count, height, width, 3), uint8."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *spec.sides, 3), generator=generator, dtype=torch.uint8)


def _cropped(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """RGB; the shorter side resized, and the middle cropped, both rounded as torchvision does."""
    image = image.convert("RGB")
    shorter, (rows, columns) = min(image.size), spec.sides
    width, height = (spec.resize if side == shorter else int(spec.resize * side / shorter) for side in image.size)
    image = image.resize((width, height), Image.Resampling[spec.interpolation.upper()])
    left, top = round((width - columns) / 2), round((height - rows) / 2)
    return image.crop((left, top, left + columns, top + rows))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""

_MOST_PIXELS = 178_956_970
"""Pillow's own limit: a small file can claim to be larger than all memory."""

_LONGEST = 200
"""Times the shorter side. The longer one grows with it when it is resized: of 1 x 65,535 pixels, 256 would make gigabytes."""


def load_image(path: Path, content: bytes | None = None) -> Image.Image:
    """An image file as 8-bit RGB, upright as its EXIF orientation says; InputError names a file that cannot be read.

    `content`: its bytes, where `path` only names it. Of an animation the first frame. Colours are those of PIL's
    `convert("RGB")`, as in the official evaluation, except where it would show what nobody sees. It drops alpha, which bares the
    arbitrary colours under transparent pixels: they are laid on white, which leaves opaque ones as they are. It clips greys of
    more than 8 bits to white: they keep their upper 8 bits, as PIL keeps those of 16-bit colours. Greys in floating point are
    taken if they lie within 0 to 1, or within 0 to 255.
    """
    try:
        image_suffixes()  # registers what is there
        if content is None:
            require_regular(path)
        with Image.open(path if content is None else BytesIO(content)) as image:
            _require_bounded(*image.size)
            image.load()
            turn = _turn_of(image)
            return _as_rgb(image if turn is None else image.transpose(turn))
    except MemoryError:
        raise
    except Exception as error:  # a decoder that meets a damaged file raises whatever it stumbles over
        raise InputError(f"The image {printable(path)} cannot be read ({_reason(error)}).{UNREADABLE}") from error


UNREADABLE = " Remove it or replace it."
"""How the message of an image that cannot be read ends."""


def unreadable(reasons: Sequence[str]) -> InputError:
    """One error for all images that could not be read, from the messages of `load_image`; five of them are named."""
    if len(reasons) == 1:
        return InputError(reasons[0])
    named = "; ".join(reason.removeprefix("The image ").removesuffix(UNREADABLE).rstrip(".") for reason in reasons[:5])
    more = f"; and {len(reasons) - 5} more" if len(reasons) > 5 else ""
    return InputError(f"{len(reasons)} images cannot be read: {named}{more}.", "Remove or replace them.")


def _require_bounded(width: int, height: int) -> None:
    if width * height > _MOST_PIXELS:
        raise ValueError(f"it is {width} x {height} pixels large, and those of more than {_MOST_PIXELS:,} pixels are not read")
    if min(width, height) < 1 or max(width, height) > _LONGEST * min(width, height):
        raise ValueError(f"it is {width} x {height} pixels, and the longer side may be {_LONGEST} times the shorter one at most")


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception:  # a damaged EXIF says nothing of the pixels
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_grey8(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _grey8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Greys of 16 or 32 bits, or in floating point, in 8 bits."""
    floating = np.issubdtype(values.dtype, np.floating)
    least, most = values.min(), values.max()
    if not 0 <= least <= most <= (255 if floating else 65535):  # nor is NaN
        wanted = "0 to 1 or 0 to 255" if floating else "0 to 65535"
        raise ValueError(f"its greys reach from {least:g} to {most:g}, and only those from {wanted} have a known meaning")
    scaled: NDArray[Any] = np.rint(values * 255 if most <= 1 else values) if floating else values >> 8
    return scaled.astype(np.uint8)


def _reason(error: Exception) -> str:
    """What was wrong, without the path that some messages repeat."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it claims more than {_MOST_PIXELS:,} pixels, as a decompression bomb does"
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, damaged, or no image of a known format"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
