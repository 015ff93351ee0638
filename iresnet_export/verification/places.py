"""What a network gives at its places: stem, `layer1.0` and so on, pool and classifier; or the modules of another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from iresnet_export.graph.network import POOL, STEM
from iresnet_export.graph.probe import Probe
from iresnet_models.deployed import DeployedNetwork
from iresnet_models.folded import FoldedNetwork, Reading


def at_places(probe: Probe, batch: Tensor) -> dict[str, Tensor]:
    """The values at every place, in execution order, in the network's own terms."""
    return dict(zip(probe.places, probe.values(batch, list(probe.places.values())), strict=True))


def original_terms(network: nn.Module, places: Iterable[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    """How the unfolded network's value is read from this one's, at each of the places: scale and shift of the stream undone."""
    inner: nn.Module = network.network if isinstance(network, DeployedNetwork) else network
    terms: dict[str, Callable[[Tensor], Tensor]] = dict.fromkeys(places, lambda values: values)
    if isinstance(inner, FoldedNetwork):
        for stage, blocks in enumerate(inner.stages, start=1):
            terms |= {f"layer{stage}.{index}": block.original_output for index, block in enumerate(blocks)}
        terms[POOL] = inner.stages[-1][-1].original_output
        first = inner.stages[0][0]
        if not isinstance(first.downsample, nn.Sequential):  # the stem brings the stage its scale
            terms[STEM] = Reading(1 / first.scale, torch.zeros_like(first.scale)).of
    return terms
