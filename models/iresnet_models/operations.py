"""How much work a network is, counted from its spec alone. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from iresnet_models.layout import BlockLayout, LastNorm, widths
from iresnet_models.spec import ModelSpec, NetworkSpec


class Convolution(NamedTuple):
    """`pixels`: of the height and the width of what it gives. `norm`: channels of the BatchNorms that belong to it."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    groups: int
    pixels: tuple[int, int]
    norm: int

    @property
    def weights(self) -> int:
        return self.outputs * (self.inputs // self.groups) * self.kernel**2


def parameter_count(spec: ModelSpec) -> int:
    """Learnable parameters."""
    return sum(found.weights + 2 * found.norm for found in _convolutions(spec)) + (_features(spec) + 1) * spec.num_classes


def multiply_accumulates(spec: ModelSpec) -> int:
    """Multiply-accumulates of all convolutions and the classifier, for one image of the spec's size."""
    return sum(layer_multiply_accumulates(spec).values())


def layer_multiply_accumulates(spec: NetworkSpec) -> dict[str, int]:
    """The same for each convolution and the classifier, by name, in execution order; nothing for networks of other families."""
    if not isinstance(spec, ModelSpec):
        return {}
    found = {each.name: math.prod(each.pixels) * each.weights for each in _convolutions(spec)}
    return found | {"fc": _features(spec) * spec.num_classes}


def _features(spec: ModelSpec) -> int:
    return widths(spec, 3)[1]


def _convolutions(spec: ModelSpec) -> Iterator[Convolution]:
    """In execution order."""
    pooled = spec.family.shortcut == "pool"
    pixels = _reduced(spec.sides, 7, 2)
    yield Convolution("conv1", 3, 64, 7, 1, pixels, 64)
    if not pooled:
        pixels = _reduced(pixels, 3, 2)
    inputs = 64
    for stage, count in enumerate(spec.blocks):
        outputs = widths(spec, stage)[1]
        for index in range(count):
            stride = 2 if index == 0 and (stage > 0 or pooled) else 1
            if index == 0 and (inputs != outputs or (stride == 2 and not pooled)):
                # The shortcut comes first; the projection follows its pool, or strides itself.
                name = f"layer{stage + 1}.0.downsample.{int(pooled)}"
                yield Convolution(name, inputs, outputs, 1, 1, _reduced(pixels, 3, stride), outputs)
            layout = BlockLayout.of(index, count, resstage=spec.family.resstage)
            yield from _block(spec, stage, f"layer{stage + 1}.{index}", inputs, pixels, stride, layout)
            pixels, inputs = _reduced(pixels, 3, stride), outputs


def _block(
    spec: ModelSpec, stage: int, name: str, inputs: int, pixels: tuple[int, int], stride: int, layout: BlockLayout
) -> Iterator[Convolution]:
    (width, outputs), groups = widths(spec, stage), spec.stage_groups[stage]
    ends = _reduced(pixels, 3, stride)
    last = 0 if layout.last_norm is LastNorm.NONE else outputs
    first = width + (inputs if layout.has_bn0 else 0)
    if spec.bottleneck:
        yield Convolution(f"{name}.conv1", inputs, width, 1, 1, pixels, first)
        yield Convolution(f"{name}.conv2", width, width, 3, groups, ends, width)
        yield Convolution(f"{name}.conv3", width, outputs, 1, 1, ends, last)
    else:
        yield Convolution(f"{name}.conv1", inputs, width, 3, groups, ends, first)
        yield Convolution(f"{name}.conv2", width, outputs, 3, groups, ends, last)


def _reduced(pixels: tuple[int, int], kernel: int, stride: int) -> tuple[int, int]:
    """Of height and width of what a layer gives that pads by half its kernel."""
    height, width = ((side + 2 * (kernel // 2) - kernel) // stride + 1 for side in pixels)
    return height, width
