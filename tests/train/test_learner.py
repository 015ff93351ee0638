from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from iresnet_models import ModelSpec, build_model, network_from_spec, save_checkpoint
from iresnet_models.errors import CheckpointError, InputError
from iresnet_train import TrainConfig
from iresnet_train.distributed import World
from iresnet_train.initial import initial_network
from iresnet_train.learner import Learner

ALONE = World(0, 1, torch.device("cpu"))


def learner(num_classes: int = 3, labels: tuple[str, ...] | None = None, **values: Any) -> Learner:
    settings: dict[str, Any] = {"depth": 18, "train_crop_size": 32, "val_resize": 32, "val_crop_size": 32}
    config = TrainConfig("folder", **(settings | values))
    torch.manual_seed(0)
    spec = ModelSpec(config.arch, config.depth, num_classes=num_classes, labels=labels, **config.model_fields())
    return Learner(config, initial_network(config, spec), ALONE)


def batch(images: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, 3, 32, 32, generator=generator), torch.arange(images) % 3


def test_updates_are_those_of_the_published_recipe() -> None:
    """SGD with momentum 0.9, and weight decay 1e-4 on everything, BatchNorms and biases too, computed by hand."""
    trained = learner()
    parameters = dict(trained.model.named_parameters())
    velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for lr in (0.1, 0.03):
        trained.backward(*batch(), step=0)
        expected = {}
        for name, value in parameters.items():
            assert value.grad is not None
            velocity[name] = 0.9 * velocity[name] + value.grad + 1e-4 * value.detach()
            expected[name] = value.detach() - lr * velocity[name]
        trained.update(lr)
        for name, value in parameters.items():
            torch.testing.assert_close(value.detach(), expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_the_loss_is_the_mean_cross_entropy_in_training_mode() -> None:
    trained = learner()
    twin = build_model("iresnet", 18, num_classes=3).train()
    twin.load_state_dict(trained.model.state_dict())
    images, labels = batch()
    outcome = trained.backward(images, labels, step=0)
    expected = twin(images)
    assert outcome.loss == pytest.approx(float(cross_entropy(expected, labels).detach()), rel=1e-5)
    assert outcome.counted.images == 6
    assert outcome.counted.top1_correct == int((expected.argmax(1) == labels).sum())


def test_gradients_are_of_one_batch_alone() -> None:
    trained = learner()
    trained.backward(*batch(), step=0)
    once = [value.grad.clone() for value in trained.model.parameters() if value.grad is not None]
    trained.backward(*batch(), step=0)
    again = [value.grad for value in trained.model.parameters()]
    torch.testing.assert_close(again, once, rtol=1e-4, atol=1e-6)


def test_predicting_changes_nothing() -> None:
    trained = learner(dropout=0.5)
    images, labels = batch()
    trained.backward(images, labels, step=0)
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    first, second = trained.predict(images), trained.predict(images)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in trained.model.state_dict().items())
    assert trained.model.spec.dropout == 0.5


@pytest.mark.parametrize(("size", "last"), [(32, False), (224, True)])
def test_channels_come_last_where_it_pays(size: int, last: bool) -> None:
    weight = learner(train_crop_size=size).model.conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == last
    assert weight.is_contiguous() != last


def saved(path: Path, **fields: Any) -> Path:
    torch.manual_seed(99)
    save_checkpoint(path, network_from_spec(ModelSpec("iresnet", fields.pop("depth", 18), **fields)))
    return path


def test_fine_tuning_keeps_everything_but_a_classifier_of_other_classes(tmp_path: Path) -> None:
    path = saved(tmp_path / "ten.pt", num_classes=10)
    source = torch.load(path, weights_only=True)["state_dict"]
    tuned = learner(num_classes=3, pretrained=path).model.state_dict()
    assert tuned["fc.weight"].shape == (3, 512)
    assert tuned["fc.bias"].shape == (3,)
    assert all(torch.equal(tuned[key], source[key]) for key in source if not key.startswith("fc."))


ABC = ("a", "b", "c")


@pytest.mark.parametrize(
    ("theirs", "ours", "kept"),
    [(None, None, True), (None, ABC, True), (ABC, ABC, True), (("c", "b", "a"), ABC, False)],
)
def test_fine_tuning_keeps_the_classifier_of_the_same_classes(
    theirs: tuple[str, ...] | None, ours: tuple[str, ...] | None, kept: bool, tmp_path: Path
) -> None:
    path = saved(tmp_path / "three.pt", num_classes=3, labels=theirs)
    source = torch.load(path, weights_only=True)["state_dict"]
    tuned = learner(num_classes=3, labels=ours, pretrained=path).model
    assert torch.equal(tuned.state_dict()["fc.weight"], source["fc.weight"]) == kept
    assert tuned.spec.labels == ours
    assert all(parameter.requires_grad for parameter in tuned.parameters())


def test_fine_tuning_refuses_another_network(tmp_path: Path) -> None:
    path = saved(tmp_path / "ten.pt", num_classes=10)
    with pytest.raises(CheckpointError, match="holds iresnet18"):
        learner(depth=34, pretrained=path)


def test_fine_tuning_takes_the_groups_of_the_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "groups.pt"
    save_checkpoint(path, network_from_spec(ModelSpec("iresgroup", 50, num_classes=3, groups=32)))
    assert learner(arch="iresgroup", depth=50, pretrained=path).spec.groups == 32
    with pytest.raises(InputError, match="with 32 groups, but 64 were asked for"):
        learner(arch="iresgroup", depth=50, groups=64, pretrained=path)


def test_zero_init_reaches_the_network() -> None:
    assert float(learner(zero_init_residual=True).model.layer1[0].bn2.weight.detach().abs().max()) == 0.0
    assert float(learner().model.layer1[0].bn2.weight.detach().min()) == 1.0
