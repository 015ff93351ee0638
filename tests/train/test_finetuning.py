"""From a trained network to classes of one's own: what is frozen, what learns how fast, when it ends, and how it goes on."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from iresnet_models import ModelSpec, load_checkpoint, network_from_spec, save_checkpoint
from iresnet_models.errors import InputError, PreemptedError
from iresnet_train import Progress, TrainConfig, config_for, loop, train
from iresnet_train.distributed import World
from iresnet_train.initial import initial_network
from iresnet_train.learner import Learner
from iresnet_train.loader import TrainingLoader
from iresnet_train.sampling import balanced_order, class_weights
from iresnet_train.saved import checked
from iresnet_train.telling import beginning

MakeConfig = Callable[..., TrainConfig]
ALONE = World(0, 1, torch.device("cpu"))
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet18 for images of 32 pixels, prepared in its own way, with statistics that it has learned."""
    path = tmp_path_factory.mktemp("pretrained") / "seven.pt"
    spec = ModelSpec("resnet", 18, num_classes=7, image_size=32, resize=36, mean=MEAN, std=STD, interpolation="bicubic")
    torch.manual_seed(3)
    network = network_from_spec(spec).train()
    network(torch.randn(16, 3, 32, 32))
    save_checkpoint(path, network)
    return path


@pytest.fixture
def tuned(pretrained: Path) -> Callable[..., Learner]:
    def make(**values: Any) -> Learner:
        config = config_for("photos", "finetune", pretrained=pretrained, **values)
        spec = ModelSpec(config.arch, config.depth, num_classes=3, **config.model_fields())
        torch.manual_seed(0)
        return Learner(config, initial_network(config, spec), ALONE)

    return make


def batch(images: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(images) % 3


def changed_by_a_step(learner: Learner) -> set[str]:
    """The parts of which a weight or a statistic is another after a step."""
    before = {key: value.clone() for key, value in learner.model.state_dict().items()}
    learner.backward(*batch(), step=0)
    learner.update(0.01)
    names = [key for key, value in learner.model.state_dict().items() if not torch.equal(value, before[key])]
    return {name.split(".")[0] for name in names}


def test_frozen_parts_keep_weights_and_statistics_and_have_no_gradient(tuned: Callable[..., Learner]) -> None:
    learner = tuned(freeze_until="layer3")
    assert changed_by_a_step(learner) == {"layer4", "fc"}
    assert {name.split(".")[0] for name, value in learner.model.named_parameters() if value.grad is not None} == {"layer4", "fc"}
    assert changed_by_a_step(tuned(freeze_until="layer4")) == {"fc"}
    assert changed_by_a_step(tuned()) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}


def test_how_little_is_trained_is_told(tuned: Callable[..., Learner]) -> None:
    def told(**values: Any) -> str:
        learner = tuned(**values)
        return beginning(learner.model, TrainConfig(data="photos"), ([], []), "CPU", "fp32")

    assert "(11.2 million weights, of which 1,539 are trained)" in told(freeze_until="layer4")
    assert "(11.2 million weights, of which 8.4 million are trained)" in told(freeze_until="layer3")


def test_frozen_statistics_leave_the_weights_to_learn(tuned: Callable[..., Learner]) -> None:
    learner = tuned(freeze_bn=True)
    before = [value.clone() for value in learner.model.buffers()]
    assert "layer1" in changed_by_a_step(learner)
    assert all(torch.equal(now, then) for now, then in zip(learner.model.buffers(), before, strict=True))


