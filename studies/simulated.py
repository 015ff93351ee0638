"""Winograd's convolution in float32, simulated in eager PyTorch."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_WEIGHT_TIMES_24 = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
"""The matrices of F(4x4, 3x3) for the points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, arXiv 1509.09308, section 4.3)."""

_TILE, _STEP = 6, 4


class WinogradConv(nn.Module):
    """A 3x3 convolution of stride 1 by F(4x4, 3x3): tiles of 6x6 pixels give 4x4 results each, everything in the input's type."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv, groups = self.conv, self.conv.groups
        count, channels, height, width = x.shape
        tiles_high, tiles_wide = -(-height // _STEP), -(-width // _STEP)
        x = functional.pad(x, (1, tiles_wide * _STEP + 1 - width, 1, tiles_high * _STEP + 1 - height))
        tiles = x.unfold(2, _TILE, _STEP).unfold(3, _TILE, _STEP).reshape(count, groups, channels // groups, -1, _TILE, _TILE)
        to_input, to_weight, to_output = (x.new_tensor(rows) for rows in (_INPUT, _WEIGHT_TIMES_24, _OUTPUT))
        to_weight = to_weight / 24
        weight = (to_weight @ conv.weight @ to_weight.T).reshape(groups, -1, channels // groups, _TILE, _TILE)
        products = torch.einsum("ngctij,gkcij->ngktij", to_input @ tiles @ to_input.T, weight)
        results = (to_output @ products @ to_output.T).reshape(count, conv.out_channels, tiles_high, tiles_wide, _STEP, _STEP)
        image = results.transpose(3, 4).reshape(count, conv.out_channels, tiles_high * _STEP, tiles_wide * _STEP)
        found: Tensor = image[:, :, :height, :width]
        return found if conv.bias is None else found + conv.bias[:, None, None]


def with_winograd(network: nn.Module) -> nn.Module:
    """A copy whose 3x3 convolutions of stride 1 are Winograd's."""
    network = copy.deepcopy(network).eval()
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and (module.kernel_size, module.stride, module.padding) == ((3, 3), (1, 1), (1, 1)):
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, WinogradConv(module))
    return network
