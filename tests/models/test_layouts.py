"""How training tools save networks: which of the weights are taken, and what is told of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from iresnet_models import ModelSpec, Network, load_checkpoint, save_checkpoint
from iresnet_models.errors import CheckpointError, InputError
from iresnet_models.initialization import untrained_network
from iresnet_models.layouts import weights_in
from iresnet_models.recognition import shapes_of
from iresnet_models.spec import Which

State = dict[str, Tensor]
SPEC = ModelSpec("iresnet", 18, num_classes=3, image_size=32, resize=32)


@pytest.fixture(scope="module")
def network() -> Network:
    return untrained_network(SPEC)


@pytest.fixture(scope="module")
def average(network: Network) -> nn.Module:
    """As torchvision's training script keeps it, after two updates."""
    made = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    made.update_parameters(network)
    with torch.no_grad():
        other = untrained_network(SPEC, seed=1)
    made.update_parameters(other)
    return made


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


FILE = Path("a.pth")


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def told_of(content: dict[str, Any], state: State, which: Which | None = None) -> str:
    """What is told of how a file's content holds its weights, once it is seen that they are these."""
    found, layout = weights_in(content, FILE, which)
    assert {key: value.data_ptr() for key, value in found.items()} == {key: value.data_ptr() for key, value in state.items()}
    return "; ".join(f"{name}: {said}" for name, said in layout.in_words.items())


def both(tool: str, raw: State, average: nn.Module) -> tuple[dict[str, Any], str, str]:
    """A file of a tool with both kinds of weights, and where the average and the others are."""
    averaged, plain = average.state_dict(), average.module.state_dict()
    lightning = {"pytorch-lightning_version": "2.6", "epoch": 1, "callbacks": {}}
    files: dict[str, tuple[dict[str, Any], str, str]] = {
        "torchvision's": ({"model": raw, "model_ema": averaged, "lr_scheduler": {}, "args": {}}, "model_ema", "model"),
        "timm": (
            {"state_dict": raw, "state_dict_ema": plain, "arch": "iresnet18", "version": 2},
            "state_dict_ema",
            "state_dict",
        ),
        "PyTorch Lightning": (
            {
                "state_dict": prefixed(plain, "net."),
                "current_model_state": prefixed(raw, "net."),
                "averaging_state": {"n_averaged": averaged["n_averaged"]},
                **lightning,
            },
            "state_dict",
            "current_model_state.net",
        ),
        "Lightning": (
            {
                **lightning,
                "state_dict": prefixed(raw, "model."),
                "callbacks": {
                    "StochasticWeightAveraging": {"n_averaged": 2, "average_model_state": prefixed(plain, "model.")},
                },
            },
            "callbacks.StochasticWeightAveraging.average_model_state",
            "state_dict.model",
        ),
        "bare": (prefixed(raw, "net.") | prefixed(averaged, "ema."), "", "net"),
    }
    return files[tool]


@pytest.mark.parametrize("tool", ["torchvision's", "timm", "PyTorch Lightning", "Lightning", "bare"])
def test_the_average_is_taken_unless_the_raw_weights_are_asked_for(tool: str, network: Network, average: nn.Module) -> None:
    content, place, other = both(tool, network.state_dict(), average)
    told = told_of(content, average.module.state_dict())
    assert tool in told
    assert place in told
    assert "the average" in told
    assert f"--which raw takes the unaveraged ones, in {other}" in told
    assert (" of 2 updates" in told) is (tool != "timm")
    assert told_of(content, average.module.state_dict(), "average") == told
    told = told_of(content, network.state_dict(), "raw")
    assert "the raw ones; --which average takes the averaged ones" in told


def test_an_average_alone_is_told_as_one(average: nn.Module) -> None:
    told = told_of(average.state_dict(), average.module.state_dict())
    assert "a bare AveragedModel of PyTorch, without module. in their names" in told
    assert told.endswith("which weights: the average of 2 updates")
    with pytest.raises(CheckpointError, match="holds averaged weights alone"):
        weights_in(average.state_dict(), FILE, "raw")


