"""The exact fold: a network without its BatchNorms, which computes the same.

A BatchNorm after a convolution goes into it. A BatchNorm `a * r + c` that reads the residual stream r follows an addition; it
goes into the stream: blocks hand on `s = D * r + T` in place of r, with `T = D * c / a`, so that `a * r + c = (a / D) * s`. The
scale `|a| / D` passes through the ReLU and the poolings into the next convolution, and each block's last bias brings the
shift from one T to the next. docs/folding.md derives it, and treats the channels whose ReLU never switches.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from iresnet_models.errors import InputError
from iresnet_models.folded import ChannelAffine, FoldedBlock, FoldedNetwork, Reading
from iresnet_models.folding_decisions import (
    affine_of,
    channel_mask,
    last_bn_name,
    last_conv,
    plan_fold,
    require_plan_of,
    shift_of,
)
from iresnet_models.folding_plan import FoldPlan, NormPlan, StageScale
from iresnet_models.folding_report import FoldReport
from iresnet_models.layout import LastNorm
from iresnet_models.network import Block, Bottleneck, Network


def fold(network: Network, *, sample: Tensor, dtype: torch.dtype = torch.float32) -> FoldedNetwork:
    """`network` without BatchNorms, its weights computed in float64 and then cast to `dtype`.

    `sample`: images (n, 3, height, width) as the network takes them. They say how far the stream reaches, and so which
    channels never switch; the result's report says for which inputs it is exact. Raises InputError for images or weights
    that are not finite.
    """
    return fold_by_plan(network, plan_fold(network, sample=sample), dtype)


def fold_by_plan(network: Network, plan: FoldPlan, dtype: torch.dtype = torch.float32) -> FoldedNetwork:
    """The fold that `plan` describes, bit for bit the same each time, on the network's device.

    Raises InputError if the plan does not belong to the network, or a folded weight is beyond `dtype`.
    """
    require_plan_of(network, plan)
    stages = network.stages
    scales = [_stage_scale(blocks, given) for blocks, given in zip(stages, plan.scales, strict=True)]
    # A shortcut without a convolution cannot bring its input to the stage's scale: it has to come with it.
    direct = _projection(stages[0][0]) is None
    stem_scale = scales[0] if direct else torch.ones(network.conv1.out_channels, dtype=torch.float64)
    a, c = affine_of(network.bn1)
    conv1 = _folded_conv(network.conv1, None, stem_scale * a, stem_scale * c)
    reading, folded_stages = _plain_reading(stem_scale), []
    for stage, (blocks, scale) in enumerate(zip(stages, scales, strict=True), start=1):
        points = _points(f"layer{stage}", blocks, scale, reading, plan)
        folded_stages.append([_folded_block(block, *ends, scale) for block, ends in zip(blocks, pairwise(points), strict=True)])
        reading = points[-1].reading
    fc = _folded_classifier(network.fc, reading)
    report = FoldReport(network.spec, plan, sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()))
    folded = FoldedNetwork(report, conv1=conv1, maxpool=copy.deepcopy(network.maxpool), stages=folded_stages, fc=fc)
    return _finite(folded.to(device=network.conv1.weight.device, dtype=dtype))


@dataclass(frozen=True)
class _Point:
    """The stream where a ReLU reads it: its shift T there, what is left in front of the ReLU, and how to read what comes out."""

    shift: Tensor
    affine: ChannelAffine | None
    reading: Reading


def _points(stage: str, blocks: Sequence[Block], scale: Tensor, stage_input: Reading, plan: FoldPlan) -> list[_Point]:
    """The stage's input, the stream in front of each block but the first, and behind the last."""
    unshifted = torch.zeros_like(scale)
    points = [_Point(unshifted, None, stage_input)]
    for index, block in enumerate(blocks):
        after = blocks[index + 1].bn0 if index + 1 < len(blocks) else None
        name = f"{stage}.{index + 1}.bn0"
        if block.layout.last_norm is LastNorm.AFTER_ADDITION:
            after, name = block.last_bn, f"{stage}.{index}.{last_bn_name(block)}"
        plain = _Point(unshifted, None, _plain_reading(scale))
        points.append(plain if after is None else _point(*affine_of(after), scale, plan.norms[name]))
    return points


def _point(a: Tensor, c: Tensor, scale: Tensor, plan: NormPlan) -> _Point:
    """Where `relu(a * r + c)` reads the stream of scale D."""
    off, linear, signed, kept = (channel_mask(which, len(a)) for which in (plan.off, plan.linear, plan.signed, plan.kept))
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    sign = torch.where(signed, -one, one)
    shift = shift_of(a, c, plan)
    gain = torch.where(kept, one, torch.where(off, zero, sign * a / scale))
    offset = torch.where(linear, c - a * shift, zero)
    affine = None
    if plan.signed or plan.kept:
        affine = ChannelAffine(torch.where(kept, a / scale, sign), torch.where(kept, c, zero) if plan.kept else None)
    return _Point(scale * shift, affine, Reading(gain, offset))


