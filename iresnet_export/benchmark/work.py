"""How much work a network is: operations, and bytes that have to be moved for them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iresnet_models.network import Network
from iresnet_models.operations import multiply_accumulates
from iresnet_models.spec import ModelSpec

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


@functools.lru_cache(maxsize=32)
def work_of(spec: ModelSpec) -> Work:
    """Counted on the network's own layers, without computing any."""
    with torch.device("meta"):
        network = Network(spec)
    return work_of_network(network.eval(), spec.image_size, multiply_accumulates(spec))


def work_of_network(network: nn.Module, image_size: int, macs: int | None = None) -> Work:
    """The same of any network on the meta device; counts its multiply-accumulates where they are not given."""
    weights, activations, counted = 0, 0, 0

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal weights, activations, counted
        weight = module.weight
        assert isinstance(weight, Tensor)
        weights += weight.numel()
        activations += inputs[0].numel() + output.numel()
        counted += output.numel() * math.prod(weight.shape[1:])

    hook: Callable[[nn.Module, tuple[Any, ...], Tensor], None] = count
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    with torch.no_grad():
        network(torch.empty(1, 3, image_size, image_size, device="meta"))
    return Work(counted if macs is None else macs, weights, activations)


@functools.lru_cache(maxsize=32)
def work_of_torchvision(spec: ModelSpec) -> Work:
    """Of torchvision's ResNet of the same depth."""
    from torchvision import models

    with torch.device("meta"):
        network = getattr(models, f"resnet{spec.depth}")(weights=None, num_classes=spec.num_classes)
    return work_of_network(network.eval(), spec.image_size)