def test_weights_of_which_nothing_is_said_are_no_average(network: Network) -> None:
    state = network.state_dict()
    assert told_of(state, state) == told_of(state, state, "raw") == "layout: a bare state dict"
    with pytest.raises(CheckpointError, match="no weights that are known to be an average"):
        weights_in(state, FILE, "average")


@pytest.mark.parametrize("name", ["ema", "EMAModel", "emamodel", "swa_state"])
def test_an_average_that_cannot_be_read_is_not_passed_over(name: str, network: Network) -> None:
    raw = network.state_dict()
    parameters = [value.detach() for value in network.parameters()]
    named = {key: value.detach() for key, value in network.named_parameters()}
    for ema in ({"decay": 0.9, "shadow_params": parameters}, named, [named], {1: (0.9, named)}):
        content = {"model": raw, name: ema}
        with pytest.raises(CheckpointError, match=rf"holds an average of the weights in {name}.*--which raw"):
            weights_in(content, FILE, None)
        assert told_of(content, raw, "raw").endswith("the raw ones")


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda s: {"ema": [s]}, "ema.0"),
        (lambda s: {"ema": (0.9, s)}, "ema.1"),
        (lambda s: {"swa_state": {1: s}}, "swa_state.1"),
        (lambda s: {"a": {"b": {"c": {"d": {"ema": s}}}}}, "a.b.c.d.ema"),
        (lambda s: {"EMAModel": s}, "EMAModel"),
    ],
)
def test_an_average_is_found_wherever_it_is(wrap: Callable[[State], Any], place: str, network: Network) -> None:
    raw, averaged = network.state_dict(), untrained_network(SPEC, seed=1).state_dict()
    told = told_of({"model": raw} | wrap(averaged), averaged)
    assert f"the weights are in {place}; which weights: the average; --which raw" in told


@pytest.mark.parametrize("name", ["model_no_ema", "non_ema", "without_swa", "wo_avg"])
def test_weights_that_are_called_no_average_are_raw(name: str, network: Network) -> None:
    raw, averaged = network.state_dict(), untrained_network(SPEC, seed=1).state_dict()
    assert told_of({name: raw}, raw).endswith(f"in {name}")
    assert "the average" in told_of({name: raw, "ema": averaged}, averaged)
    with pytest.raises(CheckpointError, match=f"several networks: state_dict, {name}"):
        weights_in({"state_dict": averaged, name: raw}, FILE, None)


@pytest.mark.parametrize("name", ["best_avg_acc", "best_by_average_precision", "bestAvgValLoss", "macro_average"])
def test_an_average_of_figures_is_none_of_weights(name: str, network: Network) -> None:
    state = network.state_dict()
    assert "average" not in told_of({name: state}, state).partition("which weights")[2]
    with pytest.raises(CheckpointError, match=f"several networks: model, {name}"):
        weights_in({"model": state, name: untrained_network(SPEC, seed=1).state_dict()}, FILE, None)
    assert told_of({"model": state, "avg_meter": {"avg": torch.zeros(3)}}, state).endswith(
        "left out: avg_meter (beside the network)"
    )


def test_the_order_of_names_for_one_object_decides_nothing(network: Network) -> None:
    state = network.state_dict()
    for content in ({"model": state, "model_ema": state}, {"model_ema": state, "model": state}):
        assert "in model_ema; which weights: the average; --which raw takes the unaveraged ones, in model" in told_of(
            content, state
        )


@pytest.mark.parametrize("said", [5, {}, {"n_averaged": "x"}])
def test_an_averaging_state_without_a_count_makes_no_average(said: Any, network: Network) -> None:
    state = network.state_dict()
    assert "average" not in told_of({"state_dict": state, "averaging_state": said}, state)


def test_what_optimizers_average_is_no_average_of_weights(network: Network) -> None:
    state = network.state_dict()
    adam = {"state": {0: {"exp_avg": state["fc.weight"]}}, "param_groups": []}
    content = {"model": state, "optimizer": adam, "ema_optimizer": adam, "groups": {"exp_avg": [state["fc.weight"]]}}
    assert told_of(content, state).endswith("left out: groups.exp_avg (beside the network)")
    content["callbacks"] = {"EMACallback": {"weights": [state["fc.weight"]]}}
    with pytest.raises(CheckpointError, match=r"an average of the weights in callbacks\.EMACallback\.weights"):
        weights_in(content, FILE, None)


