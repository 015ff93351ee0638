"""Images that need no disk and no decoding: for measuring how fast a network trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar, overload

import numpy as np
from PIL import Image
from torch import Tensor

from iresnet_data.named_data import synthetic_count

CLASSES = 1000
_HELD_OUT_SHARE = 25
_POOL, _SIZE = 64, 256

T = TypeVar("T")


def synthetic_images(data: str, *, held_out: bool) -> tuple[Sequence[Image.Image], Sequence[int]]:
    """`synthetic:N` stands for N training images, a twenty-fifth as many held out, as in ImageNet; without N for ImageNet's number.

    There are only 64 different ones, of noise; the labels are all classes in turn.
    """
    count = synthetic_count(data)
    count = max(1, count // _HELD_OUT_SHARE) if held_out else count
    return _InTurn(_noise(), count), _InTurn(range(CLASSES), count)


class _InTurn(Sequence[T]):
    """Few values, again and again, as a sequence of any length that takes no memory."""

    def __init__(self, values: Sequence[T], count: int) -> None:
        self._values, self._count = values, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        return self._values[range(self._count)[index] % len(self._values)]


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
