"""Batches of a data set: seeded, loaded by workers that stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from iresnet_models.errors import InputError


class Loader:
    """Batches (images, labels) of a data set, pass after pass.

    The order follows from `seed`, and differs from pass to pass if `shuffle`. An image that cannot be read raises
    its InputError here, from whichever worker found it.
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Tensor, int]],
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
        drop_last: bool = False,
    ) -> None:
        self._loader: DataLoader[Any] = DataLoader(
            _Guarded(dataset),
            batch_size,
            shuffle=shuffle,
            generator=torch.Generator().manual_seed(seed),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            drop_last=drop_last,
            collate_fn=_collated,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            images, labels = batch
            yield images, labels


class _Guarded(Dataset[Any]):
    """A data set that returns its InputErrors: raised in a worker, they would arrive wrapped in a traceback."""

    def __init__(self, dataset: Dataset[tuple[Tensor, int]]) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int] | InputError:
        try:
            return self._dataset[index]
        except InputError as error:
            return error


def _collated(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, InputError)), None) or default_collate(items)
