"""`iresnet-export train`, its options and what they become."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iresnet_export.cli.config_file import toml_of
from iresnet_export.cli.train import train as command
from iresnet_train import MODERN, TrainConfig

OFFICIAL_LINE = (
    "--arch iresnet --depth 50 --data DATA --result-path results --epochs 90 --batch-size 256 --lr 0.1 --lr-steps 30,60,80 "
    "--lr-reduce-factor 0.1 --momentum 0.9 --weight-decay 1e-4 --nesterov --zero-init-residual --train-crop-size 224 "
    "--val-resize 256 --val-crop-size 224 --seed 1 --workers 4 --dropout 0.1"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> Callable[[str], TrainConfig]:
    """The configuration that a command line asks for."""
    import iresnet_train.loop

    class AskedError(Exception):
        pass

    def config_of(line: str) -> TrainConfig:
        found: list[TrainConfig] = []

        def remember(config: TrainConfig, *arguments: Any, **options: Any) -> None:
            found.append(config)
            raise AskedError

        monkeypatch.setattr(iresnet_train.loop, "train", remember)
        run("train", *line.split())
        assert found, "the command did not get as far as training"
        return found[0]

    return config_of


def test_every_field_has_an_option() -> None:
    """But for those that two flags say together."""
    options = set(inspect.signature(command).parameters) - {"preset", "config", "json", "force", "auto_resume"}
    assert options == {field.name for field in dataclasses.fields(TrainConfig)} - {"overwrite"}


def test_the_official_command_line(asked: Callable[[str], TrainConfig]) -> None:
    expected = TrainConfig(
        "DATA", result_path=Path("results"), nesterov=True, zero_init_residual=True, seed=1, workers=4, dropout=0.1
    )
    assert asked(OFFICIAL_LINE) == expected


def test_every_knob_of_a_preset_can_be_replaced(asked: Callable[[str], TrainConfig]) -> None:
    assert asked("--data DATA --preset modern") == dataclasses.replace(MODERN, data="DATA")
    line = (
        "--data DATA --preset modern --epochs 100 --warmup-epochs 3 --label-smoothing 0 --mixup 0 --cutmix 0.5 --random-erasing 0 "
        "--augmentation crop-flip --ema-decay 0.9 --ema-every 1 --no-export-ema --norm-weight-decay 0.1 --clip-norm 1 "
        "--accumulate 2 --precision fp16 --no-channels-last --compile --deterministic --on-nan skip --max-corrupt 5 "
        "--checkpoint-every 100 --auto-resume --log tensorboard --log mlflow --val-data VAL"
    )
    expected = dataclasses.replace(
        MODERN,
        data="DATA",
        val_data="VAL",
        epochs=100,
        warmup_epochs=3,
        label_smoothing=0,
        mixup=0,
        cutmix=0.5,
        random_erasing=0,
        augmentation="crop-flip",
        ema_decay=0.9,
        ema_every=1,
        export_ema=False,
        norm_weight_decay=0.1,
        clip_norm=1,
        accumulate=2,
        precision="fp16",
        channels_last=False,
        compile=True,
        deterministic=True,
        on_nan="skip",
        max_corrupt=5,
        checkpoint_every="100",
        resume="auto",
        log=("tensorboard", "mlflow"),
    )
    assert asked(line) == expected
    without = asked("--data DATA --preset modern --ema-decay 0")
    assert (without.ema_decay, without.export_ema) == (None, False)


def test_a_run_its_report_and_its_end(run: Callable[..., Any], digit_folder: Path) -> None:
    small = ["--train-crop-size", "32", "--val-resize", "32", "--val-crop-size", "32", "--depth", "18", "--device", "cpu"]
    arguments = ["--data", digit_folder, *small, "--epochs", "2", "--batch-size", "18", "--lr", "0.01", "--workers", "0"]
    outcome = run("train", *arguments, "--result-path", "r", "--json", "report.json")
    assert outcome.status == 0, outcome.err
    assert "best.pt" in outcome.out
    first, *lines = outcome.err.splitlines()
    assert first.startswith(
        "Training iresnet18 (11.2 million weights) on 72 images of 3 classes from digits-as-files, with 24 held out"
    )
    assert [line.split(": loss ")[0] for line in lines[:2]] == ["Epoch 1/2", "Epoch 2/2"]
    assert all("held-out " in line and "(best " in line and "waiting for data" in line for line in lines[:2])
    report = json.loads(Path("report.json").read_text())
    assert report == json.loads(Path("r/train.json").read_text())
    assert report["environment"]["versions"]["torch"]
    shown = [float(re.findall(r"held-out ([0-9.]+) %", line)[0]) for line in lines[:2]]
    assert shown == [round(epoch["val_acc1"], 1) for epoch in report["epochs"]]
    assert run("train", "--config", "r/config.toml", "--result-path", "again", "--epochs", "1").status == 0
    (repeated,) = json.loads(Path("again/train.json").read_text())["epochs"]
    assert repeated["train_loss"] == report["epochs"][0]["train_loss"]
    assert run("train", "--config", "r/config.toml").status == 2
    assert run("train", "--config", "r/config.toml", "--resume").status == 0
    assert run("train", "--config", "r/config.toml", "--resume", "--lr", "0.02").status == 2
    assert run("train", *arguments, "--result-path", "r", "--resume", "--lr", "0.02").status == 2
    assert run("train", *arguments, "--result-path", "r", "--resume", "--auto-resume").status == 2
    assert run("train", *arguments, "--result-path", "r", "--resume", "--force").status == 2
    assert run("train", *arguments, "--result-path", "new", "--lr", "1e30").status == 1


def test_a_signal_ends_the_command_with_75(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_train import loop
    from iresnet_train.preemption import StopRequest

    monkeypatch.setattr(StopRequest, "name", "SIGTERM")
    outcome = run("train", "--data", "digits", "--device", "cpu", "--result-path", "r")
    assert outcome.status == 75
    assert "after step 1 of epoch 1" in outcome.err
    assert "--resume" in outcome.err
    assert "\n" not in outcome.err.strip().split("iresnet-export: ")[1]
    assert loop.__name__


def test_a_file_of_options_and_the_command_line_which_wins(asked: Callable[[str], TrainConfig]) -> None:
    Path("c.toml").write_text(
        'data = "DATA"\npreset = "modern"\nbatch-size = 32\nlr = 1e-2\nlr-steps = "3,6"\nnesterov = false\ncompile = true\n'
        'log = ["mlflow", "tensorboard"]\nresult-path = "r"\n'
    )
    typed = "--data DATA --preset modern --batch-size 32 --lr 1e-2 --lr-steps 3,6 --no-nesterov --compile --result-path r"
    logs = "--log mlflow --log tensorboard"
    assert asked("--config c.toml") == asked(f"{typed} {logs}")
    assert asked("--batch-size 64 --config c.toml --nesterov --log wandb --data digits") == asked(
        f"{typed} --batch-size 64 --nesterov --log wandb --data digits"
    )


def test_a_file_of_options_that_begins_with_a_mark_of_its_encoding(asked: Callable[[str], TrainConfig]) -> None:
    """As Windows' editors write it."""
    Path("c.toml").write_text('data = "DATA"\nbatch-size = 32\n', encoding="utf-8-sig")
    assert asked("--config c.toml") == asked("--data DATA --batch-size 32")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("batchsize = 3", "c.toml sets 'batchsize', which is no option of train. The nearest is batch-size."),
        ("no-nesterov = true", "The nearest is nesterov."),
        ("resume = true", "which belongs on the command line: --resume."),
        ('config = "c.toml"', "which belongs on the command line: --config."),
        ("epochs = 2.5", "Invalid value for '--epochs': Input should be a valid integer"),
        ('epochs = "many"', "Invalid value for '--epochs': Input should be a valid integer"),
        ("epochs = true", "c.toml sets epochs to True; it takes a value."),
        ("compile = 1", "c.toml sets compile to 1; it takes true or false."),
        ("epochs = [2]", "c.toml sets epochs to [2]; it takes one text or number."),
        ("epochs = 2026-11-27", "it takes one text or number."),
        ("log = [[1]]", "it takes one text or number."),
        ('log = ["paper"]', "log is one of tensorboard, mlflow, wandb, not 'paper'."),
        ("lr = nan", "lr has to be a positive number"),
        ("seed = 0x" + "f" * 9000, "Invalid value for '--seed'"),
        ('data = "a\\u0000b"', "zero byte"),
        ('data = "pipe:touch here"', "--data on the command line"),
        ('val-data = "https://example.org/{0..1}.tar"', "--val-data on the command line"),
        ("epochs = 2\nepochs = 3", "cannot be read as TOML"),
        ("x = " + "[" * 30_000, "nested too deeply"),
        ("#" * 70_000, "larger than 65,536 bytes"),
        ("", "is empty"),
    ],
)
def test_a_file_of_options_that_makes_no_sense(content: str, said: str, run: Callable[..., Any]) -> None:
    Path("c.toml").write_text(content)
    outcome = (
        run("train", "--config", "c.toml", "--data", "nowhere") if "data" not in content else run("train", "--config", "c.toml")
    )
    assert outcome.status == 2, outcome.err
    assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", outcome.err).split())
    assert not Path("here").exists()


def test_what_was_said_is_written_as_it_is_read() -> None:
    said: dict[str, Any] = {
        "data": 'a "b" \\ \n\t\x7f\x1b é 😀',
        "result_path": Path("r"),
        "log": ["mlflow"],
        "epochs": 2,
        "lr": 1e-05,
        "nesterov": False,
    }
    read = tomllib.loads(toml_of(said | {"val_data": "pipe:curl -H secret"}))
    assert read == {name.replace("_", "-"): str(value) if isinstance(value, Path) else value for name, value in said.items()}
