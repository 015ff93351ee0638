"""The exact fold: the folded network against the unfolded one in float64, against the official implementation's own values,
and in float32 in units of the unfolded network's own rounding error.

"Exact" is a largest difference of at most 1e-12 of the largest reference value, in float64. The *unfolded* network differs from
itself by 8e-15 (depth 18) to 5e-13 (depth 101) when it only adds up in another order (channels last).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import logging
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support import GOLDEN, fill_golden, golden_input
from torch import Tensor, fx, nn
from torch.nn.functional import cross_entropy, interpolate

from iresnet_models import ModelSpec, Network, build_model, list_models
from iresnet_models.errors import InputError
from iresnet_models.folded import FoldedNetwork
from iresnet_models.folding import fold, fold_by_plan
from iresnet_models.folding_decisions import (
    StreamNorm,
    affine_of,
    kept_within_bounds,
    narrowed,
    plan_fold,
    reach,
    shift_of,
    stream_maxima,
    stream_norms,
)
from iresnet_models.folding_plan import FoldPlan, NormPlan
from iresnet_models.initialization import state_sha256, untrained_network
from iresnet_models.network import network_from_spec

log = logging.getLogger(__name__)
"""Says what was measured: pytest --log-cli-level=INFO."""

EXACT = 1e-12
ROUNDING_LIMIT = 2.0
"""Rounding error of a folded network, in units of the unfolded one's, beyond which a fold is not taken for exact."""

UP_TO_101 = [model for model in list_models() if model[1] <= 101]
QUICK_GOLDEN = [("resnet", 18), ("resstage", 34), ("iresnet", 18), ("iresnet", 50), ("resgroup", 50), ("iresgroupfix", 50)]
QUICK = [("resnet", 34), ("resstage", 18), ("iresnet", 34), ("iresnet", 50), ("iresgroup", 50)]


def identifier(model: tuple[str, int]) -> str:
    return f"{model[0]}{model[1]}"


def each(models: list[tuple[str, int]], quick: list[tuple[str, int]]) -> pytest.MarkDecorator:
    """One test for each network; those that are not among the quick ones are slow."""
    params = [pytest.param(model, id=identifier(model), marks=[] if model in quick else [pytest.mark.slow]) for model in models]
    return pytest.mark.parametrize("model", params)


@functools.cache
def _untrained(arch: str, depth: int, classes: int, seed: int) -> Network:
    return untrained_network(ModelSpec(arch, depth, num_classes=classes, image_size=64, resize=64), seed=seed)


def untrained(arch: str, depth: int, *, classes: int = 10, seed: int = 0) -> Network:
    """Seeded weights, with statistics as a trained network has them; positive scales, and no channel that never switches."""
    return copy.deepcopy(_untrained(arch, depth, classes, seed))


