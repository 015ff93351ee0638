from __future__ import annotations

import errno
import logging
import threading
from pathlib import Path

import pytest
import torch

from iresnet_models.errors import UnavailableError
from iresnet_train import state as state_module
from iresnet_train.state import StateFolder


def saved(folder: Path, *steps: int) -> StateFolder:
    states = StateFolder(folder)
    for step in steps:
        states.save(step, {"step": step, "weights": torch.full((5,), float(step)), "nested": [(1, {"a": torch.ones(2)})]})
    states.wait()
    return states


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    states = saved(tmp_path, 3, 20, 100)
    assert [path.name.split("-")[1] for path in sorted(tmp_path.iterdir())] == ["000000020", "000000100"]
    newest = states.newest(dict)
    assert newest is not None
    assert newest["step"] == 100
    assert newest["weights"].tolist() == [100.0] * 5
    assert newest["nested"][0][1]["a"].tolist() == [1.0, 1.0]


def test_what_is_saved_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    states, weights, go = StateFolder(tmp_path), torch.zeros(1000), threading.Event()
    states._writer.submit(go.wait)  # so that it is written after the weights have moved
    states.save(1, {"weights": weights})
    weights += 1
    go.set()
    states.wait()
    newest = states.newest(dict)
    assert newest is not None
    assert not newest["weights"].any()


@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_a_damaged_one_falls_back_to_the_one_before(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = saved(tmp_path, 1, 2)
    path = sorted(tmp_path.iterdir())[-1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"bit": bytes(content), "cut": path.read_bytes()[:-100], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "iresnet_train"):
        newest = states.newest(dict)
    assert newest is not None
    assert newest["step"] == 1
    assert path.name in caplog.text
    assert path.exists()  # reading changes nothing
    states.set_aside()
    saved(tmp_path, 3, 4)  # the damaged one does not count as one of the two
    assert [path.name.split("-")[1] for path in sorted(tmp_path.glob("*.pt"))] == ["000000003", "000000004"]


def test_there_may_be_none(tmp_path: Path) -> None:
    assert StateFolder(tmp_path / "nowhere").newest(dict) is None


def test_a_full_disk_pauses_saving_and_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    states = saved(tmp_path, 1)
    write = state_module.write_bytes

    def full(path: Path, content: bytes) -> None:
        raise UnavailableError(f"{path} could not be written: the disk is full") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(state_module, "write_bytes", full)
    states.save(2, {"step": 2})
    states.wait()
    assert isinstance(states.error, UnavailableError)
    assert "Saving is paused" in caplog.text
    newest = states.newest(dict)
    assert newest is not None
    assert newest["step"] == 1
    monkeypatch.setattr(state_module, "write_bytes", write)
    states.save(3, {"step": 3})
    states.wait()
    assert states.error is None


def test_of_states_of_one_step_the_last_one_is_the_newest(tmp_path: Path) -> None:
    """Whatever their hashes, which a name ends with, and also after a run that counted more steps."""
    states = StateFolder(tmp_path)
    for content in range(12):
        states.save(7 if content < 10 else 3, {"content": content})
        states.wait()
        newest = states.newest(dict)
        assert newest is not None
        assert newest["content"] == content
        assert len(list(tmp_path.iterdir())) == min(content + 1, 2)


def test_nothing_is_left_of_a_run_that_is_replaced(tmp_path: Path) -> None:
    states = saved(tmp_path, 1, 2)
    sorted(tmp_path.iterdir())[0].rename(tmp_path / "state-000000001-0.damaged")
    assert [path.suffix for path in states.leavings()] == [".damaged", ".pt"]
    states.clear()
    assert not list(tmp_path.iterdir())
