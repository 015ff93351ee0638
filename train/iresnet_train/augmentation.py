"""What training does to its images, so that the network never sees the same one twice."""

from __future__ import annotations

from torchvision.transforms import InterpolationMode, v2

from iresnet_models.preprocessing import to_input
from iresnet_models.spec import ModelSpec
from iresnet_train.config import Augmentation


def augmented(name: Augmentation, spec: ModelSpec, size: int, random_erasing: float = 0.0) -> v2.Transform:
    """A random transform from a PIL image to a network's input of `size` pixels; erases a part with that probability."""
    steps = [v2.RGB(), *_STEPS[name](size, InterpolationMode(spec.interpolation)), to_input(spec)]
    return v2.Compose([*steps, v2.RandomErasing(random_erasing)] if random_erasing else steps)


def mixing(mixup: float, cutmix: float, num_classes: int) -> v2.Transform | None:
    """Mixes images and labels of a batch, (n, 3, h, w) and (n), by one of the two; the labels become shares (n, classes).

    arXiv 1710.09412, arXiv 1905.04899. None where both are off.
    """
    kinds = [
        *([v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []),
        *([v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []),
    ]
    return v2.RandomChoice(kinds) if kinds else None


def _crop_flip(size: int, interpolation: InterpolationMode) -> list[v2.Transform]:
    """The official one, for photographs."""
    return [v2.RandomResizedCrop(size, interpolation=interpolation, antialias=True), v2.RandomHorizontalFlip()]


def _trivial(size: int, interpolation: InterpolationMode) -> list[v2.Transform]:
    """One random operation of random strength as well (arXiv 2103.10158)."""
    return [*_crop_flip(size, interpolation), v2.TrivialAugmentWide(interpolation=interpolation)]


def _affine(size: int, interpolation: InterpolationMode) -> list[v2.Transform]:
    """Small movements that leave a digit the digit that it is."""
    return [
        v2.Resize(size, interpolation=interpolation, antialias=True),
        v2.CenterCrop(size),
        v2.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation=InterpolationMode.BILINEAR),
    ]


_STEPS = {"crop-flip": _crop_flip, "trivial": _trivial, "affine": _affine}