def images(count: int, size: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def outputs(network: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(part) for part in torch.tensor_split(batch, max(1, len(batch) // 8))])


def in_float64(network: Network) -> Network:
    return copy.deepcopy(network).double().eval()


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, in units of the largest wanted value (of 1, if all are zero)."""
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max()) / (float(wanted.abs().max()) or 1.0)


def inexactness(network: Network, folded: FoldedNetwork, batch: Tensor) -> float:
    """Difference of the folded network's outputs from the unfolded one's, both in float64."""
    assert folded.fc.weight.dtype == torch.float64
    found = difference(outputs(folded, batch.double()), outputs(in_float64(network), batch.double()))
    log.info("%s: difference in float64 %.1e", network.spec.name, found)
    return found


def require_exact(network: Network, batch: Tensor) -> FoldedNetwork:
    folded = fold(network, sample=batch, dtype=torch.float64)
    assert inexactness(network, folded, batch) <= EXACT
    return folded


def rounding_ratio(network: Network, folded: FoldedNetwork, batch: Tensor) -> float:
    """Root-mean-square error of the folded network in float32, in units of the unfolded one's, same images and batches."""
    reference = outputs(in_float64(network), batch.double())
    error, own = ((outputs(each, batch) - reference).square().mean().sqrt() for each in (folded, network))
    log.info("%s: error in float32 %.3g of the unfolded network's", network.spec.name, error / own)
    return float(error / own)


def calls(folded: nn.Module) -> Counter[str]:
    """What the forward pass calls: modules by their type, functions by their name."""
    graph = fx.symbolic_trace(folded)
    found: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.op == "call_module":
            found[type(graph.get_submodule(str(node.target))).__name__] += 1
        elif node.op not in ("placeholder", "output", "get_attr"):
            found[node.target if node.op == "call_method" else node.target.__name__] += 1
    return found


# --- States that BatchNorms may be in. ---


def scale_some(norm: nn.BatchNorm2d, share: float, factor: float, generator: torch.Generator) -> None:
    """Multiplies the scale of a share of the channels."""
    with torch.no_grad():
        norm.weight[torch.rand(norm.num_features, generator=generator) < share] *= factor


def batch_norms(network: Network) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def mixed(network: Network) -> None:
    """Everywhere: 30 % negative scales, 5 % zero, 5 % times 1e-4, 5 % times 1e-6."""
    generator = torch.Generator().manual_seed(7)
    for norm in batch_norms(network):
        for share, factor in ((0.3, -1.0), (0.05, 0.0), (0.05, 1e-4), (0.05, 1e-6)):
            scale_some(norm, share, factor, generator)


def zero_with_positive_shift(norm: nn.BatchNorm2d, channels: slice) -> None:
    norm.weight[channels], norm.bias[channels] = 0.0, 0.7


def zero_with_negative_shift(norm: nn.BatchNorm2d, channels: slice) -> None:
    norm.weight[channels], norm.bias[channels] = 0.0, -0.7


def zero_with_zero_shift(norm: nn.BatchNorm2d, channels: slice) -> None:
    norm.weight[channels], norm.bias[channels] = 0.0, 0.0


def negative_zero(norm: nn.BatchNorm2d, channels: slice) -> None:
    norm.weight[channels], norm.bias[channels] = -0.0, -0.0


def falling_but_never_off(norm: nn.BatchNorm2d, channels: slice) -> None:
    norm.weight[channels] *= -1e-3
    norm.bias[channels] = 0.7


def subnormal(norm: nn.BatchNorm2d, channels: slice) -> None:
    norm.weight[channels] = 1e-42


def without_shift(norm: nn.BatchNorm2d, channels: slice) -> None:
    norm.running_mean[channels], norm.bias[channels] = 0.0, 0.0  # type: ignore[index]


CHANGES = [
    zero_with_positive_shift,
    zero_with_negative_shift,
    zero_with_zero_shift,
    negative_zero,
    falling_but_never_off,
    subnormal,
    without_shift,
]


def on_stream(*changes: Callable[[nn.BatchNorm2d, slice], None]) -> Callable[[Network], None]:
    """Changes of every tenth channel of all BatchNorms that read the stream, the second one beginning with channel 1, ..."""

    def apply(network: Network) -> None:
        with torch.no_grad():
            for site in stream_norms(network):
                for first, change in enumerate(changes):
                    change(site.norm, slice(first, None, 10))

    return apply


def all_negative(network: Network) -> None:
    with torch.no_grad():
        for site in stream_norms(network)[::2]:
            site.norm.weight *= -1


def all_zero(network: Network) -> None:
    """Nothing but shifts passes any BatchNorm of the stream."""
    with torch.no_grad():
        for site in stream_norms(network):
            site.norm.weight.zero_()


def erased(network: Network) -> None:
    """Everything is zero behind the stem, and the stream never speaks."""
    with torch.no_grad():
        for norm in batch_norms(network)[1:]:
            norm.weight.zero_()
            norm.bias.zero_()


def tiny_variance(network: Network) -> None:
    """Every tenth channel has a variance of 1e-12, or of zero; what it was normalised to changes with it."""
    with torch.no_grad():
        for norm in batch_norms(network):
            norm.weight[::10] *= 1e-2
            norm.running_var[::10] = 1e-12  # type: ignore[index]
            norm.running_var[5::20] = 0.0  # type: ignore[index]


def dead_channels(network: Network) -> None:
    """Every tenth channel of the stream is zero from end to end, with the statistics that it then has."""
    with torch.no_grad():
        for blocks in network.stages:
            for block in blocks:
                final = block.conv3 if hasattr(block, "conv3") else block.conv2
                final.weight[::10] = 0
                if isinstance(block.downsample, nn.Sequential):
                    block.downsample[-2].weight[::10] = 0  # type: ignore[index]
                    for norm in (block.last_bn, block.downsample[-1]):
                        norm.running_mean[::10], norm.bias[::10] = 0, 0  # type: ignore[index, union-attr]
        for site in stream_norms(network):
            site.norm.running_mean[::10], site.norm.running_var[::10] = 0, 0  # type: ignore[index]


def unequal_channels(network: Network) -> None:
    """The same function, but for a stream whose channels reach from a hundredth to a hundred times as far."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for blocks in network.stages:
            width = blocks[-1].last_bn.num_features  # type: ignore[union-attr]
            factor = 10 ** (4 * torch.rand(width, generator=generator) - 2)
            for index, block in enumerate(blocks):
                if index == 0:
                    for norm in (block.last_bn, block.downsample[-1]):  # type: ignore[index]
                        norm.weight *= factor  # type: ignore[operator, union-attr]
                        norm.bias *= factor  # type: ignore[operator, union-attr]
                else:
                    (block.conv3 if hasattr(block, "conv3") else block.conv2).weight *= factor.view(-1, 1, 1, 1)
                if index == 1:
                    block.conv1.weight /= factor.view(1, -1, 1, 1)
                for norm in (block.bn0, block.last_bn if index == len(blocks) - 1 else None):
                    if norm is not None:
                        norm.running_mean *= factor  # type: ignore[operator]
                        norm.running_var *= factor**2  # type: ignore[operator]


STATES: dict[str, Callable[[Network], None]] = {
    "single channels": on_stream(*CHANGES),
    "all negative": all_negative,
    "all zero": all_zero,
    "erased": erased,
    "tiny variance": tiny_variance,
    "dead channels": dead_channels,
}


# --- Exactness. ---


@each(UP_TO_101, QUICK_GOLDEN)
def test_gives_the_official_implementation_its_outputs(model: tuple[str, int]) -> None:
    golden = GOLDEN[identifier(model)]
    network = build_model(*model).double().eval()
    fill_golden(network)
    folded = fold(network, sample=golden_input(), dtype=torch.float64)
    logits = outputs(folded, golden_input()).numpy()
    first = np.array(golden["logits_first8"])
    assert np.abs(logits[:, :8] - first).max() <= 1e-9 * np.abs(first).max()
    assert np.allclose(np.linalg.norm(logits, axis=1), golden["logits_norm"], rtol=1e-9, atol=0)


@each(UP_TO_101, QUICK)
def test_exact_with_negative_zero_and_tiny_scales(model: tuple[str, int]) -> None:
    network = untrained(*model)
    mixed(network)
    require_exact(network, images(2))


@pytest.mark.slow
@each(list_models(), [])
def test_exact_at_every_depth(model: tuple[str, int]) -> None:
    network = untrained_network(ModelSpec(*model, num_classes=3, image_size=32, resize=32))
    mixed(network)
    batch = images(2, 32)
    folded = fold(network, sample=batch, dtype=torch.float64)
    # Deep networks have more to add up: 4.7e-13 at depth 101, and the error grows with the depth.
    assert inexactness(network, folded, batch) <= EXACT * max(1.0, model[1] / 101)


@each([("iresnet", 34), ("iresnet", 50), ("resstage", 18), ("resstage", 50)], [("iresnet", 34), ("iresnet", 50)])
@pytest.mark.parametrize("state", STATES)
def test_exact_in_every_state(state: str, model: tuple[str, int]) -> None:
    network = untrained(*model)
    STATES[state](network)
    require_exact(network, images(2))


@pytest.mark.slow
@pytest.mark.parametrize("model", [("iresnet", 34), ("iresnet", 50)], ids=identifier)
@pytest.mark.parametrize("change", CHANGES)
def test_exact_in_every_state_of_single_channels(change: Callable[[nn.BatchNorm2d, slice], None], model: tuple[str, int]) -> None:
    network = untrained(*model)
    on_stream(change)(network)
    require_exact(network, images(2))


@each(
    [("resnet", 34), ("resnet", 50), ("iresnet", 34), ("resstage", 18), ("iresgroup", 50)],
    [("resnet", 34), ("iresnet", 34), ("iresgroup", 50)],
)
def test_exact_with_any_scales_of_the_stream(model: tuple[str, int]) -> None:
    network, generator = untrained(*model), torch.Generator().manual_seed(0)
    mixed(network)
    scales = [2 ** (6 * torch.rand(blocks[0].last_bn.num_features, generator=generator) - 3) for blocks in network.stages]  # type: ignore[union-attr]
    plan = plan_fold(network, sample=images(2), scales=scales)
    folded = fold_by_plan(network, plan, torch.float64)
    assert inexactness(network, folded, images(2)) <= EXACT
    assert stream_differences(network, folded, images(2)) <= EXACT
    assert calls(folded) == calls(fold(network, sample=images(2)))


@pytest.mark.parametrize("classes", [1, 3, 1000])
def test_exact_for_any_number_of_classes(classes: int) -> None:
    folded = require_exact(untrained("iresnet", 18, classes=classes), images(2))
    assert outputs(folded, images(2).double()).shape == (2, classes)


def test_exact_for_other_image_sizes_and_batches() -> None:
    network = untrained("iresnet", 50)
    folded = fold(network, sample=images(4), dtype=torch.float64)
    for batch in (images(1, 33), images(3, 96), images(9, 40)):
        assert inexactness(network, folded, batch) <= EXACT


# --- The stream in the original's terms. ---


def sums(network: nn.Module, batch: Tensor) -> list[Tensor]:
    """The result of every residual addition, in the order of the blocks."""
    found: list[Tensor] = []

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            # An affine that was kept adds a constant: a node that fetches an attribute.
            if n.op == "call_function" and n.target.__name__ == "add" and all(x.op != "get_attr" for x in n.all_input_nodes):  # type: ignore[union-attr]
                found.append(result)  # type: ignore[arg-type]
            return result

    with torch.no_grad():
        Recorder(fx.symbolic_trace(network)).run(batch)
    return found


def block_outputs(blocks: list[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    found: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for block in blocks]
    run()
    for handle in handles:
        handle.remove()
    return found


def stream_differences(network: Network, folded: FoldedNetwork, batch: Tensor) -> float:
    """The worst over all blocks, of the additions and of the block outputs, in float64."""
    original, batch = in_float64(network), batch.double()
    blocks = [block for stage in folded.stages for block in stage]
    found = [block.original_sum(s) for block, s in zip(blocks, sums(folded, batch), strict=True)]
    worst = [difference(r, wanted) for r, wanted in zip(found, sums(original, batch), strict=True)]
    ours = block_outputs(list(blocks), lambda: outputs(folded, batch))
    theirs = block_outputs([block for stage in original.stages for block in stage], lambda: outputs(original, batch))
    read = [block.original_output(out) for block, out in zip(blocks, ours, strict=True)]
    return max(worst + [difference(out, wanted) for out, wanted in zip(read, theirs, strict=True)])


@each(UP_TO_101, [("resnet", 34), ("resstage", 18), ("iresnet", 34), ("iresnet", 50)])
def test_undoing_scale_and_shift_gives_the_original_stream(model: tuple[str, int]) -> None:
    network = untrained(*model)
    mixed(network)
    assert stream_differences(network, fold(network, sample=images(2), dtype=torch.float64), images(2)) <= EXACT


def test_the_stream_is_scaled_and_shifted_as_said() -> None:
    network = untrained("iresnet", 50)
    folded = fold(network, sample=images(2), dtype=torch.float64)
    a, c = affine_of(network.stages[2][3].bn0)  # type: ignore[arg-type]
    block = folded.stages[2][2]
    assert torch.equal(block.scale, torch.ones_like(a))
    assert torch.allclose(block.shift, c / a, rtol=1e-14, atol=0)
    assert not folded.stages[2][0].shift.any()  # block 1 rectifies the stream itself


# --- Float32. ---


@each([("iresnet", 50), ("resstage", 34), ("iresnet", 18), ("iresnet", 101), ("iresgroup", 50)], [("iresnet", 50)])
@pytest.mark.parametrize(
    "factor", [1.0, 1e-4, pytest.param(1e-2, marks=pytest.mark.slow), pytest.param(1e-6, marks=pytest.mark.slow)]
)
def test_no_less_accurate_in_float32(model: tuple[str, int], factor: float) -> None:
    network, generator = untrained(*model), torch.Generator().manual_seed(0)
    for site in stream_norms(network):
        scale_some(site.norm, 0.05, factor, generator)
    batch = images(32)
    ratio = rounding_ratio(network, fold(network, sample=batch[:8]), batch)
    assert ratio <= ROUNDING_LIMIT


@pytest.mark.parametrize(("factor", "at_least"), [(1e-4, 5), pytest.param(1e-6, 500, marks=pytest.mark.slow)])
def test_without_the_clamp_float32_suffers(factor: float, at_least: float) -> None:
    network, generator = untrained("iresnet", 50), torch.Generator().manual_seed(0)
    for site in stream_norms(network):
        scale_some(site.norm, 0.05, factor, generator)
    plan = plan_fold(network, sample=images(8), tau=1e30)
    ratio = rounding_ratio(network, fold_by_plan(network, plan), images(32))
    assert ratio > at_least


def test_no_less_accurate_where_channels_differ_by_four_decades() -> None:
    network, generator = untrained("iresnet", 50), torch.Generator().manual_seed(0)
    for site in stream_norms(network):
        scale_some(site.norm, 0.05, 1e-4, generator)
    unequal_channels(network)
    ratio = rounding_ratio(network, fold(network, sample=images(8)), images(32))
    assert ratio <= ROUNDING_LIMIT


# --- Trained networks. ---


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    pixels = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    scaled = interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    return (scaled - 0.305) / 0.324, torch.from_numpy(data.target)


def trained(arch: str, depth: int, count: int, epochs: int) -> Network:
    """A network that has learnt to tell most of the digits."""
    x, y = digits()
    torch.manual_seed(0)
    network = network_from_spec(ModelSpec(arch, depth, num_classes=10, image_size=32, resize=32)).train()
    for norm in batch_norms(network):
        norm.momentum = 0.3  # there are few steps
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        for part in torch.randperm(count).split(32):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            cross_entropy(network(x[part]), y[part]).backward()
            optimizer.step()
    return network.eval()


@each([("iresnet", 18), ("resnet", 34), ("resstage", 50), ("iresnet", 50), ("iresnet", 101)], [("iresnet", 18)])
def test_trained_networks(model: tuple[str, int]) -> None:
    quick = model == ("iresnet", 18)
    network = trained(*model, *((320, 2) if quick else (960, 3)))
    x, y = digits()
    held_out = x[-128:]
    assert (outputs(network, held_out).argmax(1) == y[-128:]).float().mean() > 0.3  # chance is 0.1
    folded = fold(network, sample=x[:32])
    exact = fold_by_plan(network, folded.plan, torch.float64)
    assert inexactness(network, exact, held_out) <= EXACT
    ratio = rounding_ratio(network, folded, held_out)
    assert ratio <= ROUNDING_LIMIT


# --- Structure. ---


@each(UP_TO_101, QUICK)
def test_nothing_is_left_of_positive_scales(model: tuple[str, int]) -> None:
    network = build_model(*model, num_classes=7, dropout=0.1).eval()
    found, original = calls(fold(network, sample=images(1, 32))), calls(network)
    assert found.keys() <= {"Conv2d", "MaxPool2d", "AdaptiveAvgPool2d", "Linear", "relu", "add", "flatten"}
    assert found["add"] == sum(network.spec.blocks)
    for kind in ("Conv2d", "MaxPool2d", "AdaptiveAvgPool2d", "Linear", "relu", "flatten"):
        assert found[kind] == original[kind]


@pytest.mark.parametrize("model", [("iresnet", 34), ("resgroup", 50), ("iresnet", 50)], ids=identifier)
def test_names_are_those_of_the_architecture(model: tuple[str, int]) -> None:
    network = untrained(*model)
    folded = fold(network, sample=images(1))
    kinds = (nn.Conv2d, nn.Linear, nn.MaxPool2d)
    assert {name for name, part in folded.named_modules() if isinstance(part, kinds)} == {
        name for name, part in network.named_modules() if isinstance(part, kinds)
    }
    keys = {f"{name}.{kind}" for name, part in folded.named_modules() if isinstance(part, kinds[:2]) for kind in ("weight", "bias")}
    assert folded.state_dict().keys() == keys
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not folded.training


def test_signs_are_one_multiplication_where_they_are_needed() -> None:
    network = untrained("iresnet", 50)
    with torch.no_grad():
        network.stages[2][3].bn0.weight[5] *= -1  # type: ignore[union-attr]
        network.stages[0][2].bn3.weight[7] *= -1  # type: ignore[union-attr]
    folded = require_exact(network, images(2))
    assert calls(folded)["mul"] == 2
    assert calls(folded)["add"] == 16
    buffers = dict(folded.named_buffers())
    assert buffers.keys() == {"layer1.2.affine.factor", "layer3.3.affine0.factor"}
    signs = buffers["layer3.3.affine0.factor"]
    assert signs.shape == (1, 1024, 1, 1)
    assert signs.flatten().nonzero().numel() == 1024
    assert (signs < 0).flatten().nonzero().tolist() == [[5]]


def test_a_channel_that_is_never_off_needs_no_sign_but_in_front_of_a_max_pool() -> None:
    network = untrained("iresnet", 50)
    on_stream(falling_but_never_off)(network)
    plan = require_exact(network, images(2)).plan
    for site in stream_norms(network):
        signed, linear = plan.norms[site.name].signed, plan.norms[site.name].linear
        assert tuple(range(0, site.norm.num_features, 10)) == tuple(linear)
        assert signed == (tuple(linear) if site.pooled else ())
    assert [site.name for site in stream_norms(network) if site.pooled] == ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3"]


@pytest.mark.parametrize("model", [("iresnet", 34), ("resstage", 18)], ids=identifier)
def test_in_front_of_padding_the_affine_of_channels_that_are_never_off_stays(model: tuple[str, int]) -> None:
    network = untrained(*model)
    on_stream(zero_with_positive_shift)(network)
    folded = require_exact(network, images(2))
    sites = stream_norms(network)
    for site in sites:
        kept = folded.plan.norms[site.name].kept
        assert kept == (tuple(range(0, site.norm.num_features, 10)) if site.padded else ())
    padded = len(sites) - 1  # all but the last, which the classifier reads
    assert calls(folded)["mul"] == padded
    assert calls(folded)["add"] == sum(network.spec.blocks) + padded
    assert "layer2.1.bn2" not in str(folded.report) or "kept" in str(folded.report)
    with pytest.raises(InputError, match="does not follow from the weights"):
        fold_by_plan(network, moved(folded.plan, sites[0], "kept", "linear"))


@each([("iresnet", 34), ("iresnet", 50), ("resstage", 18), ("iresgroupfix", 50)], [("iresnet", 34), ("iresnet", 50)])
def test_channels_may_be_kept_where_the_fold_costs_precision(model: tuple[str, int]) -> None:
    """What stays is exact too, with any scales of the stream: at last no shift is left."""
    network, generator = untrained(*model), torch.Generator().manual_seed(0)
    mixed(network)
    batch = images(2, 32)
    scales = [2 ** (6 * torch.rand(blocks[0].last_bn.num_features, generator=generator) - 3) for blocks in network.stages]  # type: ignore[union-attr]
    plan, maxima = plan_fold(network, sample=batch, scales=scales), stream_maxima(network, batch)
    kept = sum(len(norm.kept) for norm in plan.norms.values())
    for most in (1.0, 0.25, 0.0):
        plan = narrowed(network, plan, maxima, most)
        shifts = {site.name: shift_of(*affine_of(site.norm), plan.norms[site.name]).abs() for site in stream_norms(network)}
        assert all(bool((shift <= most * maxima[name]).all()) for name, shift in shifts.items())
        folded = fold_by_plan(network, plan, torch.float64)
        assert inexactness(network, folded, batch) <= EXACT
        assert FoldPlan.from_json(plan.to_json()) == plan
        assert sum(len(norm.kept) for norm in plan.norms.values()) > kept
        kept = sum(len(norm.kept) for norm in plan.norms.values())
    assert stream_differences(network, folded, batch) <= EXACT
    assert not any(block.shift.any() for blocks in folded.stages for block in blocks)
    assert narrowed(network, plan, maxima, 0.0) == plan


def test_channels_beyond_their_bound_may_be_kept(bounded: tuple[Network, FoldedNetwork]) -> None:
    network, folded = bounded
    larger = 1.5 * images(2)
    plan = kept_within_bounds(folded.plan, stream_maxima(network, larger))
    assert any(norm.kept for norm in plan.norms.values())
    assert any(norm.bounds for norm in plan.norms.values())
    assert max(reach(network, plan, larger).values()) <= 1
    assert inexactness(network, fold_by_plan(network, plan, torch.float64), larger) <= EXACT
    assert kept_within_bounds(folded.plan, stream_maxima(network, images(2))) == folded.plan


def test_the_network_itself_stays_as_it_was() -> None:
    network = build_model("iresnet", 18, dropout=0.5)
    before = state_sha256(network)
    folded = fold(network, sample=images(1, 32))
    assert network.training
    assert all(module.training for module in network.modules())
    assert state_sha256(network) == before
    assert not {id(part) for part in folded.modules()} & {id(part) for part in network.modules()}


# --- Plans. ---


def moved(plan: FoldPlan, site: StreamNorm, source: str, target: str) -> FoldPlan:
    """The plan with a norm's channels of one kind declared to be of another."""
    norm = plan.norms[site.name]
    channels = getattr(norm, source)
    changed: dict[str, object] = {source: type(channels)(), target: dict.fromkeys(channels, 1.0)}
    return dataclasses.replace(plan, norms={**plan.norms, site.name: dataclasses.replace(norm, **changed)})  # type: ignore[arg-type]


def bits(network: nn.Module) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("model", [("resnet", 18), ("iresnet", 34), ("iresnet", 50)], ids=identifier)
def test_a_plan_through_json_gives_the_same_bits(model: tuple[str, int]) -> None:
    network = untrained(*model)
    mixed(network)
    scales = [None, [0.1 * (1 + i) for i in range(network.stages[1][0].last_bn.num_features)], None, None]  # type: ignore[union-attr]
    plan = plan_fold(network, sample=images(2), scales=scales)
    read = FoldPlan.from_json(json.loads(json.dumps(plan.to_json(), allow_nan=False)))
    assert read == plan
    again = fold_by_plan(copy.deepcopy(network), read)
    assert bits(again) == bits(fold_by_plan(network, plan))
    assert again.plan == plan
    assert again.fc.weight.dtype == torch.float32


def test_a_fold_does_not_depend_on_threads() -> None:
    network = untrained("iresnet", 50)
    mixed(network)
    plan, threads = plan_fold(network, sample=images(2)), torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(bits(fold_by_plan(network, plan)))
    torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_a_plan_is_small() -> None:
    plan = plan_fold(untrained("iresnet", 50), sample=images(1))
    assert len(json.dumps(plan.to_json())) < 1000
    assert plan.norms["layer3.5.bn0"] == NormPlan()


def test_a_foreign_plan_is_refused() -> None:
    plan = plan_fold(untrained("iresnet", 18), sample=images(1))
    for other in (untrained("iresnet", 18, seed=1), untrained("resstage", 18), untrained("iresnet", 50)):
        with pytest.raises(InputError, match="belongs to other weights"):
            fold_by_plan(other, plan)


def test_what_a_plan_says_must_be_true() -> None:
    network = untrained("iresnet", 50)
    mixed(network)
    plan = plan_fold(network, sample=images(2))
    site = stream_norms(network)[1]
    norm = plan.norms[site.name]
    channel, bound = next(iter(norm.linear.items()))
    ordinary = next(iter(set(range(512)) - {*norm.bounds, *norm.signed}))
    wrong = [
        dataclasses.replace(norm, off={**norm.off, ordinary: 100.0}),
        dataclasses.replace(norm, linear={**norm.linear, ordinary: 100.0}),
        dataclasses.replace(norm, off={**norm.off, channel: bound}),
        dataclasses.replace(norm, off={**norm.off, 100_000: bound}),
        dataclasses.replace(norm, off={**norm.linear}, linear={**norm.off}),
        dataclasses.replace(norm, signed=(*norm.signed, ordinary)),
        dataclasses.replace(norm, signed=norm.signed[1:]),
        dataclasses.replace(norm, linear={**norm.linear, channel: 1e30}),
        NormPlan(),
    ]
    for changed in wrong:
        with pytest.raises(InputError, match=f"what it says of {site.name} does not follow"):
            fold_by_plan(network, dataclasses.replace(plan, norms={**plan.norms, site.name: changed}))
    with pytest.raises(InputError, match="does not follow"):
        fold_by_plan(network, dataclasses.replace(plan, norms={}))
    with pytest.raises(InputError, match="Stage 1 takes 256 positive"):
        fold_by_plan(network, dataclasses.replace(plan, scales=((1.0,), None, None, None)))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "iresnet-export/fold/0"},
        {"network": 5},
        {"tau": "4"},
        {"tau": float("nan")},
        {"tau": True},
        {"sample": [1, 3, 64]},
        {"sample": [1, 3, 64, -1]},
        {"scales": [None]},
        {"scales": [[0.0], None, None, None]},
        {"scales": [[float("inf")], None, None, None]},
        {"norms": []},
        {"norms": {"layer1.1.bn2": {"off": [1]}}},
        {"norms": {"layer1.1.bn2": {"off": {"-1": 2.0}}}},
        {"norms": {"layer1.1.bn2": {"off": {"1": None}}}},
        {"norms": {"layer1.1.bn2": {"linear": {"1": 0}}}},
        {"norms": {"layer1.1.bn2": {"signed": [2, 1]}}},
        {"norms": {"layer1.1.bn2": {"signed": [1, 1]}}},
        {"norms": {"layer1.1.bn2": {"kept": [1.0]}}},
        {"norms": {"layer1.1.bn2": {"other": [1]}}},
        {"unknown": 1},
    ],
    ids=json.dumps,
)
def test_a_damaged_plan_is_refused(change: dict[str, object]) -> None:
    good = FoldPlan("0" * 64, 4.0, (1, 3, 64, 64), norms={"layer1.1.bn2": NormPlan(signed=(1,))}).to_json()
    assert FoldPlan.from_json(good).to_json() == good
    with pytest.raises(InputError, match="not the plan of a fold"):
        FoldPlan.from_json(good | change)


@pytest.mark.parametrize("data", [None, [], "plan", {}, {"format": "iresnet-export/fold/1"}])
def test_no_plan_at_all(data: object) -> None:
    with pytest.raises(InputError, match="not the plan of a fold"):
        FoldPlan.from_json(data)


# --- Bounds and the report. ---


@pytest.fixture(scope="module")
def bounded() -> tuple[Network, FoldedNetwork]:
    """A network with channels that never switch, folded in float64 by two images."""
    network, generator = untrained("iresnet", 50), torch.Generator().manual_seed(0)
    for site in stream_norms(network):
        scale_some(site.norm, 0.05, 1e-2, generator)
    return network, fold(network, sample=images(2), dtype=torch.float64)


def test_exact_within_the_bounds_and_beyond_the_sample(bounded: tuple[Network, FoldedNetwork]) -> None:
    network, folded = bounded
    assert max(reach(network, folded.plan, images(2)).values()) <= 1 / 4  # the sample itself
    assert 1 / 4 < max(reach(network, folded.plan, images(2, seed=1)).values()) <= 1
    assert inexactness(network, folded, images(2, seed=1)) <= EXACT


def test_beyond_the_bounds(bounded: tuple[Network, FoldedNetwork]) -> None:
    """`reach` tells such images; only channels that nearly never switch are wrong there; and a wider sample mends it."""
    network, folded = bounded
    larger = 1.5 * images(2)
    found = reach(network, folded.plan, larger)
    assert found.keys() == {name for name, norm in folded.plan.norms.items() if norm.bounds}
    assert 10 < max(found.values()) < 100
    assert EXACT < inexactness(network, folded, larger) < 1e-2
    wider = fold(network, sample=torch.cat([images(2), larger]), dtype=torch.float64)
    assert inexactness(network, wider, larger) <= EXACT


def test_without_bounded_channels_exact_for_every_input() -> None:
    network = untrained("iresnet", 50)
    folded = fold(network, sample=images(1), dtype=torch.float64)
    assert folded.report.is_exact_everywhere
    assert reach(network, folded.plan, images(1)) == {}
    assert inexactness(network, folded, 1000 * images(2, seed=1)) <= EXACT


def test_a_channel_may_reach_a_quarter_as_far_as_a_typical_one() -> None:
    network = untrained("iresnet", 50)
    dead_channels(network)
    on_stream(zero_with_negative_shift)(network)
    sample = images(2)
    plan, maxima = plan_fold(network, sample=sample, tau=2), stream_maxima(network, sample)
    for name, norm in plan.norms.items():
        typical = float(maxima[name][maxima[name] > 0].median())
        assert norm.off
        for channel, bound in norm.off.items():
            assert bound == max(2 * float(maxima[name][channel]), typical / 4)


def test_the_report() -> None:
    network = untrained("iresnet", 34)
    mixed(network)
    report = fold(network, sample=images(2)).report
    data = report.to_json()
    json.dumps(data, allow_nan=False)
    assert (data["folded_into_convolutions"], data["folded_into_stream"]) == (24, 12)
    assert not data["exact_everywhere"]
    assert {found["kind"] for found in data["exceptions"]} == {"off", "linear", "signed", "kept"}
    plan = report.plan.norms
    for found in data["exceptions"]:
        assert found["channels"] == list(getattr(plan[found["norm"]], found["kind"]))
    lines = str(report).splitlines()
    assert lines[0] == (
        "iresnet34: 24 BatchNorms folded into the convolutions in front of them, 12 into the scale and shift of the stream."
    )
    assert "4 times its largest |r| over the sample of 2 images of 64x64" in lines[1]
    assert any(line.startswith("layer2.2.bn0: channels ") and "padded 3x3" in line for line in lines)
    assert max(map(len, lines)) < 250


def test_the_report_of_a_plain_fold() -> None:
    report = fold(untrained("resnet", 18), sample=images(1)).report
    assert str(report) == (
        "resnet18: 20 BatchNorms folded into the convolutions in front of them, 0 into the scale and shift of the stream.\n"
        "Exact for every input."
    )


# --- Wrong use. ---


@pytest.mark.parametrize(
    "sample",
    [
        torch.zeros(3, 64, 64),
        torch.zeros(1, 1, 64, 64),
        torch.zeros(0, 3, 64, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        torch.full((1, 3, 64, 64), float("nan")),
        torch.full((1, 3, 64, 64), float("inf")),
    ],
    ids=["no batch", "one channel", "empty", "integers", "nan", "infinite"],
)
@pytest.mark.parametrize("arch", ["iresnet", "resnet"])
def test_a_wrong_sample_is_refused(sample: Tensor, arch: str) -> None:
    with pytest.raises(InputError, match="sample"):
        fold(untrained(arch, 18), sample=sample)


@pytest.mark.parametrize("tau", [0.5, 0.0, -1.0, float("nan"), float("inf")])
def test_a_wrong_tau_is_refused(tau: float) -> None:
    with pytest.raises(InputError, match="tau"):
        plan_fold(untrained("iresnet", 18), sample=images(1), tau=tau)


@pytest.mark.parametrize("scale", [[1.0], [1.0] * 63 + [0.0], [1.0] * 63 + [float("inf")], [-1.0] * 64])
def test_wrong_scales_are_refused(scale: list[float]) -> None:
    with pytest.raises(InputError, match="Stage 1 takes 64 positive, finite scales"):
        plan_fold(untrained("iresnet", 18), sample=images(1), scales=[scale, None, None, None])
    with pytest.raises(InputError, match="four stages"):
        plan_fold(untrained("iresnet", 18), sample=images(1), scales=[None])


@pytest.mark.parametrize("key", ["layer1.1.bn2.running_var", "layer1.1.bn2.bias", "layer2.0.conv1.weight", "fc.bias"])
def test_weights_that_are_not_finite_are_refused(key: str) -> None:
    network = untrained("iresnet", 18)
    network.state_dict()[key].flatten()[0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        fold(network, sample=images(1))


def test_weights_beyond_the_type_are_refused() -> None:
    network = untrained("resnet", 18)
    with torch.no_grad():
        network.stages[1][0].bn1.weight *= 1e6
    fold(network, sample=images(1))
    with pytest.raises(InputError, match=r"layer2.0.conv1.weight holds values that are NaN or beyond float16"):
        fold(network, sample=images(1), dtype=torch.float16)
