"""How exact the fold is: a Markdown table for networks of several families, with and without negative BatchNorm scales, and one
of states in which a whole fold rounds too much, and what the export keeps of them.

Run: python studies/fold_exactness.py
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from iresnet_export.artifacts.source import untrained_source
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.fold import fold_sample, proved_fold
from iresnet_export.verification.reference import noise_floor
from iresnet_models import ModelSpec, Network, fold
from iresnet_models.folding_decisions import stream_norms
from iresnet_models.initialization import untrained_network

NETWORKS = (("resnet", 50), ("resstage", 34), ("iresnet", 18), ("iresnet", 50), ("iresnet", 101), ("iresgroup", 50))

HOSTILE = (("iresnet", 50, 0.5, 0), ("iresgroupfix", 50, 0.5, 0), ("iresgroupfix", 50, 0.8, 0), ("iresgroupfix", 101, 0.2, 8))
"""Family, depth, the share of the scales that are made smaller, and over how many decades; 0: all times 1e-8."""


def with_negative_scales(network: Network) -> Network:
    """5 % of all BatchNorm scales, chosen by seed, change their sign."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                flipped = torch.rand(module.weight.shape, generator=generator) < 0.05
                module.weight.mul_(torch.where(flipped, -1.0, 1.0))
    return network


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def row(arch: str, depth: int, negative: bool) -> str:
    network = untrained_network(ModelSpec(arch, depth, image_size=64, resize=64))
    if negative:
        with_negative_scales(network)
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = copy.deepcopy(network).double()(images.double())
        difference = fold(network, sample=images, dtype=torch.float64)(images.double()) - exact
        error = rms(fold(network, sample=images)(images) - exact) / rms(network(images) - exact)
    relative = float(difference.abs().max() / exact.abs().max())
    return f"| {arch} {depth} | {'5 % negative' if negative else 'positive'} | {relative:.1e} | {error:.2f} |"


def hostile_row(arch: str, depth: int, share: float, decades: int) -> str:
    source = untrained_source(ModelSpec(arch, depth, num_classes=10, image_size=32, resize=32), seed=4)
    network, generator = copy.deepcopy(source.network), torch.Generator().manual_seed(0)
    norms = [site.norm for site in stream_norms(network)]
    if decades:
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            chosen = torch.rand(norm.num_features, generator=generator) < share
            exponents = -8.0 if not decades else -decades * torch.rand(norm.num_features, generator=generator)[chosen]
            norm.weight[chosen] *= 10**exponents
    sample = fold_sample(dataclasses.replace(source, network=network), None)
    whole = noise_floor(fold(network, sample=sample.images), sample.others, sample.exact, (8,)) / sample.noise_floor
    _, found = proved_fold(sample, no_progress)
    kept = sum(len(norm.kept) for norm in found.plan.norms.values())
    channels = sum(site.norm.num_features for site in stream_norms(network))
    which = f"{share:.0%} of {'all BatchNorms' if decades else 'those that read the stream'}"
    size = f"down to 1e-{decades}" if decades else "times 1e-8"
    return f"| {arch} {depth} | {which} {size} | {whole:.2f} | {kept / channels:.0%} | {found.proof.error_ratio:.2f} |"


def main() -> None:
    print("| network | scales | largest difference in float64, over the largest logit | error in float32 over the network's own |")
    print("| --- | --- | --- | --- |")
    for arch, depth in NETWORKS:
        for negative in (False, True):
            print(row(arch, depth, negative), flush=True)
    print("\n| network | scales made smaller | whole fold's error over the network's own | channels kept | the error then |")
    print("| --- | --- | --- | --- | --- |")
    for state in HOSTILE:
        print(hostile_row(*state), flush=True)


if __name__ == "__main__":
    main()
