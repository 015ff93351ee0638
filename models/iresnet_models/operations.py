"""How much work a network is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from iresnet_models.network import Network
from iresnet_models.spec import ModelSpec


def parameter_count(spec: ModelSpec) -> int:
    """Learnable parameters."""
    return sum(parameter.numel() for parameter in _skeleton(spec).parameters())


def multiply_accumulates(spec: ModelSpec) -> int:
    """Multiply-accumulates of all convolutions and the classifier, for one image of the spec's size."""
    network, total = _skeleton(spec).eval(), 0

    def count(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * math.prod(module.weight.shape[1:])
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    handles = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network(torch.empty(1, 3, spec.image_size, spec.image_size, device="meta"))
    for handle in handles:
        handle.remove()
    return total


def _skeleton(spec: ModelSpec) -> Network:
    with torch.device("meta"):
        return Network(spec)
