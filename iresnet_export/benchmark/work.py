"""How much work a network is: operations, and bytes that have to be moved for them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from iresnet_models.spec import NetworkSpec

BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class Work:
    """`macs`: multiply-accumulates of one image. `weights` and `activations` (of one image) in numbers."""

    macs: int
    weights: int
    activations: int

    def moved_bytes(self, batch: int, precision: str) -> int | None:
        """Bytes of one batch: every weight once, and what each convolution and the classifier read and write once."""
        width = BYTES.get(precision)
        return None if width is None else width * (self.weights + batch * self.activations)


def work_of(network: nn.Module, sides: tuple[int, int]) -> Work:
    """Counted over all products of tensors in a forward pass of one image, without computing any."""
    state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.device("meta"), torch.no_grad():
        empty = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
        with _Counting(empty.values()) as counted:
            torch.func.functional_call(network, empty, (torch.empty(1, 3, *sides),))
    return Work(counted.macs, counted.weights, counted.activations)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operators of PyTorch compute that its own counter knows: convolutions and products of matrices."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = self.weights = self.activations = 0
        self._held = {id(weight): weight for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        given = [value for value in tree_leaves(found) if isinstance(value, Tensor)]
        if tensors and all(id(value) in self._held for value in tensors):
            self._held.update({id(value): value for value in given})  # a weight in another shape
        if func.overloadpacket in flop_registry:
            self.macs += int(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=found)) // 2
            for value in tensors:
                if value.dim() > 1:
                    if id(value) in self._held:
                        self.weights += value.numel()
                    else:
                        self.activations += value.numel()
            self.activations += given[0].numel()
        return found


@functools.lru_cache(maxsize=32)
def work_of_torchvision(spec: NetworkSpec) -> Work:
    """Of torchvision's ResNet of the same depth."""
    from torchvision import models

    with torch.device("meta"):
        network = getattr(models, f"resnet{spec.depth}")(weights=None, num_classes=spec.num_classes)
    return work_of(network.eval(), spec.sides)
