"""TF32 on a CPU: how far a network strays whose products are of numbers rounded to 10 bits of mantissa, as GPUs do if they may."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

_BITS, _FLOAT32_BITS = 10, 23

Module = TypeVar("Module", bound=nn.Module)
Kinds = tuple[type[nn.Conv2d | nn.Linear], ...]


def rounded(values: Tensor, bits: int = _BITS) -> Tensor:
    """float32 values rounded to so many bits of mantissa, TF32's if none are named; halves go away from zero."""
    last = 1 << (_FLOAT32_BITS - bits)
    return ((values.contiguous().view(torch.int32) + last // 2) & ~(last - 1)).view(torch.float32)


def with_tf32(network: Module, bits: int = _BITS, kinds: Kinds = (nn.Conv2d, nn.Linear)) -> Module:
    """A copy whose layers of those kinds get rounded inputs and weights, and add up in float32."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, kinds):
            module.weight.data = rounded(module.weight.data, bits)
            module.register_forward_pre_hook(lambda _module, inputs: (rounded(inputs[0], bits),))
    return network
