"""Each part of the modern recipe, and each way to compute, against what it should be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from iresnet_models import ModelSpec
from iresnet_models.errors import InputError
from iresnet_train import TrainConfig
from iresnet_train.augmentation import mixing
from iresnet_train.distributed import World
from iresnet_train.initial import initial_network
from iresnet_train.learner import Learner

ALONE = World(0, 1, torch.device("cpu"))


def learner(depth: int = 18, **values: Any) -> Learner:
    settings: dict[str, Any] = {"depth": depth, "train_crop_size": 32, "val_resize": 32, "val_crop_size": 32}
    config = TrainConfig("folder", **(settings | values))
    torch.manual_seed(0)
    spec = ModelSpec(config.arch, depth, num_classes=3, **config.model_fields())
    return Learner(config, initial_network(config, spec), ALONE)


def batch(images: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(images, 3, 32, 32, generator=generator), torch.arange(images) % 3


def gradients(trained: Learner) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in trained.model.named_parameters() if value.grad is not None}


def test_label_smoothing_is_that_of_the_paper() -> None:
    smoothed = learner(label_smoothing=0.3)
    twin = copy.deepcopy(smoothed.model)
    images, labels = batch()
    targets = 0.7 * one_hot(labels, 3) + 0.3 / 3  # arXiv 1512.00567, section 7
    expected = -(targets * twin(images).log_softmax(1)).sum(1).mean()
    assert smoothed.backward(images, labels, step=0).loss == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_carry_their_shares(kind: str) -> None:
    mix = mixing(1.0 if kind == "mixup" else 0.0, 1.0 if kind == "cutmix" else 0.0, 4)
    assert mix is not None
    labels = torch.arange(4)
    images = one_hot(labels, 4).float()[:, :, None, None].repeat(1, 1, 16, 16)  # channel c is 1 where an image is of class c
    torch.manual_seed(3)
    inputs, targets = mix(images, labels)
    torch.testing.assert_close(inputs.mean((2, 3)), targets)
    assert not torch.equal(targets, one_hot(labels, 4).float())
    assert (set(inputs.unique().tolist()) == {0.0, 1.0}) == (kind == "cutmix")
    assert mixing(0.0, 0.0, 4) is None


def test_mixing_follows_from_the_step_and_counts_the_images_own_classes() -> None:
    trained = learner(mixup=1.0, cutmix=1.0, dropout=0.5)
    before = copy.deepcopy(trained.model.state_dict())
    losses = []
    for step in (0, 0, 1):
        trained.model.load_state_dict(before)
        torch.manual_seed(1234 + len(losses))
        losses.append(trained.backward(*batch(), step=step).loss)
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_batchnorms_are_not_decayed_where_it_is_asked() -> None:
    """With a gradient of zero, weight decay alone moves the weights."""
    for decay, moves in ((0.0, False), (None, True)):
        trained = learner(norm_weight_decay=decay, weight_decay=0.1)
        for value in trained.model.parameters():
            value.grad = torch.zeros_like(value)
        before = {name: value.detach().clone() for name, value in trained.model.named_parameters()}
        trained.update(1.0)
        after = dict(trained.model.named_parameters())
        assert (not torch.equal(after["bn1.weight"], before["bn1.weight"])) == moves
        torch.testing.assert_close(after["conv1.weight"].detach(), 0.9 * before["conv1.weight"])
        torch.testing.assert_close(after["fc.bias"].detach(), 0.9 * before["fc.bias"])


def test_accumulation_adds_up_to_the_whole_batch() -> None:
    """With frozen statistics; else each part is normalised by its own."""
    found = []
    for parts in (1, 3):
        trained = learner(accumulate=parts)
        trained.model.eval()
        trained.model.train = lambda mode=True, model=trained.model: model  # type: ignore[method-assign,misc]
        outcome = trained.backward(*batch(12), step=0)
        assert outcome.counted.images == 12
        found.append((outcome.loss, gradients(trained)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_clipping_scales_the_gradient_to_the_norm() -> None:
    trained = learner(clip_norm=0.01)
    trained.backward(*batch(), step=0)
    before = gradients(trained)
    assert trained.update(0.0)
    whole = torch.cat([value.flatten() for value in before.values()]).norm()
    assert whole > 0.01
    for name, value in gradients(trained).items():
        torch.testing.assert_close(value, before[name] * (0.01 / whole), rtol=1e-3, atol=1e-8)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    trained = learner(clip_norm=1.0)
    trained.backward(*batch(), step=0)
    trained.model.fc.bias.grad[0] = torch.inf  # type: ignore[index]
    before = copy.deepcopy(trained.model.state_dict())
    assert not trained.update(0.1)
    assert all(torch.equal(value, before[key]) for key, value in trained.model.state_dict().items())


def test_the_average_of_the_weights_by_hand() -> None:
    trained = learner(ema_decay=0.75, ema_every=2, export_ema=True)
    expected = {key: value.clone() for key, value in trained.model.state_dict().items()}
    for step in range(6):
        trained.backward(*batch(), step=step)
        trained.update(0.1, step, restart_average=step < 2)
        now = trained.model.state_dict()
        if step % 2:
            for key, value in expected.items():
                share = 1.0 if step < 2 else 0.25
                expected[key] = value + share * (now[key] - value) if value.is_floating_point() else now[key].clone()
    network = trained.exported()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)
    images, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(trained.predict_by_average(images), network.eval()(images))
    assert not torch.allclose(trained.predict(images), network(images))
    assert learner(ema_decay=0.75).exported() is not network


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.15), ("fp16", 0.02)])
def test_mixed_precisions_give_nearly_the_same_gradient(precision: str, limit: float) -> None:
    exact, rounded = learner(), learner(precision=precision)
    exact.backward(*batch(32), step=0)
    rounded.backward(*batch(32), step=0)
    assert all(value.dtype == torch.float32 for value in rounded.model.parameters())
    scale = rounded._scaler.get_scale()
    assert scale == (65536 if precision == "fp16" else 1)
    wanted, found = gradients(exact)["fc.weight"], gradients(rounded)["fc.weight"] / scale
    error = float((found - wanted).norm() / wanted.norm())
    assert 1e-6 < error < limit
    assert rounded.update(0.01)


def test_the_scaler_leaves_out_a_step_that_overflows() -> None:
    trained = learner(precision="fp16")
    trained.backward(*batch(), step=0)
    trained.model.fc.bias.grad[0] = torch.inf  # type: ignore[index]
    before = {name: value.detach().clone() for name, value in trained.model.named_parameters()}
    assert trained.update(0.1)
    assert all(torch.equal(value, before[name]) for name, value in trained.model.named_parameters())
    assert trained._scaler.get_scale() == 32768


@pytest.mark.parametrize("arch", ["iresnet", "resnet"])
@pytest.mark.slow
def test_activations_computed_again_change_nothing(arch: str) -> None:
    """Losses, gradients, weights and BatchNorm statistics, bit by bit, over three steps."""
    kept, again = learner(depth=50, arch=arch), learner(depth=50, arch=arch, activation_checkpointing=True)
    for step in range(3):
        losses = [trained.backward(*batch(), step=step).loss for trained in (kept, again)]
        assert losses[0] == losses[1]
        one, two = gradients(kept), gradients(again)
        assert all(torch.equal(one[name], two[name]) for name in one)
        for trained in (kept, again):
            trained.update(0.01, step)
    expected = kept.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in again.model.state_dict().items())
    torch.testing.assert_close(again.predict(batch()[0]), kept.predict(batch()[0]), rtol=0, atol=0)


def test_activations_are_not_kept() -> None:
    """Of what the backward pass needs, far less is held between the passes."""
    held = []
    for checkpointing in (False, True):
        trained = learner(depth=50, activation_checkpointing=checkpointing)
        sizes: dict[int, int] = {}

        def remember(value: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[value.data_ptr()] = value.numel()
            return value

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda value: value):
            cross_entropy(trained.model.train()(batch()[0]), batch()[1])
        weights = sum(value.numel() for value in trained.model.parameters())
        held.append(sum(sizes.values()) - weights * (not checkpointing))
    assert held[1] < 0.5 * held[0]


def test_statistics_are_restored_after_a_bad_batch() -> None:
    trained = learner()
    trained.backward(*batch(), step=0)
    before, kept = copy.deepcopy(trained.model.state_dict()), trained.statistics()
    images, labels = batch()
    trained.backward(images * torch.inf, labels, step=1)
    assert not trained.is_finite()
    trained.restore_statistics(kept)
    assert trained.is_finite()
    assert all(torch.equal(value, before[key]) for key, value in trained.model.state_dict().items())


def test_too_few_images_are_refused() -> None:
    with pytest.raises(InputError, match="only 3 can be read here, and 4 are needed"):
        learner(accumulate=2).backward(*batch(3), step=0)


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_a_compiled_network_trains_alike() -> None:
    plain, compiled = learner(), learner(compile=True)
    for step in range(2):
        losses = [trained.backward(*batch(), step=step).loss for trained in (plain, compiled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
        for trained in (plain, compiled):
            trained.update(0.01, step)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
