"""The networks against the official implementation's own values."""

from __future__ import annotations

import copy
import hashlib
import warnings

import numpy as np
import pytest
import torch
from support import GOLDEN, fill_golden, golden_input, mostly_slow
from torch import fx, nn

from iresnet_models import Network, build_model, list_models
from iresnet_models.errors import InputError
from iresnet_models.layout import BlockLayout, LastNorm

WITH_OUTPUTS = [model for model in list_models() if "logits_norm" in GOLDEN[f"{model[0]}{model[1]}"]]


def identifier(model: tuple[str, int]) -> str:
    return f"{model[0]}{model[1]}"


def outputs_match(network: nn.Module, golden: dict[str, object]) -> bool:
    with torch.no_grad():
        logits = network.double().eval()(golden_input()).numpy()
    first = np.array(golden["logits_first8"])
    norms = np.array(golden["logits_norm"])
    close = np.abs(logits[:, :8] - first).max() <= 1e-9 * np.abs(first).max()
    return bool(close and np.allclose(np.linalg.norm(logits, axis=1), norms, rtol=1e-9, atol=0))


def test_there_are_the_33_official_networks() -> None:
    assert {identifier(model) for model in list_models()} == set(GOLDEN)
    assert len(list_models()) == 33


@pytest.mark.parametrize("model", list_models(), ids=identifier)
def test_keys_order_shapes_and_parameters(model: tuple[str, int]) -> None:
    golden = GOLDEN[identifier(model)]
    with torch.device("meta"):
        network = build_model(*model)
    state = network.state_dict()
    lines = [f"{key} {'x'.join(map(str, value.shape))}" for key, value in state.items()]
    if "state_dict" in golden:
        assert lines == golden["state_dict"]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == golden["state_dict_sha256"]
    assert len(state) == golden["state_dict_entries"]
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["params"]


@pytest.mark.parametrize("model", WITH_OUTPUTS, ids=identifier)
def test_outputs(model: tuple[str, int]) -> None:
    network = build_model(*model).double()
    fill_golden(network)
    assert outputs_match(network, GOLDEN[identifier(model)])


@pytest.fixture(scope="module")
def filled() -> Network:
    network = build_model("iresnet", 50).double().eval()
    fill_golden(network)
    return network


def test_a_relu_out_of_place_in_block_1_is_seen(filled: Network) -> None:
    broken = copy.deepcopy(filled)

    class OutOfPlace(nn.Module):
        """Block 1 as one would write it who does not know: the ReLU is the branch's alone."""

        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x) - torch.relu(x) + x

    broken.layer3[1] = OutOfPlace(broken.layer3[1])
    assert not outputs_match(broken, GOLDEN["iresnet50"])


def test_one_wrong_epsilon_is_seen(filled: Network) -> None:
    broken = copy.deepcopy(filled)
    broken.layer2[1].bn1.eps = 1e-3
    assert not outputs_match(broken, GOLDEN["iresnet50"])


def test_two_swapped_channels_are_seen(filled: Network) -> None:
    broken = copy.deepcopy(filled)
    weight = broken.layer4[0].conv2.weight
    with torch.no_grad():
        weight[[3, 8]] = weight[[8, 3]]
    assert not outputs_match(broken, GOLDEN["iresnet50"])
    assert outputs_match(filled, GOLDEN["iresnet50"])


def test_roles_of_blocks() -> None:
    layouts = [BlockLayout.of(index, 4, resstage=True) for index in range(4)]
    assert [layout.role for layout in layouts] == ["start", "middle", "middle", "end"]
    assert [layout.rectifies_stream for layout in layouts] == [False, True, False, False]
    assert [layout.has_bn0 for layout in layouts] == [False, False, True, True]
    assert [layout.last_norm for layout in layouts] == [
        LastNorm.IN_BRANCH,
        LastNorm.NONE,
        LastNorm.NONE,
        LastNorm.AFTER_ADDITION,
    ]
    only_two = BlockLayout.of(1, 2, resstage=True)
    assert (only_two.role, only_two.rectifies_stream, only_two.has_bn0) == ("end", True, False)


@pytest.mark.parametrize("arch", ["resnet", "resstage", "iresnet"])
@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_makes_blocks_their_shortcuts_and_leaves_a_network_that_can_learn(arch: str, depth: int) -> None:
    network = build_model(arch, depth, num_classes=4, zero_init_residual=True)
    zeroed = [
        block.last_bn
        for blocks in network.stages
        for block in blocks
        if block.last_bn is not None and not block.last_bn.weight.any()
    ]
    in_branch = [block for blocks in network.stages for block in blocks if block.layout.last_norm is LastNorm.IN_BRANCH]
    assert len(zeroed) == len(in_branch) > 0
    logits = network(torch.randn(4, 3, 32, 32))
    assert logits.std() > 0, "the stream was erased"
    logits.sum().backward()
    assert all(norm.weight.grad is not None and norm.weight.grad.abs().max() > 0 for norm in zeroed)


def test_dropout_is_in_front_of_the_classifier_and_only_in_training() -> None:
    network = build_model("iresnet", 18, num_classes=8, dropout=0.5)
    plain = build_model("iresnet", 18, num_classes=8)
    plain.load_state_dict(network.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), plain.eval()(x))
        network.fc.train()
        assert network.dropout is not None
        network.dropout.train()
        assert not torch.equal(network(x), plain(x))


def test_groups_of_every_stage() -> None:
    with torch.device("meta"):
        growing, fixed = build_model("iresgroup", 50, groups=32), build_model("resgroupfix", 50)
    assert [stage[0].conv2.groups for stage in growing.stages] == [4, 8, 16, 32]
    assert [stage[0].conv2.groups for stage in fixed.stages] == [64] * 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("resnext", 50), "no arch 'resnext'"),
        (("iresnet", 51), "depths are 18, 34, 50"),
        (("resgroup", 200), "depths are 50, 101, 152"),
    ],
)
def test_networks_that_there_are_not(arguments: tuple[str, int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        build_model(*arguments)


TRACED = [pytest.param(model) for model in (("resnet", 18), ("resstage", 18), ("iresnet", 34), ("iresgroup", 50))]


@pytest.mark.parametrize("model", mostly_slow(TRACED, 4), ids=identifier)
def test_can_be_traced_and_exported(model: tuple[str, int]) -> None:
    network = build_model(*model, num_classes=5).eval()
    x = torch.randn(3, 3, 64, 64)
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's own, about tracing and pytrees
        expected = network(x)
        exported = torch.export.export(network, (x[:2],), dynamic_shapes={"x": {0: batch}})
        scripted = torch.jit.trace(network, x[:2])
        for other in (exported.module(), scripted, fx.symbolic_trace(network)):
            torch.testing.assert_close(other(x), expected)