def test_an_average_without_statistics_is_not_taken(network: Network, average: nn.Module) -> None:
    """Lightning's StochasticWeightAveraging keeps it with those of the untrained network."""
    raw = network.state_dict() | {"bn1.num_batches_tracked": torch.tensor(9)}
    content, place, _ = both("Lightning", raw, average)
    for which in (None, "average"):
        with pytest.raises(CheckpointError, match=rf"{place}.* without BatchNorm statistics.*--which raw"):
            weights_in(content, FILE, which)
    assert "the raw ones" in told_of(content, raw, "raw")


def test_an_average_of_nothing_has_to_be_asked_for(network: Network, average: nn.Module) -> None:
    begun = average.state_dict() | {"n_averaged": torch.tensor(0)}
    content = {"model": network.state_dict(), "model_ema": begun}
    with pytest.raises(CheckpointError, match=r"counts no update.*--which average or --which raw"):
        weights_in(content, FILE, None)
    told_of(content, network.state_dict(), "raw")
    told_of(content, average.module.state_dict(), "average")


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda s: {"state_dict": prefixed(s, "model.")}, "state_dict, without model."),
        (lambda s: {"state_dict": prefixed(s, "model.module.")}, "without model.module."),
        (lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}}, "in model_state_dict"),
        (lambda s: {"net": prefixed(s, "module."), "acc": 93.1}, "in net, without module."),
        (lambda s: {"weights": prefixed(s, "backbone.")}, "in weights, without backbone."),
        (lambda s: {"checkpoint": {"model": s}}, "in checkpoint.model"),
        (lambda s: prefixed(s, "_orig_mod."), "without _orig_mod."),
        (lambda s: prefixed(s, "module._orig_mod."), "without module. and _orig_mod."),
        (lambda s: {k.replace("layer2.0.", "layer2.0._orig_mod."): v for k, v in s.items()}, "without _orig_mod."),
        (lambda s: {"state_dict": prefixed(s, "net._orig_mod.") | {"criterion.weight": torch.ones(3)}}, "left out"),
    ],
)
def test_wrappings_and_prefixes(wrap: Callable[[State], Any], told: str, network: Network) -> None:
    state = network.state_dict()
    assert told in told_of(wrap(state), state)


def test_what_is_left_out_elsewhere_in_a_file_is_named(network: Network) -> None:
    state, weight = network.state_dict(), torch.ones(3, 3)
    content = {
        "model": state,
        "head": {"weight": weight},
        "steps": [{"normalizer": {"mean": torch.ones(3)}}],
        "temperature": torch.tensor(2.0),
        "best_acc1": torch.tensor(80.0),
        "optimizer": {"state": {0: {"momentum_buffer": weight}}},
        "lr_schedulers": [{"base": weight}],
        "rng_state": torch.zeros(3, dtype=torch.uint8),
    }
    assert told_of(content, state).endswith("left out: temperature, head, steps.0.normalizer (beside the network)")


def test_a_metric_is_told_from_a_layer_of_its_name(network: Network) -> None:
    content = prefixed(network.state_dict(), "backbone.") | {"f1.tp": torch.zeros(3), "precision.total": torch.zeros(())}
    assert "left out: f1.tp, precision.total" in told_of(content, network.state_dict())


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda s: prefixed(s, "backbone.") | {"f1.weight": torch.ones(3, 3), "f1.bias": torch.ones(3)}, r"beside it f1\.weight"),
        (lambda s: prefixed(s, "backbone.") | {"precision.weight": torch.ones(3, 3)}, r"beside it precision\.weight"),
        (lambda s: {"model": s | {1: torch.ones(3)}}, "beside it 1, which may be part"),
        (lambda s: prefixed(s, "student.") | prefixed(s, "teacher."), r"several networks: .*student.*teacher|teacher.*student"),
        (lambda s: {"model": s, "best_model": dict(s)}, "several networks: model, best_model"),
        (lambda s: prefixed(s, "model.") | {"head.weight": torch.ones(2, 3)}, r"beside it head\.weight, which may be part"),
        (lambda s: s | prefixed(s, "_orig_mod."), "names twice"),
        (lambda s: {f"{n}.{k}": s[k] for n in range(101) for k in ("conv1.weight", "bn1.running_mean")}
                   | {f"{n}.layer1.0.a": s["fc.bias"] for n in range(101)}, "101 networks"),
        (lambda s: {"model": s | {"layer1": 3}}, "found 'layer1': int"),
    ],
)  # fmt: skip
def test_what_could_be_meant_in_two_ways_is_refused(wrap: Callable[[State], Any], message: str, network: Network) -> None:
    with pytest.raises(CheckpointError, match=message):
        weights_in(wrap(network.state_dict()), FILE, None)


