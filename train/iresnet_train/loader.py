"""Batches of a data set: loaded by workers that stay, and in training the same whatever their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from iresnet_data.datasets import LabelledImages
from iresnet_models.errors import InputError
from iresnet_models.preprocessing import unreadable
from iresnet_train.distributed import World
from iresnet_train.preemption import leave_stopping_to_the_trainer, loading_processes
from iresnet_train.randomness import order_generator, seed_image
from iresnet_train.sampling import balanced_order

Keys = list[tuple[int, int]]
"""The images of a step that are this process's, as (epoch, number).

A number is an image's index; of an image that comes more than once in an epoch, its index plus some times the number of images.
"""


class Batch(NamedTuple):
    """Images (n, 3, s, s) and labels (n), None where there is none that can be read; and what is wrong with the others."""

    images: Tensor | None
    labels: Tensor | None
    unreadable: list[str]


class Loader:
    """Batches (images, labels) of a data set, in order, pass after pass.

    Where images cannot be read, one InputError names them all, whichever workers found them; with `on_unreadable`, that is told
    the reason of each, and the image is left out.
    """

    def __init__(
        self,
        dataset: Dataset[tuple[Tensor, int]],
        batch_size: int,
        *,
        workers: int = 0,
        pin_memory: bool = False,
        on_unreadable: Callable[[str], None] | None = None,
    ) -> None:
        self._tell = on_unreadable
        self._loader = _loader(_Guarded(dataset), workers, pin_memory, batch_size=batch_size)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        reasons: list[str] = []
        for batch in self._loader:
            if self._tell is None:
                reasons += batch.unreadable
            else:
                for reason in batch.unreadable:
                    self._tell(reason)
            if batch.images is not None and not reasons:  # after an unreadable image only others are looked for
                yield batch.images, batch.labels
        if reasons:
            raise unreadable(reasons)


class TrainingLoader:
    """This process's part of every step's batch, shuffled and augmented by what `seed`, epoch and image say.

    A step's images are the same for any number of processes and workers. A last batch with fewer than `least` images for each
    process is left out: BatchNorm cannot normalise a single one. `balanced`: an epoch takes each class equally often. `batches`
    makes them of the data set and the plan of an epoch; without it torch's DataLoader does.
    """

    def __init__(
        self,
        dataset: LabelledImages,
        batch_size: int,
        world: World,
        *,
        seed: int = 0,
        least: int = 2,
        balanced: bool = False,
        workers: int = 0,
        pin_memory: bool = False,
        batches: Callable[[LabelledImages, Plan], Iterable[Batch]] | None = None,
    ) -> None:
        rest = len(dataset) % batch_size
        self.steps = len(dataset) // batch_size + (rest >= least * world.size)
        self._images, self._batch_size = len(dataset), batch_size
        self._plan = Plan(dataset, batch_size, self.steps, world, seed, balanced=balanced)
        if batches is not None:
            self._batches = batches(dataset, self._plan)
            return
        # Its own generator, so that it draws nothing from the common one.
        generator = torch.Generator()
        self._batches = _loader(_Keyed(dataset, seed), workers, pin_memory, batch_sampler=self._plan, generator=generator)

    def planned(self, step: int) -> int:
        """Images of a step, over all processes."""
        return min(self._batch_size, self._images - step * self._batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from its step `first` on."""
        self._plan.epoch, self._plan.first = epoch, first
        if first < self.steps:
            yield from self._batches


class Plan:
    """Which images make each step that is left of an epoch."""

    def __init__(
        self, dataset: LabelledImages, batch_size: int, steps: int, world: World, seed: int, *, balanced: bool = False
    ) -> None:
        self._dataset, self._batch_size, self._steps, self._world, self._seed = dataset, batch_size, steps, world, seed
        self._balanced = balanced
        self.epoch = self.first = 0

    @property
    def most(self) -> int:
        """No process has more images in a step; of a last, smaller batch one may have more than of the others."""
        return -(-self._batch_size // self._world.size)

    def __len__(self) -> int:
        return self._steps - self.first

    def __iter__(self) -> Iterator[Keys]:
        epoch, generator = self.epoch, order_generator(self._seed, self.epoch)
        order = balanced_order(self._dataset.labels, generator) if self._balanced else self._dataset.order(generator)
        for step in range(self.first, self._steps):
            batch = order[step * self._batch_size : (step + 1) * self._batch_size]
            yield [(epoch, int(number)) for number in self._world.share(batch)]


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


class _Keyed(Dataset[Any]):
    """The same, each image augmented as its (epoch, number) says."""

    def __init__(self, dataset: Dataset[tuple[Tensor, int]], seed: int) -> None:
        self._dataset, self._seed = _Guarded(dataset), seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | InputError:
        epoch, number = key
        seed_image(self._seed, epoch, number)
        return self._dataset[number % len(self._dataset)]


def _loader(dataset: Dataset[Any], workers: int, pin_memory: bool, **what: Any) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        collate_fn=_collated,
        worker_init_fn=leave_stopping_to_the_trainer,
        multiprocessing_context=loading_processes() if workers else None,
        **what,
    )


def _collated(items: list[Any]) -> Batch:
    read = [item for item in items if not isinstance(item, InputError)]
    unreadable = [str(item) for item in items if isinstance(item, InputError)]
    if not read:
        return Batch(None, None, unreadable)
    images, labels = default_collate(read)
    return Batch(images, labels, unreadable)
