"""Losses that are not finite, and images that cannot be read: what is done, and what is said of it."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from iresnet_models import load_checkpoint
from iresnet_models.errors import CheckFailedError, InputError, PreemptedError
from iresnet_train import Progress, TrainConfig, train
from iresnet_train import learner as learner_module
from iresnet_train.distributed import World
from iresnet_train.learner import Learner, StepOutcome
from iresnet_train.trouble import UnreadableImages, unreadable

MakeConfig = Callable[..., TrainConfig]


def spoiled_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the update of a step, counted from 1, leave a weight that is no number."""
    update, steps = Learner.update, 0

    def spoil(self: Learner, *arguments: Any, **options: Any) -> bool:
        nonlocal steps
        steps += 1
        moved = update(self, *arguments, **options)
        if steps == step:
            self.model.fc.bias.data[0] = torch.nan
        return moved

    monkeypatch.setattr(Learner, "update", spoil)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_before_the_weights(
    bad: float, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Learner] = []
    before: list[dict[str, Tensor]] = []
    steps = 0
    loss_of, init = learner_module.cross_entropy, Learner.__init__

    def spoiled(logits: Tensor, labels: Tensor, *weights: Any, **options: Any) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 6:  # the second of the second epoch's four
            before.append({name: value.detach().clone() for name, value in made[0].model.named_parameters()})
            return loss_of(logits, labels, *weights, **options) * bad
        return loss_of(logits, labels, *weights, **options)

    def remember(self: Learner, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        made.append(self)

    monkeypatch.setattr(learner_module, "cross_entropy", spoiled)
    monkeypatch.setattr(Learner, "__init__", remember)
    with pytest.raises(CheckFailedError) as caught:
        train(tiny_config())
    message = str(caught.value)
    for part in (
        "stopped before it reached the weights",
        f"became {bad} at step 2 of 4 of epoch 2",
        "learning rate of 0.001",
        "last.pt",
        "best.pt",
        "after epoch 1",
    ):
        assert part in message
    assert "\n" not in message
    assert all(torch.equal(value, before[0][name]) for name, value in made[0].model.named_parameters())
    assert load_checkpoint(tmp_path / "run" / "last.pt").details["epoch"] == 1
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 2


def test_a_run_that_diverges_from_the_start_says_so(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"epoch 1, at a learning rate of 1e\+30.*there is no checkpoint.*a third"):
        train(tiny_config(lr=1e30))
    assert not list((tmp_path / "run").glob("*.pt"))


def test_weights_spoiled_by_the_last_step_are_not_saved(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled_at(8, monkeypatch)
    with pytest.raises(CheckFailedError) as caught:
        train(tiny_config())
    start = (
        "The loss on the held-out images became nan after epoch 2, at a learning rate of 0.001. The weights of now are of no use "
    )
    assert str(caught.value).startswith(start)
    assert load_checkpoint(tmp_path / "run" / "last.pt").details["epoch"] == 1


def test_weights_spoiled_within_an_epoch_are_not_saved_in_a_state(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled_at(6, monkeypatch)
    with pytest.raises(CheckFailedError) as caught:
        train(tiny_config(checkpoint_every="2"))
    message = str(caught.value)
    start = (
        "Weights or statistics were no longer finite after step 2 of epoch 2, at a learning rate of 0.001. The weights of now are"
    )
    assert message.startswith(start)
    assert "before it reached the weights" not in message
    assert [path.name[:15] for path in sorted((tmp_path / "run" / "states").iterdir())] == ["state-000000002", "state-000000004"]


def test_a_failed_run_says_so(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError):
        train(tiny_config(lr=1e30))
    assert json.loads((tmp_path / "run" / "train.json").read_text())["status"] == "failed"


@pytest.fixture
def damaged(digit_folder: Path, tmp_path: Path) -> Path:
    """The little data set with two images damaged in train/ and one in val/."""
    folder = tmp_path / "damaged"
    shutil.copytree(digit_folder, folder)
    for part, count in (("train", 2), ("val", 1)):
        for path in sorted((folder / part / "1").iterdir())[:count]:
            path.write_bytes(path.read_bytes()[:40])
    return folder


def test_unreadable_images_are_named_counted_and_skipped(
    damaged: Path, tiny_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "iresnet_train"):
        train(tiny_config(data=str(damaged), max_corrupt=3))
    skipped = [record.getMessage() for record in caplog.records]
    assert len(skipped) == 3  # each once, in two epochs
    assert skipped[0].startswith("Skipped, 1 of at most 3: The image ")
    assert sum("/val/1/" in line for line in skipped) == 1


@pytest.mark.parametrize("most", [0, 2])
def test_too_many_unreadable_images_stop_a_run_and_are_all_named(most: int, damaged: Path, tiny_config: MakeConfig) -> None:
    with pytest.raises(InputError) as caught:
        train(tiny_config(data=str(damaged), max_corrupt=most))
    message = str(caught.value)
    assert message.startswith(f"3 images cannot be read, more than --max-corrupt {most}: ")
    assert message.endswith("let training skip them, with --max-corrupt 3.")
    named = sorted(path for part in ("train", "val") for path in (damaged / part / "1").iterdir())
    assert [path for path in named if str(path) in message] == [path for path in named if path.stat().st_size == 40]
    assert "\n" not in message


def test_of_many_unreadable_images_five_are_named(damaged: Path, tiny_config: MakeConfig) -> None:
    for path in (damaged / "train" / "0").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"27 images cannot be read.* And 22 more\.") as caught:
        train(tiny_config(data=str(damaged)))
    assert str(caught.value).count(str(damaged)) == 5


def test_looking_for_unreadable_images_takes_a_short_time(damaged: Path, tiny_config: MakeConfig) -> None:
    from iresnet_data import training_set
    from iresnet_models import ModelSpec

    images = training_set(str(damaged), ModelSpec("iresnet", 18, num_classes=3, image_size=32, resize=32))
    assert unreadable([images], seconds=-1) == ([], 0, 72)
    found, looked_at, count = unreadable([images, images])
    assert (len(found), looked_at, count) == (2, 144, 144)


def test_steps_without_a_finite_loss_may_be_left_out(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backward = Learner.backward

    def spoiled(self: Learner, images: Tensor, labels: Tensor, *, step: int, **options: Any) -> StepOutcome:
        return backward(self, images * (torch.nan if step == 1 else 1), labels, step=step, **options)

    monkeypatch.setattr(Learner, "backward", spoiled)
    result = train(tiny_config(epochs=1, lr_steps=(), on_nan="skip"))
    assert "The loss became nan at step 2 of 4 of epoch 1, at a learning rate of 0.01: this step is left out." in caplog.text
    assert all(bool(value.isfinite().all()) for value in torch.load(result.last, weights_only=True)["state_dict"].values())


def test_a_step_left_out_for_its_gradient_is_said_to_be(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    update = Learner.update

    def spoil(self: Learner, lr: float, step: int, **options: Any) -> bool:
        if step == 1:
            self.model.fc.bias.grad[0] = torch.inf  # type: ignore[index]
        return update(self, lr, step, **options)

    monkeypatch.setattr(Learner, "update", spoil)
    train(tiny_config(epochs=1, lr_steps=(), on_nan="skip", clip_norm=1.0))
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "The gradient was no longer finite at step 2 of 4 of epoch 1, at a learning rate of 0.01: this step is left out."
    ]


def test_unreadable_images_are_known_again_where_data_have_moved(damaged: Path, tiny_config: MakeConfig, tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        if now.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(PreemptedError):
        train(tiny_config(data=str(damaged), max_corrupt=3), stop)
    moved = tmp_path / "elsewhere" / damaged.name
    moved.parent.mkdir()
    damaged.rename(moved)
    assert train(tiny_config(data=f"{moved}/", max_corrupt=3, resume="yes")).epochs == 2


@pytest.mark.parametrize("name", ["{0..1}.tar", "s-{0..1}.tar", "{0..1}/s.tar", "s.tar"])
def test_images_in_shards_are_known_by_shard_and_part(name: str, tmp_path: Path) -> None:
    """Wherever both parts lie; images of one name in two of them are two."""
    known = []
    for root in (tmp_path, tmp_path / "moved"):
        config = TrainConfig(f"{root}/a/{name}", val_data=f"{root}/b/{name}", max_corrupt=3)
        images = UnreadableImages(config, World(0, 1, torch.device("cpu")))
        for folder in "aab":
            images.note(f"The image {root}/{folder}/{name.replace('{0..1}', '0')}/1.png cannot be read.")
        known.append(images.known)
    assert len(known[0]) == 2
    assert known[0] == known[1]
