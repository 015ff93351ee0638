"""What a full disk keeps from being written is not forgotten."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iresnet_models import load_checkpoint
from iresnet_models.errors import PreemptedError, UnavailableError
from iresnet_train import Progress, TrainConfig, loop, run_folder, train
from iresnet_train.metrics import Evaluation

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Makes the disk full while one checkpoint of one epoch is written."""
    save = run_folder.save_checkpoint

    def fail(name: str, epoch: int) -> None:
        def saved(path: Path, network: Any, **details: Any) -> None:
            if (path.name, details["epoch"]) == (name, epoch):
                raise UnavailableError(f"{path} could not be written: the disk is full.")
            save(path, network, **details)

        monkeypatch.setattr(run_folder, "save_checkpoint", saved)

    return fail


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives each evaluation as many images out of ten that are right."""

    def score(*right: int) -> None:
        rest = iter(right)
        monkeypatch.setattr(loop, "evaluate_each", lambda *arguments: [Evaluation(10, next(rest), 10, 1.0)])

    return score


def test_a_best_checkpoint_that_is_not_there_fails_the_run_and_is_made_up_for(
    tiny_config: MakeConfig, failing: Callable[..., None], scored: Callable[..., None], tmp_path: Path
) -> None:
    failing("best.pt", 1)
    scored(9, 5)
    with pytest.raises(UnavailableError, match=r"best\.pt is not the network of epoch 1.*the disk is full"):
        train(tiny_config())
    assert not (tmp_path / "run" / "best.pt").exists()
    assert load_checkpoint(tmp_path / "run" / "last.pt").details["epoch"] == 2
    # The state from before the first evaluation is still there.
    failing("none", 0)
    scored(9, 5)
    result = train(tiny_config(resume="auto"))
    assert (result.best_epoch, load_checkpoint(result.best).details["epoch"]) == (1, 1)


def test_it_is_known_after_a_resumption_and_does_not_hide_a_request_to_stop(
    tiny_config: MakeConfig, failing: Callable[..., None], scored: Callable[..., None]
) -> None:
    def stop(now: Progress) -> None:
        if now.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    failing("best.pt", 1)
    scored(9, 5)
    with pytest.raises(PreemptedError):
        train(tiny_config(), stop)
    for _ in range(2):
        scored(5)
        with pytest.raises(UnavailableError, match=r"best\.pt is not the network of epoch 1"):
            train(tiny_config(resume="auto"))


def test_a_better_epoch_makes_up_for_it(tiny_config: MakeConfig, failing: Callable[..., None], scored: Callable[..., None]) -> None:
    failing("best.pt", 1)
    scored(5, 9)
    result = train(tiny_config())
    assert load_checkpoint(result.best).details["epoch"] == result.best_epoch == 2


def test_a_best_checkpoint_of_an_epoch_that_is_done_again_is_not_taken_for_an_earlier_one(
    tiny_config: MakeConfig, scored: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ended after the second epoch, the best, of which no state was saved; done again it need not be as good."""

    def ended(training: loop.Training) -> None:
        raise KeyboardInterrupt

    scored(7, 9)
    with monkeypatch.context() as killed:
        killed.setattr(loop.Training, "finish", ended)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(checkpoint_every="2"))
    assert load_checkpoint(tmp_path / "run" / "best.pt").details["epoch"] == 2
    scored(5)
    with pytest.raises(UnavailableError, match=r"best\.pt is not the network of epoch 1.* it was replaced \(epoch 2\)"):
        train(tiny_config(resume="yes"))
    scored(5, 9)
    result = train(tiny_config(resume="yes", epochs=3))
    assert load_checkpoint(result.best).details["epoch"] == result.best_epoch == 3


def test_a_last_checkpoint_that_is_not_there_is_made_up_for(
    tiny_config: MakeConfig, failing: Callable[..., None], tmp_path: Path
) -> None:
    failing("last.pt", 2)
    with pytest.raises(UnavailableError, match=r"last\.pt could not be written"):
        train(tiny_config(checkpoint_every="1"))
    assert load_checkpoint(tmp_path / "run" / "last.pt").details["epoch"] == 1
    failing("none", 0)
    result = train(tiny_config(resume="yes"), lambda now: pytest.fail("a step was taken again"))
    assert load_checkpoint(result.last).details["epoch"] == 2
