"""Epochs for MLflow and Weights & Biases, whose packages are pretended here, and what becomes of a run when these fail."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from iresnet_models.errors import UnavailableError
from iresnet_train import TrainConfig, train
from iresnet_train.logs import Logs, require_packages
from iresnet_train.records import EpochRecord

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the pretended packages are asked for, in order."""
    found: list[tuple[Any, ...]] = []

    def start_run(run_id: str | None, run_name: str) -> Any:
        found.append(("mlflow start", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "a" * 32))

    def init(**values: Any) -> Any:
        found.append(("wandb start", values["id"], values["resume"], values["config"]["data"]))
        return SimpleNamespace(
            id=values["id"] or "b7",
            log=lambda values, step: found.append(("wandb", step, sorted(values))),
            finish=lambda exit_code: found.append(("wandb end", exit_code)),
        )

    mlflow: Any = _module(monkeypatch, "mlflow")
    mlflow.start_run = start_run
    mlflow.log_params = lambda values: found.append(("mlflow params", values["batch_size"]))
    mlflow.log_metrics = lambda values, step: found.append(("mlflow", step, sorted(values)))
    mlflow.end_run = lambda status: found.append(("mlflow end", status))
    wandb: Any = _module(monkeypatch, "wandb")
    wandb.init, wandb.Settings = init, SimpleNamespace
    return found


def _module(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_a_resumed_run_is_one_run_in_each_log(tiny_config: MakeConfig, calls: list[tuple[Any, ...]]) -> None:
    config = tiny_config(epochs=1, log=("mlflow", "wandb"))
    train(config)
    figures = ["data_wait_share", "images_per_second", "lr", "seconds", "train_acc1", "train_acc5", "train_loss"]
    figures += ["val_acc1", "val_acc5", "val_loss"]
    assert calls == [
        ("mlflow start", None, "run"),
        ("mlflow params", 18),
        ("wandb start", None, None, "digits-as-files"),
        ("mlflow", 1, figures),
        ("wandb", 1, figures),
        ("mlflow end", "FINISHED"),
        ("wandb end", 0),
    ]
    calls.clear()
    train(dataclasses.replace(config, epochs=2, resume="yes"))
    assert calls == [
        ("mlflow start", "a" * 32, "run"),
        ("wandb start", "b7", "allow", "digits-as-files"),
        ("mlflow", 2, figures),
        ("wandb", 2, figures),
        ("mlflow end", "FINISHED"),
        ("wandb end", 0),
    ]


@pytest.mark.parametrize("content", ["{", "[1]", '{"mlflow": 5, "other": "x"}', '{"mlflow": "../../x"}'])
def test_ids_that_make_no_sense_are_not_passed_on(
    content: str, tiny_config: MakeConfig, tmp_path: Path, calls: list[tuple[Any, ...]]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs.json").write_text(content)
    Logs(tiny_config(log=("mlflow",)), 0, resumed=True)
    assert calls[0] == ("mlflow start", None, "run")
    assert json.loads((tmp_path / "run" / "logs.json").read_text()) == {"mlflow": "a" * 32}


@pytest.mark.parametrize("broken", ["start_run", "log_metrics", "end_run"])
def test_a_log_that_fails_is_told_once_and_ends_nothing(
    broken: str, tiny_config: MakeConfig, tmp_path: Path, calls: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    setattr(sys.modules["mlflow"], broken, fail)
    (tmp_path / "run").mkdir()
    logs = Logs(tiny_config(log=("mlflow", "wandb")), 0, resumed=False)
    for number in (1, 2):
        logs.add(EpochRecord(number, 1, 2, 3, 4, 5, 6, 7, 8, 9))
    logs.end("done")
    assert [record.message for record in caplog.records] == [
        "The log of mlflow failed (OSError: [Errno 28] No space left on device) and is left; training goes on."
    ]
    assert [call[1] for call in calls if call[0] == "wandb"] == [1, 2]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_log_without_its_package_is_refused_before_anything_is_done(
    name: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match=rf"--log {name} needs .* pip install 'iresnet-export\[{name}\]'"):
        train(tiny_config(log=(name,)))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_its_name_is_no_package(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B leaves wandb/ where it ran, and `python -m` looks for packages there."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UnavailableError, match="--log wandb needs the package wandb"):
        require_packages(tiny_config(log=("wandb",)))