def _folded_block(block: Block, before: _Point, after: _Point, scale: Tensor) -> FoldedBlock:
    """The block between two points of its stage's stream of scale D."""
    layout = block.layout
    convs = [(block.conv1, block.bn1)]
    if isinstance(block, Bottleneck):
        convs.append((block.conv2, block.bn2))
    folded = [_folded_conv(conv, before.reading if conv is block.conv1 else None, *affine_of(norm)) for conv, norm in convs]
    gain, bias = scale, after.shift - before.shift
    if block.last_bn is not None and layout.last_norm is LastNorm.IN_BRANCH:
        a, c = affine_of(block.last_bn)
        gain, bias = scale * a, scale * c + bias
    folded.append(_folded_conv(last_conv(block), None, gain, bias))
    output = after.reading if layout.final_relu else Reading(1 / scale, -after.shift / scale)
    return FoldedBlock(
        layout,
        folded,
        _folded_shortcut(block, before.reading, scale),
        before.affine if layout.has_bn0 else None,
        after.affine if layout.final_relu else None,
        scale=scale,
        shift=after.shift,
        output=output,
    )


def _folded_shortcut(block: Block, reading: Reading, scale: Tensor) -> nn.Module | None:
    projection = _projection(block)
    if projection is None:
        return copy.deepcopy(block.downsample)  # nothing, or a max pool, which the positive scale passes
    pools, conv, norm = projection
    a, c = affine_of(norm)
    return nn.Sequential(*copy.deepcopy(pools), _folded_conv(conv, reading, scale * a, scale * c))


def _projection(block: Block) -> tuple[list[nn.Module], nn.Conv2d, nn.BatchNorm2d] | None:
    """The pooling (if there is one), convolution and BatchNorm of a block's shortcut; None if it has no convolution."""
    if not isinstance(block.downsample, nn.Sequential):
        return None
    *pools, conv, norm = block.downsample
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return pools, conv, norm


def _folded_conv(conv: nn.Conv2d, reading: Reading | None, gain: Tensor, bias: Tensor) -> nn.Conv2d:
    """`gain * conv(x) + bias` where x is read from the input by `reading` (None: it is the input), in float64.

    Only 1x1 convolutions are given a reading with an offset: at a zero-padded border, a constant is no bias.
    """
    weight = conv.weight.detach().double().cpu()
    if reading is not None:
        if bool(reading.offset.any()):
            bias = bias + gain * _response(weight.squeeze((2, 3)), reading.offset)
        weight = weight * reading.gain.view(1, -1, 1, 1)
    options: dict[str, Any] = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")}
    with torch.device("meta"):
        folded = nn.Conv2d(conv.in_channels, conv.out_channels, **options)
    folded.weight, folded.bias = nn.Parameter(weight * gain.view(-1, 1, 1, 1)), nn.Parameter(bias)
    return folded


def _folded_classifier(fc: nn.Linear, reading: Reading) -> nn.Linear:
    """Average pooling passes any scale and constant, so that the classifier takes both."""
    weight, bias = fc.weight.detach().double().cpu(), fc.bias.detach().double().cpu()
    with torch.device("meta"):
        folded = nn.Linear(fc.in_features, fc.out_features)
    folded.weight, folded.bias = nn.Parameter(weight * reading.gain), nn.Parameter(bias + _response(weight, reading.offset))
    return folded


def _response(weight: Tensor, constants: Tensor) -> Tensor:
    """What `weight` (outputs, inputs) makes of constant inputs; added up in the channels' order, so the same on every machine."""
    response = torch.zeros(len(weight), dtype=weight.dtype)
    for channel in constants.nonzero().flatten().tolist():
        response = response + weight[:, channel] * constants[channel]
    return response


def _stage_scale(blocks: Sequence[Block], given: StageScale) -> Tensor:
    if given is None:
        return torch.ones(last_conv(blocks[0]).out_channels, dtype=torch.float64)
    return torch.tensor(given, dtype=torch.float64)


def _plain_reading(scale: Tensor) -> Reading:
    return Reading(1 / scale, torch.zeros_like(scale))


def _finite(folded: FoldedNetwork) -> FoldedNetwork:
    for key, value in folded.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"Folded, {key} holds values that are NaN or beyond {str(value.dtype).removeprefix('torch.')};",
                "export this network unfolded, or in a wider precision.",
            )
    return folded
