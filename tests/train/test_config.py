from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iresnet_models.errors import InputError
from iresnet_train import DIGITS, MODERN, OFFICIAL, TrainConfig, config_for


def test_the_official_recipe_is_the_published_one() -> None:
    # arXiv 2004.04989, section 4, and the authors' implementation.
    said = {
        "arch": "iresnet",
        "depth": 50,
        "epochs": 90,
        "batch_size": 256,
        "lr": 0.1,
        "lr_schedule": "steps",
        "lr_steps": (30, 60, 80),
        "warmup_epochs": 0,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
        "augmentation": "crop-flip",
        "train_crop_size": 224,
        "val_resize": 256,
        "val_crop_size": 224,
        "dropout": 0.0,
        "zero_init_residual": False,
    }
    assert {name: getattr(OFFICIAL, name) for name in said} == said


def test_the_modern_recipe_is_torchvisions() -> None:
    # V. Vryniotis, "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives" (2021), its table of options.
    said = {
        "epochs": 600,
        "batch_size": 8 * 128,
        "lr": 0.5,
        "lr_schedule": "cosine",
        "warmup_epochs": 5,
        "weight_decay": 2e-5,
        "norm_weight_decay": 0.0,
        "label_smoothing": 0.1,
        "mixup": 0.2,
        "cutmix": 1.0,
        "augmentation": "trivial",
        "random_erasing": 0.1,
        "train_crop_size": 176,
        "val_resize": 232,
        "val_crop_size": 224,
        "ema_every": 32,
        "export_ema": True,
    }
    assert {name: getattr(MODERN, name) for name in said} == said
    # There, the decay is said for 600 epochs and one image a step, and adjusted to the batch and the steps between updates.
    assert MODERN.ema_decay == pytest.approx(1 - (1 - 0.99998) * 1024 * 32 / 600, abs=1e-4)


def test_another_run_is_told_from_the_same_one_elsewhere() -> None:
    config = TrainConfig("here/imagenet")
    moved = dataclasses.replace(config, data="/there/images", result_path=Path("x"), workers=3, resume="yes", checkpoint_every="7")
    assert moved.differences(config.to_json()) == []
    changed = dataclasses.replace(config, lr=0.2, lr_steps=(30,), seed=4)
    assert changed.differences(config.to_json()) == ["lr 0.2 (was 0.1)", "lr_steps [30] (was [30, 60, 80])", "seed 4 (was 0)"]
    assert config.differences({"lr": 0.1, "gone": 1})[:1] != []


def test_intervals_of_saving() -> None:
    assert TrainConfig("d", checkpoint_every="500").save_every == (500, None)
    assert TrainConfig("d", checkpoint_every="2.5m").save_every == (None, 150.0)


def test_the_learning_rate_of_every_official_epoch() -> None:
    # Epochs 0 to 29 at 0.1, 30 to 59 at 0.01, 60 to 79 at 0.001, 80 to 89 at 0.0001: not one epoch early.
    expected = [0.1] * 30 + [0.01] * 30 + [0.001] * 20 + [0.0001] * 10
    assert [OFFICIAL.learning_rate(epoch) for epoch in range(90)] == pytest.approx(expected, rel=1e-12)
    assert [OFFICIAL.learning_rate(epoch + 0.999) for epoch in range(90)] == pytest.approx(expected, rel=1e-12)


def test_cosine_with_warm_up() -> None:
    config = TrainConfig("d", epochs=10, lr=0.4, lr_schedule="cosine", lr_steps=(), warmup_epochs=2)
    rates = {0: 0.0, 0.5: 0.1, 1: 0.2, 2: 0.4, 4: 0.4 * 0.8535533905932737, 6: 0.2, 8: 0.4 * 0.14644660940672624, 10: 0.0}
    assert [config.learning_rate(epoch) for epoch in rates] == pytest.approx(list(rates.values()), abs=1e-15)


def test_the_preset_follows_from_the_data() -> None:
    assert config_for("digits") == DIGITS
    assert config_for("imagenet") == OFFICIAL
    assert config_for("some/folder") == dataclasses.replace(OFFICIAL, data="some/folder")
    assert config_for("some/folder", "digits").epochs == DIGITS.epochs
    with pytest.raises(InputError, match="no preset 'x'; there are: official, modern, digits"):
        config_for("digits", "x")


