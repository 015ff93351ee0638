"""The processes of a run: those that torchrun started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from iresnet_models.errors import UnavailableError
from iresnet_train.config import Device

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
        """The sum over all processes, on this one's device."""
        values = values.to(self.device)  # NCCL adds nothing that lies in host memory
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


def processors() -> int:
    """Processors for this process alone: those it may use, divided among torchrun's processes of this machine; at least 1."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def joined_world(device: Device) -> Iterator[World]:
    """Joins the processes that torchrun started, by NCCL on GPUs and Gloo on CPUs, and leaves them at the end."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    own = _device(device, int(os.environ.get("LOCAL_RANK", "0")), several=size > 1)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if size == 1 or dist.is_initialized():
        yield World(rank, size, own)
        return
    if own.type == "cuda":
        dist.init_process_group("nccl", device_id=own)
    else:
        dist.init_process_group("gloo")
    try:
        yield World(rank, size, own)
    finally:
        dist.destroy_process_group()


def _device(asked: Device, local_rank: int, *, several: bool) -> torch.device:
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise UnavailableError(
            "Training on a GPU was asked for, but PyTorch finds none here. Install NVIDIA's driver and a CUDA build of PyTorch, "
            "or say --device cpu."
        )
    if not available or asked == "cpu":
        return torch.device("cpu")
    if several and local_rank >= torch.cuda.device_count():
        raise UnavailableError(
            f"Process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}. "
            "Give torchrun --nproc-per-node as many as there are GPUs."
        )
    return torch.device("cuda", local_rank) if several else torch.device("cuda")
