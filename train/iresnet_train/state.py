"""Saved states of a run, from which it goes on exactly: whole, hashed, and never the only one.

A file's name holds a number, by which they are in order, and the beginning of the SHA-256 of its content, so that one rename
makes both appear. The number is the step, or one more than the newest file's: several states may be of one step, and a run that
goes on with another number of processes may count fewer steps.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from iresnet_models.errors import CheckpointError, InputError, IResNetError
from iresnet_models.files import sha256_of, write_bytes
from iresnet_models.saved_files import read_saved

FORMAT = "iresnet-export/state/3"
_KEPT = 2
_DIGITS = 16

_log = logging.getLogger("iresnet_train")

T = TypeVar("T")


class StateFolder:
    """`error` is why the last state could not be written; None if it was. Writing goes on beside training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = ThreadPoolExecutor(1, "state")
        self._pending: Future[None] | None = None
        self._damaged: list[Path] = []
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

    def newest(self, check: Callable[[Mapping[str, Any]], T], *, tell: bool = True) -> T | None:
        """What `check` makes of the newest state that is whole; None without any.

        One that is damaged, or that `check` raises InputError for, is named, and set aside by `set_aside`: reading changes nothing.
        """
        self._damaged = []
        warn = _log.warning if tell else _log.debug
        for path in self._files():
            try:
                state = _read(path)
                if state.get("format") != FORMAT:
                    warn("The saved state %s is of another version of this program, and passed over.", path)
                    continue
                return check(state)
            except InputError as error:
                warn("The saved state %s is damaged: %s. The one before is taken.", path, str(error).rstrip("."))
                self._damaged.append(path)
        return None

    def set_aside(self) -> None:
        """Renames what `newest` found damaged, so that it is not counted among those that are kept."""
        for path in self._damaged:
            try:
                path.rename(path.with_suffix(".damaged"))
            except OSError as error:
                _log.warning("The damaged state %s could not be set aside (%s).", path, error)
        self._damaged = []

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
            try:
                path.unlink()
            except OSError as error:
                raise InputError(
                    f"{path}, of the run before, cannot be removed ({error.strerror}).", "Remove it by hand."
                ) from error

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


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a state's file, whose tensors still lie in it; InputError says why it is none. Nothing in it is run."""
    if not path.is_file():
        raise InputError("it is no file")
    try:
        if sha256_of(path)[:_DIGITS] != path.stem.split("-")[-1]:
            raise InputError("its hash is not that in its name")
        return read_saved(path)
    except OSError as error:
        raise InputError(f"it cannot be read ({error.strerror})") from error
    except CheckpointError as error:
        raise InputError(error.reason.replace(f"{path} ", "it ")) from error


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
