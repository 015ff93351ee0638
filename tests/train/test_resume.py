"""Killed at any step and resumed, a run ends as if nothing had happened."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iresnet_models.errors import InputError, PreemptedError
from iresnet_train import Progress, TrainConfig, state, train
from iresnet_train.determinism import computation, exactness
from iresnet_train.distributed import World

MakeConfig = Callable[..., TrainConfig]
Job = Callable[..., list[int]]

EVERYTHING: dict[str, Any] = {
    "dropout": 0.3,
    "mixup": 0.4,
    "cutmix": 0.5,
    "random_erasing": 0.3,
    "label_smoothing": 0.1,
    "ema_decay": 0.8,
    "ema_every": 2,
    "export_ema": True,  # so that it is compared too; the weights of all steps are in it
    "clip_norm": 5.0,
    "accumulate": 2,
    "norm_weight_decay": 0.0,
}
"""Whatever a step can depend on."""


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def require_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def logged(folder: Path) -> list[dict[str, str]]:
    """The log without what a clock gave."""
    with (folder / "log.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in ("seconds", "images_per_second", "data_wait_share")}
            for row in csv.DictReader(file)
        ]


@pytest.mark.slow
def test_ten_kills_leave_no_trace(job: Job, tiny_values: dict[str, Any], tmp_path: Path) -> None:
    """SIGKILL, at random steps and random moments after them, in the middle of saving too."""
    values = tiny_values | EVERYTHING | {"epochs": 14, "checkpoint_every": "1"}
    assert job("train", config=values | {"result_path": str(tmp_path / "whole")}) == [0]
    draw = random.Random(7)
    killed = values | {"result_path": str(tmp_path / "killed"), "resume": "auto"}
    reached = []
    for _ in range(10):
        # Few of the 56 steps at a time. Each state waits for the one before, so that of three steps one is on disk for certain.
        plan = {"kill_after": draw.choice((3, 4, 5)), "signal": "SIGKILL", "delay": draw.choice((0.0, 0.01, 0.04))}
        assert job("train", config=killed, **plan) == [-signal.SIGKILL]
        states = (tmp_path / "killed" / "states").glob("state-*.pt")
        reached.append(max((int(path.name.split("-")[1]) for path in states), default=0))
    assert len(set(reached)) == 10, "the run was not gone on with, but begun again"
    assert reached == sorted(reached)
    assert job("train", config=killed) == [0]
    for name in ("last.pt", "best.pt"):
        require_same(tmp_path / "whole" / name, tmp_path / "killed" / name)
    assert logged(tmp_path / "whole") == logged(tmp_path / "killed")
    assert json.loads((tmp_path / "killed" / "train.json").read_text())["status"] == "done"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_ends_a_run_after_its_step_with_status_75(
    name: str, job: Job, tiny_values: dict[str, Any], tmp_path: Path
) -> None:
    values = tiny_values | {"epochs": 1, "lr_steps": []}
    assert job("train", config=values | {"result_path": str(tmp_path / "whole")}) == [0]
    stopped = values | {"result_path": str(tmp_path / "stopped")}
    assert job("train", config=stopped, kill_after=2, signal=name) == [75]
    report = json.loads((tmp_path / "stopped" / "train.json").read_text())
    assert (report["status"], report["epochs"]) == ("preempted", [])
    assert job("train", config=stopped | {"resume": "yes"}) == [0]
    require_same(tmp_path / "whole" / "last.pt", tmp_path / "stopped" / "last.pt")


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_signal_to_all_processes_of_a_job_stops_it_as_well(tiny_config: MakeConfig) -> None:
    """As batch systems send it: to those that load images too."""
    workers: list[int] = []
    others = {child.pid for child in multiprocessing.active_children()}  # of whatever else this process has done

    def stop(now: Progress) -> None:
        if now.step == 2:
            children = {child.pid for child in multiprocessing.active_children()}
            workers.extend(child for child in children - others if child is not None)
            for worker in workers:
                os.kill(worker, signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(PreemptedError, match="after step 3 of epoch 1"):
        train(tiny_config(workers=1), stop)
    assert len(workers) == 1


@pytest.mark.slow
def test_the_message_says_how_to_go_on(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        if now.step == 1:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match=r"SIGTERM after step 2 of epoch 1.*--resume"):
        train(tiny_config(), stop)
    assert signal.getsignal(signal.SIGTERM) is before
    assert PreemptedError.exit_status == 75
    # Going on with less than the whole recipe is another run.
    with pytest.raises(InputError, match=r"other settings: lr 0.02 \(was 0.01\)"):
        train(tiny_config(resume="yes", lr=0.02))
    with pytest.raises(InputError, match=r"already holds a run \(states\).*--resume.*--force"):
        train(tiny_config())
    told: list[Progress] = []
    train(tiny_config(resume="yes", epochs=2, workers=1), told.append)
    assert [(now.epoch, now.step) for now in told][:2] == [(1, 3), (1, 4)]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_finished_run_is_found_finished(seed: int, tiny_config: MakeConfig, tmp_path: Path) -> None:
    values = {"epochs": 1, "lr_steps": (), "seed": seed, "checkpoint_every": "4"}  # the last state is of the last step
    first = train(tiny_config(**values))
    again = train(tiny_config(**values, resume="auto"), lambda now: pytest.fail("a step was taken"))
    assert first == again
    assert len(list((tmp_path / "run" / "states").iterdir())) == 1


def test_there_is_nothing_to_resume(tiny_config: MakeConfig) -> None:
    with pytest.raises(InputError, match="no saved state"):
        train(tiny_config(resume="yes"))


def test_a_folder_in_use_is_refused(tiny_config: MakeConfig, tmp_path: Path) -> None:
    tried = 0

    def second(now: Progress) -> None:
        nonlocal tried
        if now.step == 1:
            tried += 1
            with pytest.raises(InputError, match="Another process is training"):
                train(tiny_config(epochs=1, lr_steps=(), seed=1, resume="auto"))

    train(tiny_config(epochs=1, lr_steps=()), second)
    assert tried == 1


def test_force_begins_anew(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(PreemptedError):
        train(tiny_config(seed=1), stop)
    told: list[Progress] = []
    train(tiny_config(overwrite=True, epochs=1, lr_steps=()), told.append)
    assert told[0].step == 1


@pytest.mark.parametrize("lost", ["damaged", "another version", "removed"])
@pytest.mark.slow
def test_a_run_whose_states_are_lost_is_not_begun_again_unasked(
    lost: str, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"epochs": 1, "lr_steps": ()}
    best = train(tiny_config(**values)).best.read_bytes()
    for path in (tmp_path / "run" / "states").iterdir():
        if lost == "damaged":
            path.write_bytes(path.read_bytes()[:-1])
        elif lost == "removed":
            path.unlink()
    with monkeypatch.context() as patched:
        if lost == "another version":
            patched.setattr(state, "FORMAT", "iresnet-export/state/next")
        for resume in ("auto", "yes"):
            with pytest.raises(InputError, match=r"holds a run \(best\.pt, last\.pt.*no state.*--force"):
                train(tiny_config(**values, resume=resume), lambda now: pytest.fail("a step was taken"))
    assert (tmp_path / "run" / "best.pt").read_bytes() == best
    train(tiny_config(**values, overwrite=True))
    assert [path.suffix for path in (tmp_path / "run" / "states").iterdir()] == [".pt"]


def test_no_checkpoint_is_without_a_state_to_go_on_from(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """A run killed soon after its first epoch goes on, and one killed before begins again."""

    class KilledError(BaseException):
        pass

    told: list[Progress] = []

    def kill(at: tuple[int, int]) -> Callable[[Progress], None]:
        def progress(now: Progress) -> None:
            told.append(now)
            if (now.epoch, now.step) == at:
                raise KilledError

        return progress

    for at in ((1, 3), (2, 2)):
        with pytest.raises(KilledError):
            train(tiny_config(resume="auto"), kill(at))
    train(tiny_config(resume="auto"), told.append)
    steps = [(1, step) for step in (1, 2, 3)] + [(1, step) for step in (1, 2, 3, 4)] + [(2, 1), (2, 2)]
    assert [(now.epoch, now.step) for now in told] == steps + [(2, step) for step in (1, 2, 3, 4)]


@pytest.mark.slow
def test_exactness_is_claimed_only_where_sums_add_up_alike(tiny_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    def stop(now: Progress) -> None:
        signal.raise_signal(signal.SIGTERM)

    threads = torch.get_num_threads()
    with caplog.at_level("INFO", "iresnet_train"):
        with pytest.raises(PreemptedError):
            train(tiny_config(), stop)
        with pytest.raises(PreemptedError):
            train(tiny_config(resume="yes"), stop)
        torch.set_num_threads(threads + 1)
        try:
            train(tiny_config(resume="yes"))
        finally:
            torch.set_num_threads(threads)
    said = [line for record in caplog.records if (line := record.getMessage()).startswith("Resumed")]
    assert len(said) == 2
    assert said[0] == "Resumed after step 2 of epoch 1, exactly as if it had not been interrupted."
    assert said[1].startswith(
        f"Resumed after step 4 of epoch 1, with threads {threads + 1} (was {threads}). Everything is restored"
    )
    assert "bits may differ" in said[1]


def test_what_bits_depend_on() -> None:
    now = computation(World(0, 2, torch.device("cpu")), "fp32")
    assert now["processes"] == 2
    assert exactness(now, dict(now), fixed=True) == "exactly as if it had not been interrupted"
    assert "without --deterministic" in exactness(now, dict(now), fixed=False)
    for name in now:
        assert f"with {name} {now[name]} (was other). Every" in exactness(now, now | {name: "other"}, fixed=True)
    assert set(now) == {"processes", "threads", "device", "precision", "PyTorch", "decoder"}
