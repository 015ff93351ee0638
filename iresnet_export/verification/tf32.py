"""TF32 on a CPU: how far a network strays whose products are of numbers rounded to 10 bits of mantissa, as GPUs do if they may."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def rounded(values: Tensor) -> Tensor:
    """float32 values rounded to TF32, halves away from zero."""
    return ((values.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def cut(values: Tensor) -> Tensor:
    """float32 values without the 13 bits that TF32 has not, as tensor cores take them where nobody rounds first."""
    return (values.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def with_tf32(network: nn.Module, rounding: Callable[[Tensor], Tensor] = rounded) -> nn.Module:
    """A copy whose convolutions and linear layers get inputs and weights of TF32, and add up in float32."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = rounding(module.weight.data)
            module.register_forward_pre_hook(lambda _module, inputs: (rounding(inputs[0]),))
    return network


def tf32_forms(network: nn.Module) -> Iterator[Any]:
    """The network by each of the two ways in which GPUs come from float32 to TF32."""
    for rounding in (rounded, cut):
        yield with_tf32(network, rounding)