def test_what_is_said_replaces_the_preset() -> None:
    config = config_for("folder", epochs=3, lr=None, depth=101, result_path=None)
    assert (config.epochs, config.lr, config.depth) == (3, 0.1, 101)
    cosine = config_for("folder", lr_schedule="cosine")
    assert (cosine.lr_schedule, cosine.lr_steps) == ("cosine", ())
    steps = config_for("digits", lr_steps=(3, 5))
    assert (steps.lr_schedule, steps.lr_steps) == ("steps", (3, 5))


def test_a_short_digits_run_needs_nothing_else_said() -> None:
    assert config_for("digits", epochs=1).epochs == 1


def test_a_run_has_a_place_of_its_own() -> None:
    assert config_for("digits").folder == Path("runs/iresnet18")
    assert config_for("d", arch="resnet", depth=101).folder == Path("runs/resnet101")
    assert config_for("d", result_path=Path("x")).folder == Path("x")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"arch": "vgg"}, "no arch 'vgg'"),
        ({"depth": 51}, "no iresnet of depth 51"),
        ({"groups": 4}, "leave out groups"),
        ({"dropout": 1.0}, "dropout"),
        ({"val_crop_size": 300}, "resized to 256"),
        ({"epochs": 0}, "epochs has to be at least 1 and at most 100,000, not 0"),
        ({"batch_size": 1}, "batch_size has to be at least 2"),
        ({"train_crop_size": 0}, "train_crop_size"),
        ({"lr": 0.0}, "lr has to be a positive number"),
        ({"lr": float("nan")}, "lr has to be a positive number"),
        ({"lr": float("inf")}, "lr has to be a positive number"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"lr_steps": (60, 30)}, "lr_steps has to be epochs in rising order"),
        ({"lr_steps": (0, 30)}, "lr_steps has to be epochs in rising order"),
        ({"lr_schedule": "linear"}, "lr_schedule is one of steps, cosine, not 'linear'"),
        ({"lr_schedule": "cosine"}, "belong to the schedule 'steps'"),
        ({"device": "tpu"}, "device is one of"),
        ({"augmentation": "none"}, "augmentation is one of"),
        ({"warmup_epochs": -1}, "warmup_epochs"),
        ({"warmup_epochs": 90}, "leaves nothing of 90"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
        ({"seed": -1}, "seed"),
        ({"workers": -1}, "workers"),
        ({"precision": "int8"}, "precision is one of auto, fp32, bf16, fp16, not 'int8'"),
        ({"on_nan": "ignore"}, "on_nan is one of"),
        ({"batch_size": 7, "accumulate": 4}, "fewer than the two that BatchNorm needs"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"random_erasing": -0.1}, "random_erasing"),
        ({"mixup": -1.0}, "mixup"),
        ({"clip_norm": 0.0}, "clip_norm has to be a positive number"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"export_ema": True}, "give ema_decay too"),
        ({"compile": True, "activation_checkpointing": True}, "leave out activation_checkpointing"),
        ({"overwrite": True, "resume": "yes"}, "either resumed or replaced"),
        ({"checkpoint_every": "0"}, "such as 500, or minutes"),
        ({"checkpoint_every": "1.5"}, "such as 500, or minutes"),
        ({"checkpoint_every": "soon"}, "such as 500, or minutes"),
        ({"max_corrupt": -1}, "max_corrupt"),
        ({"pretrained": Path("a.pt"), "zero_init_residual": True}, "leave one of them out"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig("folder", **values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_as_plain_values_says_no_absolute_path(tmp_path: Path) -> None:
    config = TrainConfig(str(tmp_path / "images"), result_path=tmp_path / "out", pretrained=tmp_path / "old.pt")
    text = json.dumps(config.to_json())
    assert str(tmp_path) not in text
    values = json.loads(text)
    assert (values["data"], values["result_path"], values["pretrained"]) == ("images", "out", "old.pt")
    assert values["lr_steps"] == [30, 60, 80]
    assert DIGITS.to_json()["data"] == "digits"


def test_configurations_need_no_torch() -> None:
    code = (
        "import sys, iresnet_train; iresnet_train.config_for('digits'); assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