def test_a_backbone_alone_is_told_as_one(network: Network, tmp_path: Path) -> None:
    backbone = {f"backbone.{key}": value for key, value in network.state_dict().items() if not key.startswith("fc.")}
    with pytest.raises(CheckpointError, match="without its classifier"):
        load_checkpoint(saved(tmp_path / "b.pth", {"state_dict": backbone}))


def test_mappings_that_hold_one_another_a_thousand_times_are_seen_once(network: Network) -> None:
    inner: dict[str, Any] = {}
    for _ in range(4):
        inner = {str(number): inner for number in range(1000)}
    told_of({"state_dict": network.state_dict(), "more": inner}, network.state_dict())
    weights_in({"state_dict": network.state_dict(), "ema": inner | {"0": [inner]}}, FILE, None)


@pytest.mark.parametrize(
    ("make", "called"),
    [
        (torchvision.models.wide_resnet50_2, "wide_resnet50_2"),
        (torchvision.models.resnext50_32x4d, "resnext50_32x4d"),
        (torchvision.models.mobilenet_v3_small, "torchvision's mobilenet_v3_small"),
        (torchvision.models.vit_b_16, "torchvision's vit_b_16"),
        (torchvision.models.regnet_y_400mf, "a RegNet"),
    ],
)
def test_networks_of_others_are_named(make: Callable[..., nn.Module], called: str, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        state = make(weights=None, num_classes=5).state_dict()
    zeros = {f"module.{key}": torch.zeros(()).expand(value.shape) for key, value in state.items()}
    with pytest.raises(CheckpointError, match=rf"holds {called}, which is no.*from_module"):
        load_checkpoint(saved(tmp_path / "o.pth", zeros))


DEEP_STEM = {"conv1.0.weight": (32, 3, 3, 3), "conv1.3.weight": (32, 32, 3, 3), "conv1.6.weight": (64, 32, 3, 3)}
OF_TIMM: dict[str, dict[str, tuple[int, ...]]] = {
    "resnet50d": DEEP_STEM | {"layer2.0.downsample.1.weight": (512, 256, 1, 1)},
    "resnet50c": DEEP_STEM,
    "seresnet50": {"layer1.0.se.fc1.weight": (16, 256, 1, 1)},
    "ecaresnet50d": DEEP_STEM | {"layer2.0.downsample.1.weight": (512, 256, 1, 1), "layer1.0.se.conv.weight": (1, 1, 5)},
    "a ResNetV2 of timm": {"stages.0.blocks.0.norm1.weight": (64,)},
}
"""What tells them from a ResNet-50, as timm 1.0.31 saves them."""


@pytest.mark.parametrize("name", OF_TIMM)
def test_networks_of_timm_are_named(name: str, tmp_path: Path) -> None:
    shapes = shapes_of(ModelSpec("resnet", 50, num_classes=2)) | OF_TIMM[name]
    if "conv1.0.weight" in shapes:
        del shapes["conv1.weight"]
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    with pytest.raises(CheckpointError, match=f"holds {name}.*from_module"):
        load_checkpoint(saved(tmp_path / "t.pth", state))


def test_a_network_that_only_its_file_tells_apart(tmp_path: Path) -> None:
    state = untrained_network(ModelSpec("resnet", 18, num_classes=2)).state_dict()
    assert load_checkpoint(saved(tmp_path / "r.pth", {"state_dict": state, "arch": "resnet18"})).spec.name == "resnet18"
    with pytest.raises(CheckpointError, match="says that it is resnetblur18"):
        load_checkpoint(saved(tmp_path / "r.pth", {"state_dict": state, "arch": "resnetblur18"}))


def test_safetensors_in_and_out(network: Network, tmp_path: Path) -> None:
    save_file(dict(network.state_dict()), tmp_path / "theirs.safetensors", {"format": "pt", "source": "a trainer"})
    checkpoint = load_checkpoint(tmp_path / "theirs.safetensors")
    assert checkpoint.details == {"source": "a trainer"}
    assert same(checkpoint.model, network)
    save_checkpoint(tmp_path / "ours.safetensors", network, epoch=3, which="average")
    ours = load_checkpoint(tmp_path / "ours.safetensors")
    assert ours.spec == SPEC  # which no keys and shapes tell
    assert ours.details["epoch"] == 3
    assert ours.layout.which == "average"
    assert same(ours.model, network)
    assert set(safetensors.torch.load_file(tmp_path / "ours.safetensors")) == set(network.state_dict())
    with pytest.raises(InputError, match=r"texts alone.*\.pt"):
        save_checkpoint(tmp_path / "no.safetensors", network, optimizer={"a": torch.zeros(1)})
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.parametrize("metadata", [{"format": "pt"}, {"spec": "p", "which": "x"}, {"path": "p", "model": "m"}])
def test_what_a_file_says_of_itself_replaces_nothing_of_ours(metadata: dict[str, str], network: Network, tmp_path: Path) -> None:
    save_file(dict(network.state_dict()), tmp_path / "a.safetensors", metadata)
    details = load_checkpoint(tmp_path / "a.safetensors").details
    assert details == {name: text for name, text in metadata.items() if name == "path"}
    for name in ("b.pt", "b.safetensors"):
        save_checkpoint(tmp_path / name, network, **metadata)
        assert load_checkpoint(tmp_path / name).spec == SPEC


def test_details_of_any_name_are_saved(network: Network, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(saved(tmp_path / "a.pt", {"state_dict": network.state_dict(), "path": "x", "self": 3, 1: 2}))
    assert checkpoint.details == {"path": "x", "self": 3}
    save_checkpoint(tmp_path / "b.pt", network, **checkpoint.details)
    assert load_checkpoint(tmp_path / "b.pt").details == checkpoint.details


def header(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length])
    change(told)
    text = json.dumps(told).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda d: d[:-100], "truncated or damaged"),
    "cut in its header": (lambda d: d[:50], "truncated or damaged"),
    "a huge header": (lambda d: struct.pack("<Q", 2**31) + d[8:], "header of 2,147,483,648 bytes"),
    "a header beyond the file": (lambda d: struct.pack("<Q", 2**22) + d[8:], "truncated or damaged"),
    "overlapping": (lambda d: header(d, lambda t: t["fc.bias"].update(data_offsets=t["bn1.bias"]["data_offsets"])), "damaged"),
    "a size": (lambda d: header(d, lambda t: t["fc.bias"].update(shape=[2**40])), "truncated or damaged"),
    "an overflow": (lambda d: header(d, lambda t: t["fc.bias"].update(shape=[2**62, 2**62])), "truncated or damaged"),
    "an unknown type": (lambda d: header(d, lambda t: t["fc.bias"].update(dtype="F99")), "truncated or damaged"),
    "whole numbers": (lambda d: header(d, lambda t: t["fc.bias"].update(dtype="I32")), r"fc\.bias holds torch\.int32"),
    "fp8": (lambda d: header(d, lambda t: t["fc.bias"].update(dtype="F8_E4M3", shape=[12])), "float8"),
    "deep JSON": (lambda d: struct.pack("<Q", 2**20) + b'{"a":' + b"[" * (2**20 - 5), "truncated or damaged"),
    "no texts": (lambda d: header(d, lambda t: t.update(__metadata__={"iresnet-export": 3})), "truncated or damaged"),
    "no JSON of ours": (lambda d: header(d, lambda t: t.update(__metadata__={"iresnet-export": "{"})), "truncated or damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_of_safetensors(name: str, network: Network, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(dict(network.state_dict()), path)
    spoil, message = HOSTILE[name]
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
