"""The one way from an image to a network's input, for training's evaluation, verification and prediction alike."""

from __future__ import annotations

from pathlib import Path

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
    return v2.Compose(
        [
            v2.RGB(),
            v2.Resize(spec.resize, interpolation=InterpolationMode(spec.interpolation), antialias=True),
            v2.CenterCrop(spec.image_size),
            to_input(spec),
        ]
    )


def to_input(spec: ModelSpec) -> v2.Transform:
    """The last steps alone: an RGB image of the right size to a normalised float32 tensor."""
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(spec.mean), list(spec.std))])


def load_image(path: Path) -> Image.Image:
    """An image file as RGB, upright as its EXIF orientation says; InputError names a file that cannot be read."""
    try:
        with Image.open(path) as image:
            upright: Image.Image = ImageOps.exif_transpose(image)
            return upright.convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"The image {path} cannot be read ({error}). Remove it or replace it.") from error


def image_batch(images: list[Tensor]) -> Tensor:
    """Single inputs (3, h, w) as one batch (n, 3, h, w)."""
    return torch.stack(images)