def test_the_rate_falls_from_the_head_down(tuned: Callable[..., Learner]) -> None:
    """Steps of SGD without momentum and decay are the gradient times the rate."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "norm_weight_decay": 0.0}
    learner = tuned(**plain, layer_decay=0.5)
    before = {name: value.detach().clone() for name, value in learner.model.named_parameters()}
    learner.backward(*batch(), step=0)
    learner.update(0.1)
    for name, share in (
        ("fc.weight", 1.0),
        ("layer4.0.conv1.weight", 0.5),
        ("layer1.0.bn1.bias", 0.5**4),
        ("conv1.weight", 0.5**5),
    ):
        value = learner.model.get_parameter(name)
        assert value.grad is not None
        torch.testing.assert_close(before[name] - value.detach(), 0.1 * share * value.grad, rtol=1e-3, atol=1e-7, msg=name)


def test_adamw_is_that_of_the_paper(tuned: Callable[..., Learner]) -> None:
    """arXiv 1711.05101, algorithm 2, by hand."""
    learner = tuned(layer_decay=1.0, weight_decay=0.1)
    weight = learner.model.fc.weight
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in (1, 2):
        learner.backward(*batch(), step=step)
        assert weight.grad is not None
        first, second = 0.9 * first + 0.1 * weight.grad, 0.999 * second + 0.001 * weight.grad**2
        moved = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = (weight - 0.01 * (moved + 0.1 * weight)).detach()
        learner.update(0.01)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-7)


def test_classes_count_alike_by_their_weights(pretrained: Path) -> None:
    weights = class_weights([0, 0, 0, 2], 3)
    assert weights[[0, 2]].tolist() == pytest.approx([4 / 6, 2.0])
    config = config_for("photos", "finetune", pretrained=pretrained, class_weights="balanced")
    spec = ModelSpec(config.arch, config.depth, num_classes=3, **config.model_fields())
    learner = Learner(config, initial_network(config, spec), ALONE, torch.tensor([1.0, 2.0, 5.0]))
    images, labels = batch()
    learner.model.train()
    expected = cross_entropy(learner.model(images), labels, torch.tensor([1.0, 2.0, 5.0]), reduction="sum") / 6
    assert learner.backward(images, labels, step=0).loss == pytest.approx(float(expected.detach()), rel=1e-5)


def test_balanced_epochs_take_each_class_equally_often_and_each_image_in_turn() -> None:
    labels = [0] * 17 + [1] * 4 + [2] * 2
    order = balanced_order(labels, torch.Generator().manual_seed(0))
    assert len(order) == len(set(order)) == 23
    drawn = Counter(labels[number % 23] for number in order)
    assert sorted(drawn.values()) == [7, 8, 8]
    of_rare = Counter(number % 23 for number in order if labels[number % 23] == 1)
    assert max(of_rare.values()) - min(of_rare.values()) <= 1
    assert order != balanced_order(labels, torch.Generator().manual_seed(1))


def test_an_image_that_comes_again_is_augmented_anew(digit_folder: Path) -> None:
    from iresnet_data.datasets import LabelledImages

    paths = sorted(map(str, (digit_folder / "train" / "0").iterdir()))[:1]
    images = LabelledImages(
        paths + sorted(map(str, (digit_folder / "train" / "1").iterdir()))[:5], [0, 1, 1, 1, 1, 1], lambda _: torch.rand(3)
    )
    loader = TrainingLoader(images, 6, ALONE, balanced=True)
    (found,) = loader.epoch(0)
    assert found.images is not None
    assert found.labels is not None
    rare = found.images[found.labels == 0]
    assert len(rare) == 3
    assert len({tuple(row.tolist()) for row in rare}) == 3


def test_preprocessing_is_inherited_unless_it_is_said(pretrained: Path, tiny_config: MakeConfig) -> None:
    config = config_for("photos", "finetune", pretrained=pretrained)
    assert (config.arch, config.depth) == ("resnet", 18)
    assert (config.train_crop_size, config.val_resize, config.val_crop_size) == (32, 36, 32)
    larger = config_for("photos", "finetune", pretrained=pretrained, val_crop_size=64, train_crop_size=48)
    assert (larger.train_crop_size, larger.val_resize, larger.val_crop_size) == (48, 72, 64)
    spec = initial_network(config, ModelSpec("resnet", 18, num_classes=3, image_size=32, resize=36)).spec
    assert (spec.mean, spec.std, spec.interpolation, spec.num_classes) == (MEAN, STD, "bicubic", 3)


def test_sgd_has_its_own_rate(pretrained: Path) -> None:
    assert config_for("photos", "finetune", pretrained=pretrained, optimizer="sgd").lr == 0.01
    assert config_for("photos", "finetune", pretrained=pretrained, optimizer="sgd", lr=0.3).lr == 0.3


def tuning(tiny_config: MakeConfig, pretrained: Path, digit_folder: Path, folder: Path, **values: Any) -> TrainConfig:
    """A short run on a flat folder of three classes, with everything that fine-tuning has."""
    said = {
        "data": str(digit_folder / "train"),
        "val_split": 0.25,
        "pretrained": pretrained,
        "arch": "resnet",
        "freeze_until": "layer2",
        "freeze_bn": True,
        "optimizer": "adamw",
        "lr": 1e-3,
        "layer_decay": 0.7,
        "lr_schedule": "cosine",
        "lr_steps": (),
        "balanced_sampling": True,
        "val_resize": 36,
        "result_path": folder,
    }
    return tiny_config(**(said | values))


def require_moments_checked(path: Path) -> None:
    """They are those of the trained weights alone, and squares and steps are not negative."""
    state = torch.load(path, weights_only=True)
    moments = state["learner"]["moments"]
    assert {name.split(".")[0] for name in moments["exp_avg"]} == {"layer3", "layer4", "fc"}
    for kind in ("exp_avg_sq", "step"):
        moments[kind]["fc.weight"] -= 1e9
        with pytest.raises(InputError, match=f"its {kind} of fc.weight is negative"):
            checked(state)
        moments[kind]["fc.weight"] += 1e9


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(
    tiny_config: MakeConfig, pretrained: Path, digit_folder: Path, tmp_path: Path
) -> None:
    whole = tuning(tiny_config, pretrained, digit_folder, tmp_path / "whole")
    train(whole)

    def stop(now: Progress) -> None:
        if (now.epoch, now.step) == (2, 1):
            signal.raise_signal(signal.SIGTERM)

    stopped = dataclasses.replace(whole, result_path=tmp_path / "stopped")
    with pytest.raises(PreemptedError):
        train(stopped, stop)
    require_moments_checked(max((tmp_path / "stopped" / "states").iterdir()))
    train(dataclasses.replace(stopped, resume="yes"))
    one, other = (load_checkpoint(folder / "last.pt") for folder in (tmp_path / "whole", tmp_path / "stopped"))
    assert one.spec == other.spec
    assert (one.spec.mean, one.spec.interpolation) == (MEAN, "bicubic")
    weights = one.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in other.model.state_dict().items())
    begun = load_checkpoint(pretrained).model.state_dict()
    assert torch.equal(weights["layer2.0.conv1.weight"], begun["layer2.0.conv1.weight"])
    assert torch.equal(weights["layer4.0.bn1.running_mean"], begun["layer4.0.bn1.running_mean"])
    report = json.loads((tmp_path / "whole" / "train.json").read_text())
    assert (report["settings"]["val_split"], report["split"]["images"], report["split"]["held_out"]) == (0.25, 72, 18)


def test_a_run_ends_where_it_becomes_no_better_and_is_then_finished(
    tiny_config: MakeConfig, pretrained: Path, digit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tuning(tiny_config, pretrained, digit_folder, tmp_path / "run", epochs=50, lr=1e-30, patience=2, batch_size=36)
    with caplog.at_level(logging.INFO, "iresnet_train"):
        assert train(config).epochs == 3
        assert "Training ends here; the 2 epochs up to 3 brought no better accuracy" in caplog.text
        assert train(dataclasses.replace(config, resume="yes")).epochs == 3
        assert "This run of 50 epochs is finished" in caplog.text


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"freeze_until": "layer3"}, "freeze_until keeps what pretrained brings.*--pretrained, or leave out --freeze-until"),
        ({"freeze_bn": True}, "freeze_bn keeps what pretrained brings"),
        ({"freeze_until": "layer9"}, "freeze_until is one of none, stem"),
        ({"optimizer": "adamw", "nesterov": True}, "nesterov is a kind of SGD"),
        ({"class_weights": "balanced", "balanced_sampling": True}, "together they do so twice"),
        ({"val_split": 0.2, "val_data": "elsewhere"}, "val_split would hold out others"),
        ({"val_split": 1.0}, "val_split has to be above 0 and below 1"),
        ({"val_split": 0.2, "data": "digits"}, "held-out images of digits are known"),
        ({"layer_decay": 0.0}, "layer_decay has to be above 0"),
        ({"patience": 0}, "patience has to be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TrainConfig(**({"data": "photos"} | values))


def test_the_preset_asks_for_weights() -> None:
    with pytest.raises(InputError, match="finetune starts from the weights of a trained network; name them with --pretrained"):
        config_for("photos", "finetune")


def test_the_loop_hands_on_what_was_asked_for(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}

    class SeenError(Exception):
        pass

    def learner(_config: TrainConfig, _network: object, _world: World, weights: Tensor | None) -> None:
        found["weights"] = weights
        raise SeenError

    def loader(*arguments: Any, **planned: Any) -> TrainingLoader:
        found["balanced"] = planned["balanced"]
        return TrainingLoader(*arguments, **planned)

    monkeypatch.setattr(loop, "Learner", learner)
    monkeypatch.setattr(loop, "TrainingLoader", loader)
    for asked in ({}, {"class_weights": "balanced"}, {"balanced_sampling": True}):
        with pytest.raises(SeenError):
            train(tiny_config(**asked, overwrite=True))
        assert (found["weights"] is not None, found["balanced"]) == ("class_weights" in asked, "balanced_sampling" in asked)


def test_training_starts_from_the_weights_that_were_named(tiny_config: MakeConfig, tmp_path: Path, pretrained: Path) -> None:
    raw = load_checkpoint(pretrained).model.state_dict()
    average = {f"module.{key}": value + 1 if value.is_floating_point() else value for key, value in raw.items()}
    torch.save({"model": raw, "model_ema": average | {"n_averaged": torch.tensor(3)}}, tmp_path / "both.pth")
    for which, added in ((None, 1.0), ("average", 1.0), ("raw", 0.0)):
        config = tiny_config(arch="resnet", pretrained=tmp_path / "both.pth", which=which)
        made = initial_network(config, load_checkpoint(pretrained).spec)
        assert torch.equal(made.conv1.weight, raw["conv1.weight"] + added), which
