"""From a network and sample images to the plan of its fold, and whether a plan is one of a network."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from iresnet_models.errors import InputError
from iresnet_models.folding_plan import Bounds, Channels, FoldPlan, NormPlan, Scales, StageScale
from iresnet_models.initialization import state_sha256
from iresnet_models.layout import LastNorm
from iresnet_models.network import Block, Bottleneck, Network

TAU = 4.0
"""How many times further than over the sample the stream may reach before a fold with clamped channels is inexact."""

_LEAST = 1 / 4
_BATCH = 8

GivenScales = Sequence[Tensor | Sequence[float] | None]


@dataclass(frozen=True)
class StreamNorm:
    """A BatchNorm that reads the residual stream, and what reads it through its ReLU.

    `padded`: a convolution with zero padding, where a constant is no bias. `pooled`: a max pool, which only scales that
    are not negative pass.
    """

    name: str
    norm: nn.BatchNorm2d
    padded: bool
    pooled: bool


def plan_fold(network: Network, *, sample: Tensor, tau: float = TAU, scales: GivenScales | None = None) -> FoldPlan:
    """Decides how `network` is folded.

    `sample`: images (n, 3, h, w) as the network takes them, from which the stream's reach is measured (in float64).
    `tau` (at least 1): how many times further it may reach. `scales`: a positive scale for the channels of each of the four
    stages' streams, None for 1. Raises InputError for a sample, scales or weights that are not finite or do not fit.
    """
    if not 1 <= tau < math.inf:
        raise InputError(f"tau says how far beyond the sample a fold is exact; it is at least 1 and finite, not {tau}.")
    maxima = stream_maxima(network, sample)
    norms = {site.name: _norm_plan(site, _bounds(maxima[site.name], tau)) for site in stream_norms(network)}
    n, channels, height, width = sample.shape
    return FoldPlan(state_sha256(network), float(tau), (n, channels, height, width), _checked_scales(network, scales), norms)


def require_plan_of(network: Network, plan: FoldPlan) -> None:
    """Raises InputError unless `plan` was made for `network`, and all that it says is true of the weights."""
    if plan.network != state_sha256(network):
        raise InputError(
            f"The fold's plan belongs to other weights than those of this {network.spec.name} (the SHA-256 of their state begins "
            f"with {plan.network[:12]}).",
            "Fold this network anew, or give the checkpoint that the plan was made for.",
        )
    _checked_scales(network, plan.scales)
    sites = {site.name: site for site in stream_norms(network)}
    wrong = sites.keys() ^ plan.norms.keys() or {name for name, site in sites.items() if not _holds(plan.norms[name], site)}
    if wrong:
        raise InputError(
            f"The fold's plan is damaged: what it says of {', '.join(sorted(wrong)[:3])} does not follow from the weights of "
            f"this {network.spec.name}.",
            "Fold the network anew.",
        )


def reach(network: Network, plan: FoldPlan, images: Tensor) -> dict[str, float]:
    """How far `images` (n, 3, h, w) take the stream: the largest |r| over its bound, by BatchNorm with bounded channels.

    Where all are at most 1, the fold is exact for these images.
    """
    maxima = stream_maxima(network, images)
    found = {name: [float(maxima[name][key]) / bound for key, bound in norm.bounds.items()] for name, norm in plan.norms.items()}
    return {name: max(ratios) for name, ratios in found.items() if ratios}


def kept_within_bounds(plan: FoldPlan, maxima: Mapping[str, Tensor]) -> FoldPlan:
    """The plan with those channels kept whose bound is below the largest |r| in `maxima`, as `stream_maxima` gives it."""
    return _keeping(
        plan, {name: [key for key, bound in norm.bounds.items() if maxima[name][key] > bound] for name, norm in plan.norms.items()}
    )


def narrowed(network: Network, plan: FoldPlan, maxima: Mapping[str, Tensor], most: float) -> FoldPlan:
    """The plan with those channels kept whose shift is more than `most` times their largest |r| in `maxima`.

    Float32 rounds a shifted stream at the size of its shift: these channels are what a fold loses precision by.
    """
    shifts = {site.name: shift_of(*affine_of(site.norm), plan.norms[site.name]).abs() for site in stream_norms(network)}
    return _keeping(plan, {name: _listed(shift > most * maxima[name]) for name, shift in shifts.items()})


def _keeping(plan: FoldPlan, channels: Mapping[str, Sequence[int]]) -> FoldPlan:
    return dataclasses.replace(plan, norms={name: norm.keeping(channels[name]) for name, norm in plan.norms.items()})


def stream_norms(network: Network) -> list[StreamNorm]:
    """The BatchNorms that follow an addition and not a convolution, in the order in which they run. Plain families have none."""
    sites = []
    for stage, blocks in enumerate(network.stages):
        following = network.stages[stage + 1][0] if stage < 3 else None
        for index, block in enumerate(blocks):
            name = f"layer{stage + 1}.{index}"
            if block.bn0 is not None:
                sites.append(StreamNorm(f"{name}.bn0", block.bn0, _is_padded(block.conv1), pooled=False))
            if block.last_bn is not None and block.layout.last_norm is LastNorm.AFTER_ADDITION:
                padded = following is not None and _is_padded(following.conv1)
                pooled = following is not None and any(isinstance(part, nn.MaxPool2d) for part in following.modules())
                sites.append(StreamNorm(f"{name}.{last_bn_name(block)}", block.last_bn, padded, pooled))
    return sites


def stream_maxima(network: Network, images: Tensor) -> dict[str, Tensor]:
    """Largest |r| of each channel that each stream BatchNorm reads over `images` (n, 3, h, w), in float64 on the CPU."""
    if images.dim() != 4 or images.shape[1] != 3 or not images.numel() or not images.is_floating_point():
        raise InputError(f"A sample is a batch of images (n, 3, height, width), not {images.dtype} {tuple(images.shape)}.")
    if not bool(torch.isfinite(images).all()):
        raise InputError("The sample images hold NaN or infinite values;", "give images as the network's preprocessing makes them.")
    maxima: dict[str, Tensor] = {}
    if not stream_norms(network):
        return maxima
    double = copy.deepcopy(network).double().eval()
    for site in stream_norms(double):
        maxima[site.name] = torch.zeros(site.norm.num_features, dtype=torch.float64)
        site.norm.register_forward_pre_hook(_recorder(maxima, site.name))
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            double(images[start : start + _BATCH].to(double.conv1.weight))
    for name, values in maxima.items():
        if not bool(torch.isfinite(values).all()):
            raise InputError(f"The network gives NaN or infinite values in front of {name}: its weights have diverged.")
    return {name: values.clone() for name, values in maxima.items()}


def affine_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A BatchNorm in evaluation mode as `a * x + c`: (a, c), per channel, float64 on the CPU."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise InputError("A BatchNorm without running statistics cannot be folded.")
    weight, bias, mean, variance = (value.detach().double().cpu() for value in (norm.weight, norm.bias, mean, variance))
    a = weight / torch.sqrt(variance + norm.eps)
    return a, bias - a * mean


def shift_of(a: Tensor, c: Tensor, plan: NormPlan) -> Tensor:
    """What the fold adds to the stream where `a * r + c` reads it, in units of r (width,), float64."""
    off, linear, signed, kept = (channel_mask(which, len(a)) for which in (plan.off, plan.linear, plan.signed, plan.kept))
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    # A linear channel only has to stay on one side of zero.
    bounds = torch.where(signed, -one, one) * bound_tensor(plan.linear, len(a))
    shift = torch.where(linear, bounds, c / torch.where(a == 0, one, a))
    return torch.where(off | kept | (a == 0), zero, shift)


def last_conv(block: Block) -> nn.Conv2d:
    """The convolution that ends a block's branch."""
    return block.conv3 if isinstance(block, Bottleneck) else block.conv2


