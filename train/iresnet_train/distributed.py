"""The processes of a run: those that torchrun started, or this one alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from iresnet_models.errors import UnavailableError, first_line
from iresnet_train.config import Device
from iresnet_train.torchrun import number_from, world_size

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of a batch: the parts are disjoint, complete, and as equal as can be."""
        return items[len(items) * self.rank // self.size : len(items) * (self.rank + 1) // self.size]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, as another tensor, on this one's device: NCCL adds nothing that lies in host memory."""
        values = values.to(self.device, copy=True)
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def align(self, values: Sequence[Tensor]) -> None:
        """Gives every process the first one's values."""
        if self.size > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def from_first(self, item: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items, src=0)
        return items[0]

    def gather(self, item: T) -> list[T]:
        """What each process has, in order of rank; small things alone."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items


@contextmanager
def joined_world(device: Device, *, patience: timedelta | None = None) -> Iterator[World]:
    """Joins the processes that torchrun started, by NCCL on GPUs and Gloo on CPUs, and leaves them at the end.

    `patience`: how long one waits for another; None for PyTorch's 10 minutes by NCCL and 30 by Gloo.
    """
    size, rank, local_rank = world_size(), number_from("RANK", 0, 0), number_from("LOCAL_RANK", 0, 0)
    own = _device(device, local_rank, several=size > 1)
    if size == 1 or dist.is_initialized():
        yield World(rank, size, own)
        return
    try:
        if own.type == "cuda":
            dist.init_process_group("nccl", timeout=patience, device_id=own)
        else:
            dist.init_process_group("gloo", timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise UnavailableError(
            f"The {size} processes of this run cannot join ({first_line(error)}).",
            "Start them with torchrun, or unset WORLD_SIZE to train in one.",
        ) from error
    try:
        yield World(rank, size, own)
    finally:
        dist.destroy_process_group()


def _device(asked: Device, local_rank: int, *, several: bool) -> torch.device:
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UnavailableError(
            "Training on a GPU was asked for, but PyTorch finds none here.",
            "Install NVIDIA's driver and a CUDA build of PyTorch, or say --device cpu.",
        )
    if not available or asked == "cpu":
        return torch.device("cpu")
    if several and local_rank >= torch.cuda.device_count():
        raise UnavailableError(
            f"Process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}.",
            "Give torchrun --nproc-per-node as many as there are GPUs.",
        )
    try:
        # With its index, which set_device and NCCL ask for.
        own = torch.device("cuda", local_rank if several else torch.cuda.current_device())
        torch.cuda.set_device(own)
    except RuntimeError as error:  # the driver's: another process holds the GPU alone, say
        raise UnavailableError(
            f"The GPU is there, but cannot be used ({first_line(error)}).", "See nvidia-smi, or say --device cpu."
        ) from error
    return own
