"""What training does to its images, so that the network never sees the same one twice."""

from __future__ import annotations

from torchvision.transforms import InterpolationMode, v2

from iresnet_models.preprocessing import to_input
from iresnet_models.spec import ModelSpec
from iresnet_train.config import Augmentation


def augmented(name: Augmentation, spec: ModelSpec, size: int) -> v2.Transform:
    """A random transform from a PIL image to a network's input of `size` pixels."""
    return v2.Compose([v2.RGB(), *_STEPS[name](size, InterpolationMode(spec.interpolation)), to_input(spec)])


def _crop_flip(size: int, interpolation: InterpolationMode) -> list[v2.Transform]:
    """The official one, for photographs."""
    return [v2.RandomResizedCrop(size, interpolation=interpolation, antialias=True), v2.RandomHorizontalFlip()]


def _affine(size: int, interpolation: InterpolationMode) -> list[v2.Transform]:
    """Small movements that leave a digit the digit that it is."""
    return [
        v2.Resize(size, interpolation=interpolation, antialias=True),
        v2.CenterCrop(size),
        v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation=InterpolationMode.BILINEAR),
    ]


_STEPS = {"crop-flip": _crop_flip, "affine": _affine}
