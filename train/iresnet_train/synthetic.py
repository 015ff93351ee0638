"""Images that need no disk and no decoding: for measuring how fast a network trains."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image
from torch import Tensor

from iresnet_models.errors import InputError

CLASSES = 1000
_IMAGENET = 1_281_167
_HELD_OUT_SHARE = 25
_POOL, _SIZE = 64, 256


def is_synthetic(data: str) -> bool:
    return data.partition(":")[0] == "synthetic"


def synthetic_images(data: str, *, held_out: bool) -> tuple[list[Image.Image], list[int]]:
    """`synthetic:N` stands for N training images, a twenty-fifth as many held out, as in ImageNet; without N for ImageNet's number.

    There are only 64 different ones, of noise; the labels are all classes in turn.
    """
    match = re.fullmatch(r"synthetic(?::(\d+))?", data)
    count = 0 if match is None else int(match[1] or _IMAGENET)
    if count < 1:
        raise InputError(f"{data!r} is no synthetic data set; write `synthetic`, or a number of images as in synthetic:5000.")
    count = max(1, count // _HELD_OUT_SHARE) if held_out else count
    pool = _noise()
    return [pool[index % _POOL] for index in range(count)], [index % CLASSES for index in range(count)]


class Prepared:
    """A transform that prepares each of few images once, and gives the same tensor again."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self._transform = transform
        self._known: dict[int, tuple[Image.Image, Tensor]] = {}

    def __call__(self, image: Image.Image) -> Tensor:
        known = self._known.get(id(image))
        if known is None:
            known = self._known[id(image)] = image, self._transform(image)
        return known[1]


@cache
def _noise() -> list[Image.Image]:
    random = np.random.RandomState(0)
    return [Image.fromarray(random.randint(0, 256, (_SIZE, _SIZE, 3), dtype=np.uint8)) for _ in range(_POOL)]
