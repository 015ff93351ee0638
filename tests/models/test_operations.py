"""Work and size against published figures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from iresnet_models import ModelSpec, build_model, list_models
from iresnet_models.network import Network
from iresnet_models.operations import layer_multiply_accumulates, multiply_accumulates, parameter_count

PUBLISHED = {
    ("iresnet", 18): 1.814,
    ("iresnet", 34): 3.664,
    ("iresnet", 50): 4.128,
    ("iresnet", 101): 7.840,
    ("iresnet", 152): 11.552,
    ("iresnet", 200): 15.046,
    ("iresnet", 302): 22.470,
    ("iresnet", 404): 29.895,
    ("iresnet", 1001): 73.350,
    ("resnet", 50): 4.089,
    ("resnet", 101): 7.801,
    ("resnet", 152): 11.514,
    ("resnet", 200): 15.007,
}


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: f"{model[0]}{model[1]}")
def test_multiply_accumulates_at_224(model: tuple[str, int]) -> None:
    assert multiply_accumulates(ModelSpec(*model)) / 1e9 == pytest.approx(PUBLISHED[model], abs=5e-4)


def test_work_grows_with_the_image_and_size_with_the_classes() -> None:
    spec = ModelSpec("iresnet", 50)
    assert multiply_accumulates(spec.with_image_size(448)) == pytest.approx(4 * multiply_accumulates(spec), rel=1e-3)
    assert parameter_count(spec) - parameter_count(ModelSpec("iresnet", 50, num_classes=10)) == 990 * 2049


@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize("arch", sorted({arch for arch, _ in list_models()}))
def test_what_is_counted_is_what_a_run_computes(arch: str, size: int) -> None:
    """Layer by layer, in the order of a run, also where halves of a side are rounded."""
    network, found = build_model(arch, 50).eval(), dict[str, int]()

    def counter(name: str) -> Any:
        def count(module: Any, _inputs: Any, output: Tensor) -> None:
            found[name] = output.numel() * math.prod(module.weight.shape[1:])

        return count

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(counter(name))
    with torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    counted = layer_multiply_accumulates(ModelSpec(arch, 50, image_size=size, resize=size))
    assert list(counted.items()) == list(found.items())


@pytest.mark.parametrize("model", list_models(), ids=lambda model: f"{model[0]}{model[1]}")
def test_parameters_are_those_of_the_network(model: tuple[str, int]) -> None:
    spec = ModelSpec(*model, num_classes=7)
    with torch.device("meta"):
        network = Network(spec)
    assert parameter_count(spec) == sum(parameter.numel() for parameter in network.parameters())
