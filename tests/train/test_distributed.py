"""Several processes compute what one does (Gloo, on CPUs)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from iresnet_data import evaluation_set
from iresnet_models import load_checkpoint
from iresnet_models.errors import UnavailableError
from iresnet_train import Loader, TrainConfig, distributed, evaluate, train
from iresnet_train.distributed import World, joined_world
from iresnet_train.torchrun import processors

Job = Callable[..., list[int]]
MakeConfig = Callable[..., TrainConfig]


def test_shares_are_disjoint_complete_and_even() -> None:
    for size in (1, 2, 3, 7):
        shares = [World(rank, size, torch.device("cpu")).share(range(20)) for rank in range(size)]
        assert [item for share in shares for item in share] == list(range(20))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("values", [{}, {"accumulate": 2, "label_smoothing": 0.1}])
@pytest.mark.slow
def test_gradients_agree_within_rounding(values: dict[str, Any], job: Job, tiny_values: dict[str, Any], tmp_path: Path) -> None:
    """At the same total batch, which the processes share unevenly: 18 images on 4 processes.

    BatchNorm's statistics are frozen, since each process normalises with those of its own images.
    """
    found = {}
    for size in (1, 2, 4):
        output = tmp_path / f"{size}.pt"
        job("gradients", processes=size, config=tiny_values | values, images=18, output=str(output))
        found[size] = torch.load(output, weights_only=True)
    exact = found[1]["gradients"]
    for size in (2, 4):
        assert found[size]["images"] == 18
        assert found[size]["loss"] == pytest.approx(found[1]["loss"], rel=1e-6)
        for name, gradient in exact.items():
            error = (found[size]["gradients"][name] - gradient).norm() / gradient.norm()
            assert error < 1e-5, name
        for name, weight in found[1]["weights"].items():
            torch.testing.assert_close(found[size]["weights"][name], weight, rtol=1e-4, atol=1e-6)


def test_how_long_processes_wait_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def joined(backend: str, **options: Any) -> None:
        asked.append((backend, options))
        raise RuntimeError("not here")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed.dist, "init_process_group", joined)
    for patience in (None, timedelta(days=1)):
        with pytest.raises(UnavailableError, match="cannot join"), distributed.joined_world("cpu", patience=patience):
            pass
    assert asked == [("gloo", {"timeout": None}), ("gloo", {"timeout": timedelta(days=1)})]


def test_two_processes_train_evaluate_exactly_and_are_resumed_by_one(
    job: Job, tiny_values: dict[str, Any], tmp_path: Path, tiny_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    values = tiny_values | {"result_path": str(tmp_path / "run"), "batch_size": 10, "ema_decay": 0.5}
    assert job("train", processes=2, config=values) == [0, 0]
    report = json.loads((tmp_path / "run" / "train.json").read_text())
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2]
    checkpoint = load_checkpoint(tmp_path / "run" / "last.pt")
    alone = evaluate(checkpoint.model, Loader(evaluation_set(values["data"], checkpoint.spec), 24))
    assert report["epochs"][-1]["val_acc1"] == alone.top1
    assert report["epochs"][-1]["val_loss"] == pytest.approx(alone.loss, rel=1e-6)
    assert alone.images == 24
    assert (tmp_path / "run" / "evaluated.txt").read_text().splitlines() == [
        "24 24",
        "24 24",
    ]  # none counted twice, weights and average in one pass

    # Both again, stopped by a signal that one of them gets, and by that one resumed alone.
    stopped = values | {"result_path": str(tmp_path / "stopped")}
    assert job("train", processes=2, config=stopped, kill_after=3, signal="SIGTERM") == [75, 75]
    with caplog.at_level("INFO", "iresnet_train"):
        result = train(tiny_config(**(stopped | {"result_path": tmp_path / "stopped", "lr_steps": (1,), "resume": "yes"})))
    assert "after step 4 of epoch 1, with processes 1 (was 2)" in caplog.text
    assert result.epochs == 2


def test_processes_have_the_average_that_the_first_one_saves(job: Job, tiny_values: dict[str, Any], tmp_path: Path) -> None:
    """BatchNorm's statistics in it are of each process's own images until they are aligned; weights are the same all the time."""
    job("averages", processes=2, config=tiny_values | {"ema_decay": 0.5}, output=str(tmp_path / "average"))
    first, second = (torch.load(tmp_path / f"average-{rank}.pt", weights_only=True) for rank in range(2))
    differing = {name for name, value in first["before"].items() if not torch.equal(value, second["before"][name])}
    assert differing == {name for name in first["before"] if "running_" in name}
    for name, value in first["before"].items():
        assert torch.equal(first["after"][name], value), name
        assert torch.equal(second["after"][name], value), name


def test_processors_are_divided_among_torchruns_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert processors() == 16
    for size, share in (("8", 2), ("3", 5), ("64", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", size)
        assert processors() == share


@pytest.mark.slow
def test_two_processes_resume_exactly(job: Job, tiny_values: dict[str, Any], tmp_path: Path) -> None:
    values = tiny_values | {"dropout": 0.3, "checkpoint_every": "2"}
    whole, killed = (values | {"result_path": str(tmp_path / name), "resume": "auto"} for name in ("whole", "killed"))
    assert job("train", processes=2, config=whole) == [0, 0]
    assert job("train", processes=2, config=killed, kill_after=5, signal="SIGKILL") == [-9, -9]
    assert job("train", processes=2, config=killed) == [0, 0]
    first, second = (torch.load(tmp_path / name / "last.pt", weights_only=True)["state_dict"] for name in ("whole", "killed"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_the_command_runs_under_torchrun(tmp_path: Path) -> None:
    """One line of results, from the first process alone."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "iresnet_train"]
    arguments = [
        "--data",
        "digits",
        "--epochs",
        "1",
        "--batch-size",
        "648",
        "--device",
        "cpu",
        "--result-path",
        str(tmp_path / "run"),
    ]
    local = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    finished = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300, env=local)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("Best: ") == 1
    assert finished.stderr.count("Epoch 1/1") == 1
    assert (tmp_path / "run" / "best.pt").exists()


@pytest.mark.slow
def test_torchrun_passes_sigusr1_on_where_it_is_told_to(tmp_path: Path) -> None:
    """By the option that the documents name: else it dies of the signal, and training goes on without it."""
    folder = tmp_path / "run"
    told = ["--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *told, "-m", "iresnet_train"]
    arguments = ["--data", "digits", "--device", "cpu", "--checkpoint-every", "2", "--result-path", str(folder)]
    local = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    with (
        (tmp_path / "log.txt").open("wb") as log,
        subprocess.Popen([*command, *arguments], stdout=log, stderr=log, env=local) as torchrun,
    ):
        while torchrun.poll() is None and not list(folder.glob("states/*.pt")):
            time.sleep(0.2)
        torchrun.send_signal(signal.SIGUSR1)
        assert torchrun.wait(120) == 1
    assert "Training was stopped by SIGUSR1" in (tmp_path / "log.txt").read_text()
    assert json.loads((folder / "train.json").read_text())["status"] == "preempted"


def test_synchronised_batchnorm_needs_gpus(tiny_config: MakeConfig) -> None:
    with pytest.raises(UnavailableError, match="needs GPUs"):
        train(tiny_config(sync_bn=True))


def test_a_process_without_a_gpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UnavailableError, match="--nproc-per-node"), joined_world("auto"):
        pass
