"""How much work a network is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import nn

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
    network = _skeleton(spec)
    found = {name: pixels**2 * conv.weight.numel() for name, conv, pixels in _convolutions(network)}
    return found | {"fc": network.fc.weight.numel()}


def _convolutions(network: Network) -> Iterator[tuple[str, nn.Conv2d, int]]:
    """Each with its name and the pixels of a side of what it gives, in execution order."""
    pixels = _pixels(network.spec.image_size, network.conv1)
    yield "conv1", network.conv1, pixels
    if network.maxpool is not None:
        pixels = _pixels(pixels, network.maxpool)
    for stage, blocks in enumerate(network.stages, start=1):
        for index, block in enumerate(blocks):
            name, entering = f"layer{stage}.{index}", pixels
            # The shortcut comes first; it ends at the size at which the branch ends.
            if isinstance(block.downsample, nn.Sequential):
                yield from _chain(f"{name}.downsample", block.downsample, entering)
            for found in _chain(name, block, entering):
                yield found
                pixels = found[2]


def _chain(name: str, layers: nn.Module, pixels: int) -> Iterator[tuple[str, nn.Conv2d, int]]:
    """The convolutions among layers that follow one another."""
    for child, module in layers.named_children():
        if child == "downsample":
            continue
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            pixels = _pixels(pixels, module)
        if isinstance(module, nn.Conv2d):
            yield f"{name}.{child}", module, pixels


def _pixels(entering: int, layer: nn.Conv2d | nn.MaxPool2d) -> int:
    """Of a side of what a square layer gives."""
    sides = (layer.kernel_size, layer.stride, layer.padding)
    kernel, stride, padding = (int(side[0] if isinstance(side, tuple) else side) for side in sides)
    return (entering + 2 * padding - kernel) // stride + 1


@lru_cache(maxsize=1)
def _skeleton(spec: ModelSpec) -> Network:
    """The network without weights; not to be changed."""
    with torch.device("meta"):
        return Network(spec)
