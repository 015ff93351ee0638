"""Untrained weights: the same everywhere, and of order 1 at every depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from iresnet_export.verification.reference import onednn_off
from iresnet_models import ModelSpec
from iresnet_models.initialization import state_sha256, untrained_network

SMALL = ModelSpec("iresnet", 18, num_classes=10, image_size=32, resize=32)


def test_they_follow_from_spec_and_seed() -> None:
    first = state_sha256(untrained_network(SMALL, seed=3))
    assert state_sha256(untrained_network(SMALL, seed=3)) == first
    assert state_sha256(untrained_network(SMALL, seed=4)) != first


def test_the_hash_sees_one_bit() -> None:
    network = untrained_network(SMALL)
    before = state_sha256(network)
    with torch.no_grad():
        network.fc.bias[3] = torch.nextafter(network.fc.bias[3], torch.tensor(9.0))
    assert state_sha256(network) != before


def test_another_order_of_addition_gives_the_same_weights() -> None:
    """oneDNN off: the statistics are added up in another order, and rounded to the same."""
    expected = state_sha256(untrained_network(SMALL))
    with onednn_off():
        assert state_sha256(untrained_network(SMALL)) == expected


@pytest.mark.parametrize(
    "model",
    [
        ("iresnet", 18),
        ("resnet", 101),
        pytest.param(("iresnet", 200), marks=pytest.mark.slow),
        pytest.param(("iresnet", 1001), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_activations_stay_of_order_1(model: tuple[str, int]) -> None:
    network = untrained_network(ModelSpec(*model, image_size=64, resize=64))
    seen: list[float] = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(float(output.abs().max())))
    with torch.inference_mode():
        logits = network(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert max(seen) < 100
    assert 0.05 < float(logits.std()) < 20
