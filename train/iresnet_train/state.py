"""Saved states of a run, from which it goes on exactly: whole, hashed, and never the only one.

A file's name holds a number, by which they are in order, and the beginning of the SHA-256 of its content, so that one rename
makes both appear. The number is the step, or one more than the newest file's: several states may be of one step, and a run that
goes on with another number of processes may count fewer steps.
"""

from __future__ import annotations

import hashlib
import io
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iresnet_models.errors import IResNetError
from iresnet_models.files import write_bytes

FORMAT = "iresnet-export/state/1"
_KEPT = 2
_DIGITS = 16

_log = logging.getLogger("iresnet_train")


class StateFolder:
    """`error` is why the last state could not be written; None if it was. Writing goes on beside training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, "state")
        self._pending: Future[None] | None = None
        self.error: IResNetError | None = None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copies `state` (plain values and tensors) and lets it be written; waits for the one before."""
        self.wait()
        copied = _copied({"format": FORMAT, **state})
        self._pending = self._writer.submit(self._write, step, copied)

    def wait(self) -> None:
        """Until what was saved is on disk."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def newest(self) -> dict[str, Any] | None:
        """The newest state that is whole; None without any. One that is damaged is named and set aside."""
        for path in self._files():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest()[:_DIGITS] != path.stem.split("-")[-1]:
                _log.warning("The saved state %s is damaged: its hash is not that in its name. The one before is taken.", path)
                path.rename(path.with_suffix(".damaged"))  # so that it is not counted among those that are kept
                continue
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if state.get("format") == FORMAT:
                return state
            _log.warning("The saved state %s is of another version of this program, and passed over.", path)
        return None

    def prune(self, kept: int) -> None:
        """Removes all but the newest `kept` states."""
        for path in self._files()[kept:]:
            path.unlink()

    def close(self) -> None:
        self.wait()
        self._writer.shutdown()

    def leavings(self) -> list[Path]:
        """All that is here: states, whole or not."""
        return sorted(self.folder.glob("state-*"))

    def clear(self) -> None:
        """Removes all that is here."""
        for path in self.leavings():
            path.unlink()

    def _files(self) -> list[Path]:
        """The newest first."""
        return sorted(self.folder.glob("state-*-*.pt"), key=lambda path: (_number(path), path.name), reverse=True)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        try:
            number = max(step, 1 + max(map(_number, self._files()), default=-1))
            path = self.folder / f"state-{number:09}-{hashlib.sha256(content).hexdigest()[:_DIGITS]}.pt"
            write_bytes(path, content)
            self.prune(_KEPT)
            self.error = None
        except IResNetError as error:
            self.error = error
            _log.error("Saving is paused, and training goes on: %s The next state will be tried again.", error)
        except OSError as error:
            _log.warning("An old state could not be removed (%s).", error)


def _number(path: Path) -> int:
    number = path.stem.split("-")[1]
    return int(number) if number.isdecimal() else -1


def _copied(value: Any) -> Any:
    """The same values, with tensors in memory of their own, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value
