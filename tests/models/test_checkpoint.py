"""Checkpoints of every kind that people have, and files that are none."""

from __future__ import annotations

import os
import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from support import mostly_slow
from torch import Tensor, nn

from iresnet_models import ModelSpec, Network, build_model, list_models, load_checkpoint, save_checkpoint
from iresnet_models.errors import CheckpointError, InputError, IResNetError
from iresnet_models.initialization import untrained_network
from iresnet_models.recognition import shapes_of

State = dict[str, Tensor]


def small(arch: str, depth: int, classes: int = 3) -> Network:
    return untrained_network(ModelSpec(arch, depth, num_classes=classes, image_size=32, resize=32))


@pytest.fixture(scope="module")
def iresnet50() -> Network:
    return small("iresnet", 50)


def same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return list(one) == list(two) and all(torch.equal(one[key], two[key]) for key in one)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_our_own_rebuild_their_model(iresnet50: Network, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "own.pt", iresnet50, epoch=7, val_acc1=81.5)
    checkpoint = load_checkpoint(tmp_path / "own.pt")
    assert checkpoint.spec == iresnet50.spec
    assert checkpoint.details == {"epoch": 7, "val_acc1": 81.5}
    assert same(checkpoint.model, iresnet50)
    assert not checkpoint.model.training
    assert all(parameter.requires_grad for parameter in checkpoint.model.parameters())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("training", [False, True])
def test_official_files(prefix: str, training: bool, iresnet50: Network, tmp_path: Path) -> None:
    state = OrderedDict((prefix + key, value) for key, value in iresnet50.state_dict().items())
    optimizer = torch.optim.SGD(iresnet50.parameters(), 0.1, momentum=0.9)
    wrapped = {
        "epoch": 90,
        "arch": "iresnet",  # carries no depth
        "state_dict": state,
        "best_acc1": torch.tensor(77.31),
        "val_acc1": torch.tensor(77.2),
        "optimizer": optimizer.state_dict(),
    }
    checkpoint = load_checkpoint(saved(tmp_path / "official.pth", wrapped if training else state))
    assert (checkpoint.spec.arch, checkpoint.spec.depth, checkpoint.spec.num_classes) == ("iresnet", 50, 3)
    assert same(checkpoint.model, iresnet50)
    assert checkpoint.details.get("epoch") == (90 if training else None)


SMALLER = [pytest.param(model) for model in list_models() if model[1] <= 101 and model[1] != 18]


@pytest.mark.parametrize("model", mostly_slow(SMALLER, 5), ids=str)
def test_arch_and_depth_are_recognised(model: tuple[str, int], tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) for key, shape in shapes_of(ModelSpec(*model, num_classes=2)).items()}
    spec = load_checkpoint(saved(tmp_path / "bare.pth", state)).spec
    assert (spec.arch, spec.depth, spec.num_classes) == (*model, 2)


def test_groups_are_recognised(tmp_path: Path) -> None:
    for arch in ("iresgroup", "resgroupfix"):
        spec = ModelSpec(arch, 50, num_classes=2, groups=32)
        state = {key: torch.zeros(shape) for key, shape in shapes_of(spec).items()}
        assert load_checkpoint(saved(tmp_path / "bare.pth", state)).spec == spec


