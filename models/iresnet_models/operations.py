"""How much work a network is."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    return sum(layer_multiply_accumulates(spec).values())


def layer_multiply_accumulates(spec: ModelSpec) -> dict[str, int]:
    """The same for each convolution and the classifier, by name, in execution order."""
    network, found = _skeleton(spec).eval(), dict[str, int]()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())  # which multiplies nothing here, and takes most of the time

    def counter(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def count(module: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            found[name] = output.numel() * math.prod(weight.shape[1:])

        return count

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(counter(name))
    with torch.no_grad():
        network(torch.empty(1, 3, spec.image_size, spec.image_size, device="meta"))
    return found


def _skeleton(spec: ModelSpec) -> Network:
    with torch.device("meta"):
        return Network(spec)
