"""Ctrl-C, a terminal that goes away, a batch system's signals: where a run is saved, where it ends at once, and what is said."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iresnet_models.errors import InterruptedRunError, PreemptedError
from iresnet_train import Progress, TrainConfig, loop, preemption, train
from iresnet_train.preemption import leave_stopping_to_the_trainer, stop_requests

MakeConfig = Callable[..., TrainConfig]
Job = Callable[..., list[int]]

SHORT: dict[str, Any] = {"epochs": 1, "lr_steps": (), "batch_size": 24}
"""Three steps."""


def stopping(name: str, at: int = 1) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        if now.step == at:
            signal.raise_signal(signal.Signals[name])

    return progress


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGHUP", 75)])
def test_a_run_is_saved_and_says_how_to_go_on(
    name: str, status: int, tiny_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(**SHORT)
    with pytest.raises(PreemptedError) as caught:
        train(config, stopping(name))
    assert caught.value.exit_status == status
    assert f"Training was stopped by {name} after step 2 of epoch 1" in str(caught.value)
    assert json.loads((tmp_path / "run" / "train.json").read_text())["status"] == "preempted"
    command = ["iresnet-export", "train", "--resume", "--result-path", str(tmp_path / "run"), "--data", config.data]
    assert str(caught.value).endswith(f"Go on with: {shlex.join(command)}")
    assert ("Press again to end at once without saving" in caplog.text) == (name == "SIGINT")
    told: list[Progress] = []
    train(tiny_config(**SHORT, resume="yes"), told.append)
    assert [now.step for now in told] == [3]


def test_a_second_ctrl_c_ends_at_once(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def twice(now: Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny_config(**SHORT), twice)
    assert signal.getsignal(signal.SIGINT) is before
    assert not list((tmp_path / "run" / "states").glob("*"))


def test_torchrun_passes_on_what_the_terminal_has_sent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the second Ctrl-C is the first one once more, until some time has passed."""
    now = 100.0
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now)
    with stop_requests() as stop:
        stop.saves = True
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        now += 5
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.name == "SIGINT"


def test_what_has_nothing_to_save_ends_at_once(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While images are looked for, say, which may take minutes."""

    def interrupted(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it went on")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "spec_for", interrupted)
        with pytest.raises(InterruptedRunError, match="stopped by SIGINT before a step was taken"):
            train(tiny_config(**SHORT))
    assert not (tmp_path / "run").exists()


def test_an_evaluation_is_broken_off(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And done anew where the run goes on; no step is taken twice."""
    evaluate_each = loop.evaluate_each
    batches = 0

    def stopped(predictions: Any, loader: Any, combined: Any) -> Any:
        def told() -> Any:
            nonlocal batches
            for batch in loader:
                batches += 1
                yield batch
                signal.raise_signal(signal.SIGTERM)

        return evaluate_each(predictions, told(), combined)

    whole = train(tiny_config(**SHORT, result_path=tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate_each", stopped)
        with pytest.raises(PreemptedError, match="in the evaluation of epoch 1, and its state is saved"):
            train(tiny_config(**SHORT))
    assert batches == 1
    result = train(tiny_config(**SHORT, resume="yes"), lambda now: pytest.fail("a step was taken"))
    assert result.val_acc1 == whole.val_acc1


def test_two_processes_break_off_an_evaluation_together(job: Job, tiny_values: dict[str, Any], tmp_path: Path) -> None:
    values = tiny_values | {"result_path": str(tmp_path / "run"), "batch_size": 36, "epochs": 1, "lr_steps": []}
    assert job("train", processes=2, config=values, evaluation_signal="SIGINT") == [130, 130]
    assert json.loads((tmp_path / "run" / "train.json").read_text())["status"] == "preempted"


def test_signals_that_are_ignored_ask_for_nothing() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.name is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_processes_that_load_images_hear_none_of_them() -> None:
    names = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT")
    before = {name: signal.getsignal(signal.Signals[name]) for name in names}
    try:
        leave_stopping_to_the_trainer(0)
        assert all(signal.getsignal(signal.Signals[name]) is signal.SIG_IGN for name in names)
    finally:
        for name, handler in before.items():
            signal.signal(signal.Signals[name], handler)


def group_is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGHUP", 75)])
def test_the_whole_program_group_is_signalled(name: str, status: int, digit_folder: Path, tmp_path: Path) -> None:
    """As a terminal does, with processes that load images: the state is saved, and no process is left."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "iresnet_export", "train", "--data", digit_folder, "--depth", "18", "--device", "cpu"]
    sizes = ["--train-crop-size", "32", "--val-resize", "32", "--val-crop-size", "32", "--batch-size", "18", "--workers", "2"]
    arguments = [*map(str, command), *sizes, "--checkpoint-every", "1", "--result-path", str(run)]
    with (
        (tmp_path / "log.txt").open("wb") as log,
        subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        while process.poll() is None and not list(run.glob("states/*.pt")):
            time.sleep(0.1)
        os.killpg(process.pid, signal.Signals[name])
        assert process.wait(120) == status, (tmp_path / "log.txt").read_text()
        while group_is_there(process.pid):  # those that load images are reaped a moment later
            time.sleep(0.1)
    said = (tmp_path / "log.txt").read_text()
    assert "Go on with: iresnet-export train --resume" in said
    assert "Traceback" not in said
    assert logging.getLogger("iresnet_train").level == logging.NOTSET