def test_torchvision_files_and_their_outputs(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet50(num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    checkpoint = load_checkpoint(saved(tmp_path / "resnet50.pth", theirs.state_dict()))
    assert checkpoint.spec.name == "resnet50"
    with torch.no_grad():
        torch.testing.assert_close(checkpoint.model(x), theirs(x))
    without_counts = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    with torch.no_grad():  # as files from before PyTorch 0.4.1
        again = load_checkpoint(saved(tmp_path / "old.pth", without_counts)).model
        torch.testing.assert_close(again(x), theirs(x))


def test_resnet18_and_resstage18_look_alike(tmp_path: Path) -> None:
    path = saved(tmp_path / "which.pth", small("resstage", 18).state_dict())
    with pytest.raises(CheckpointError, match=r"resnet18 or resstage18.*--arch"):
        load_checkpoint(path)
    assert load_checkpoint(path, arch="resstage").spec.name == "resstage18"
    assert load_checkpoint(path, arch="resnet").spec.name == "resnet18"
    save_checkpoint(tmp_path / "own.pt", small("resstage", 18))
    assert load_checkpoint(tmp_path / "own.pt").spec.name == "resstage18"


def test_half_precision_becomes_float32(iresnet50: Network, tmp_path: Path) -> None:
    state = {key: value.half() if value.is_floating_point() else value for key, value in iresnet50.state_dict().items()}
    model = load_checkpoint(saved(tmp_path / "half.pth", state)).model
    assert model.fc.weight.dtype == torch.float32
    assert torch.equal(model.fc.weight, state["fc.weight"].float())


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"depth": 101}, "holds iresnet50.*--depth 101"),
        ({"arch": "resnet"}, "--arch resnet"),
        ({"num_classes": 9}, "--num-classes 9"),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_contradictions(expected: dict[str, Any], message: str, own: bool, iresnet50: Network, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    if own:
        save_checkpoint(path, iresnet50)
    else:
        torch.save(iresnet50.state_dict(), path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path, **expected)


class Evil:
    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused(legacy: bool, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    path = tmp_path / "evil.pth"
    with path.open("wb") as file:
        if legacy:
            pickle.dump({"state_dict": Evil(str(marker))}, file, protocol=2)
        else:
            torch.save({"state_dict": Evil(str(marker))}, file)
    with pytest.raises(CheckpointError, match="wants to run code"):
        load_checkpoint(path)
    assert not marker.exists()
    path.write_bytes(pickle.dumps({"state_dict": Evil(str(marker))}, protocol=5))  # which torch does not read at all
    with pytest.raises(CheckpointError, match="was refused"):
        load_checkpoint(path)
    assert not marker.exists()


def changed(state: State, key: str, value: Tensor) -> State:
    return {**state, key: value}


def poisoned(state: State, key: str, value: float) -> State:
    tensor = state[key].clone()
    tensor.view(-1)[5] = value
    return changed(state, key, tensor)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: poisoned(s, "layer2.0.conv1.weight", float("nan")), r"layer2\.0\.conv1\.weight holds 1 value that is NaN"),
        (lambda s: poisoned(s, "layer1.0.bn1.running_var", float("inf")), "NaN or infinite"),
        (lambda s: poisoned(s, "layer1.0.bn1.running_var", -1.0), "negative variance"),
        (lambda s: changed(s, "fc.weight", s["fc.weight"].to(torch.int8)), "torch.int8"),
        (lambda s: {k: v for k, v in s.items() if k != "layer3.4.bn0.bias"}, r"layer3\.4\.bn0\.bias is missing"),
        (lambda s: {**s, "extra": torch.zeros(1)}, "extra does not belong"),
        (lambda s: changed(s, "conv1.weight", torch.zeros(32, 3, 7, 7)), r"conv1\.weight is 32x3x7x7 and not 64x3x7x7"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("layer4.2")}, "3, 4, 6, 2 bottlenecks"),
        (lambda s: {k.replace("layer", "stage"): v for k, v in s.items()}, "lack conv1, layer1 to layer4"),
        (lambda s: {}, "holds no state dict"),
        (lambda s: {"state_dict": {"a": 1}}, "holds no state dict"),
        (lambda s: [1, 2], "holds a list"),
        (lambda s: {**s, "layer1.0.prelu.weight": torch.zeros(64)}, "InsightFace"),
    ],
)
def test_spoiled_files(spoil: Any, message: str, iresnet50: Network, tmp_path: Path) -> None:
    path = saved(tmp_path / "spoiled.pth", spoil(iresnet50.state_dict()))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert "spoiled.pth" in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_files(keep: float, iresnet50: Network, tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    save_checkpoint(path, iresnet50)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(IResNetError, match=r"half\.pt"):
        load_checkpoint(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"text\.pt"):
        load_checkpoint(tmp_path / "text.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), str(tmp_path / "script.pt"))
    with pytest.raises(CheckpointError, match="TorchScript archive"):
        load_checkpoint(tmp_path / "script.pt")


def test_a_damaged_description_is_named(iresnet50: Network, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "own.pt", iresnet50)
    content = torch.load(tmp_path / "own.pt", weights_only=True)
    with pytest.raises(CheckpointError, match="damaged description"):
        load_checkpoint(saved(tmp_path / "bad.pt", {**content, "spec": {"arch": "iresnet"}}))
    lying = {**content, "spec": {**content["spec"], "depth": 101}}
    with pytest.raises(CheckpointError, match=r"says that it is iresnet101, but .*is missing"):
        load_checkpoint(saved(tmp_path / "bad.pt", lying))


def test_build_model_loads_them_strictly(iresnet50: Network) -> None:
    build_model("iresnet", 50, num_classes=3).load_state_dict(iresnet50.state_dict(), strict=True)