def last_bn_name(block: Block) -> str:
    return "bn3" if isinstance(block, Bottleneck) else "bn2"


def channel_mask(channels: Sequence[int] | Bounds, width: int) -> Tensor:
    """A boolean mask (width,) of the channels."""
    mask = torch.zeros(width, dtype=torch.bool)
    mask[list(channels)] = True
    return mask


def bound_tensor(bounds: Bounds, width: int) -> Tensor:
    """The bounds of the channels that have one and zero elsewhere (width,), float64."""
    values = torch.zeros(width, dtype=torch.float64)
    values[list(bounds)] = torch.tensor(list(bounds.values()), dtype=torch.float64)
    return values


def _recorder(maxima: dict[str, Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def record(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        maxima[name] = torch.maximum(maxima[name], inputs[0].abs().amax((0, 2, 3)).cpu())

    return record


def _is_padded(conv: nn.Conv2d) -> bool:
    return conv.padding != (0, 0)


def _bounds(maxima: Tensor, tau: float) -> Tensor:
    """How far each channel may reach: `tau` times as far as over the sample, and at least a quarter as far as a typical one did.

    For a channel that is silent over the sample may speak elsewhere. Where all are silent there is nothing to go by, and
    1 is taken. One bound for all would let a channel that is a hundredth of the largest be shifted by hundreds of times
    its own reach, and so lose that much precision.
    """
    heard = maxima[maxima > 0]
    least = _LEAST * float(heard.median()) if len(heard) else 1.0
    return (tau * maxima).clamp(min=least)


def _norm_plan(site: StreamNorm, bounds: Tensor) -> NormPlan:
    a, c = affine_of(site.norm)
    if not all(bool(torch.isfinite(values).all()) for values in (a, c, bounds)):
        raise InputError(f"{site.name} holds or reads NaN or infinite values, or its variance is negative; it cannot be folded.")
    never_switches = (c.abs() > a.abs() * bounds) | (a == 0)
    off, on = never_switches & (c <= 0), never_switches & (c > 0)
    nothing = torch.zeros_like(on)
    linear, kept = (nothing, on) if site.padded else (on, nothing)
    return NormPlan(_bounded(off, bounds), _bounded(linear, bounds), _listed(_signed(site, a, off, linear, kept)), _listed(kept))


def _signed(site: StreamNorm, a: Tensor, off: Tensor, linear: Tensor, kept: Tensor) -> Tensor:
    """Channels of negative scale whose sign matters: a linear one's may go into the weights, but not through a max pool."""
    return (a < 0) & ~off & ~kept & (~linear | site.pooled)


def _holds(plan: NormPlan, site: StreamNorm) -> bool:
    """Whether a fold by this plan is exact within the plan's bounds."""
    a, c = affine_of(site.norm)
    width = len(a)
    listed = [*plan.off, *plan.linear, *plan.kept]
    if max(listed + list(plan.signed), default=0) >= width or len(set(listed)) < len(listed) or (site.padded and plan.linear):
        return False
    off, linear, kept, signed = (channel_mask(channels, width) for channels in (plan.off, plan.linear, plan.kept, plan.signed))
    never_switches = (c.abs() >= a.abs() * bound_tensor(plan.bounds, width)) | (a == 0)
    right = torch.where(off, never_switches & (c <= 0), torch.where(linear, never_switches & (c > 0), kept | (a != 0)))
    return bool(right.all()) and torch.equal(signed, _signed(site, a, off, linear, kept))


def _bounded(mask: Tensor, bounds: Tensor) -> Bounds:
    return {channel: float(bounds[channel]) for channel in _listed(mask)}


def _listed(mask: Tensor) -> Channels:
    return tuple(mask.nonzero().flatten().tolist())


def _checked_scales(network: Network, scales: GivenScales | None) -> Scales:
    widths = [last_conv(blocks[0]).out_channels for blocks in network.stages]
    given = (None,) * len(widths) if scales is None else scales
    if len(given) != len(widths):
        raise InputError(f"A network has four stages, and {len(given)} scales were given.")
    first, second, third, fourth = (_checked_scale(*each) for each in zip(range(1, 5), given, widths, strict=True))
    return first, second, third, fourth


def _checked_scale(stage: int, scale: Tensor | Sequence[float] | None, width: int) -> StageScale:
    if scale is None:
        return None
    values = tuple(float(value) for value in scale)
    if len(values) != width or not all(0 < value < math.inf for value in values):
        raise InputError(
            f"Stage {stage} takes {width} positive, finite scales, one for each channel; {len(values)} values were given."
        )
    return values
