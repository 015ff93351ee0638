"""The one way from an image to a network's input, for training's evaluation, calibration, verification and prediction alike.

An image becomes pixels, (height, width, 3) in uint8, and pixels become inputs, (3, height, width) normalised: an artifact
takes the one or the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from iresnet_models.errors import InputError
from iresnet_models.spec import ModelSpec


def preprocessing(spec: ModelSpec) -> v2.Transform:
    """A transform from a PIL image of any size and mode to a float32 tensor (3, image_size, image_size).

    RGB; the shorter side resized (on 8-bit pixels, antialiased, as the official evaluation does it), centre crop,
    scaled to [0, 1], normalised by the spec's mean and std.
    """
    return v2.Compose([_cropping(spec), to_input(spec)])


def to_pixels(spec: ModelSpec) -> Callable[[Image.Image], Tensor]:
    """The first steps alone: a PIL image of any size and mode to a uint8 tensor (image_size, image_size, 3)."""
    crop = _cropping(spec)
    return lambda image: torch.from_numpy(np.array(crop(image)))


def to_input(spec: ModelSpec) -> v2.Transform:
    """The last steps alone: an RGB image of the right size to a normalised float32 tensor."""
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(spec.mean), list(spec.std))])


def normalised(pixels: Tensor, spec: ModelSpec) -> Tensor:
    """Inputs (n, 3, h, w) in float32 of pixels (n, h, w, 3) in uint8; the same as `to_input` gives, bit for bit."""
    scaled = v2.functional.to_dtype_image(pixels.permute(0, 3, 1, 2).contiguous(), torch.float32, scale=True)
    inputs: Tensor = v2.functional.normalize_image(scaled, list(spec.mean), list(spec.std))
    return inputs


def noise_pixels(spec: ModelSpec, count: int, seed: int) -> Tensor:
    """Seeded noise in place of images (count, image_size, image_size, 3), uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, spec.image_size, spec.image_size, 3), generator=generator, dtype=torch.uint8)


def _cropping(spec: ModelSpec) -> v2.Transform:
    return v2.Compose(
        [
            v2.RGB(),
            v2.Resize(spec.resize, interpolation=InterpolationMode(spec.interpolation), antialias=True),
            v2.CenterCrop(spec.image_size),
        ]
    )


def load_image(path: Path) -> Image.Image:
    """An image file as RGB, upright as its EXIF orientation says; InputError names a file that cannot be read."""
    try:
        with Image.open(path) as image:
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"The image {path} cannot be read ({error}). Remove it or replace it.") from error
