"""The embedded data set: the handwritten digits that scikit-learn brings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image

from iresnet_data.named_data import DIGITS_DATA
from iresnet_models.errors import InputError
from iresnet_models.image_files import printable
from iresnet_models.spec import ModelSpec, NetworkSpec

_DIGITS_LABELS = tuple("0123456789")
_HELD_OUT_PER_DIGIT = 50


def digits_spec(arch: str = "iresnet", depth: int = 18) -> ModelSpec:
    """The spec of a network for the embedded digits, at 32 pixels."""
    return ModelSpec(
        arch,
        depth,
        num_classes=10,
        image_size=32,
        resize=32,
        mean=(0.305, 0.305, 0.305),  # of the training part's own pixels, at 32 pixels
        std=(0.324, 0.324, 0.324),
        labels=_DIGITS_LABELS,
        data=DIGITS_DATA,
    )


@cache
def _digits() -> tuple[list[Image.Image], list[int]]:
    from sklearn.datasets import load_digits  # takes a second, and folders do not need it

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(image) for image in pixels], [int(label) for label in bunch.target]


def digits_of(spec: NetworkSpec, *, held_out: bool) -> tuple[list[Image.Image], list[int]]:
    """The 500 held-out digits, 50 of each, or the other 1,297."""
    if spec.num_classes != 10 or spec.labels not in (None, _DIGITS_LABELS):
        classes = f"{spec.num_classes}" + ("" if spec.labels is None else f" ({some_of(spec.labels)})")
        raise InputError(
            f"The classes of the digits are 0 to 9, but those of this {spec.name} are {classes};", "name its own data."
        )
    images, labels = _digits()
    taken = [0] * 10
    chosen = []
    for index in permutation(len(images), seed=0):
        if (taken[labels[index]] < _HELD_OUT_PER_DIGIT) == held_out:
            chosen.append(index)
        taken[labels[index]] += 1
    return [images[index] for index in chosen], [labels[index] for index in chosen]


def permutation(count: int, seed: int, most: int | None = None) -> list[int]:
    """The numbers below `count` in an order that follows from `seed`, or the first `most` of them."""
    # NumPy keeps the stream of RandomState the same in all its versions, that of its newer generators not.
    return [int(index) for index in np.random.RandomState(seed).permutation(count)[:most]]


def some_of(names: Sequence[str]) -> str:
    """The first few, for a message."""
    return ", ".join(printable(name) for name in names[:4]) + (", ..." if len(names) > 4 else "")
