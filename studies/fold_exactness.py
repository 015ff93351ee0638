"""How exact the fold is: a Markdown table for networks of several families, with and without negative BatchNorm scales.

Run: python studies/fold_exactness.py
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from iresnet_models import ModelSpec, Network, fold
from iresnet_models.initialization import untrained_network

NETWORKS = (("resnet", 50), ("resstage", 34), ("iresnet", 18), ("iresnet", 50), ("iresnet", 101), ("iresgroup", 50))


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


def main() -> None:
    print("| network | scales | largest difference in float64, over the largest logit | error in float32 over the network's own |")
    print("| --- | --- | --- | --- |")
    for arch, depth in NETWORKS:
        for negative in (False, True):
            print(row(arch, depth, negative), flush=True)


if __name__ == "__main__":
    main()
