"""What a run leaves: logs, states, the last and the best checkpoint. A kill leaves each file as it was, or new, never half."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iresnet_data.named_data import place_of
from iresnet_models.checkpoint import save_checkpoint
from iresnet_models.errors import InputError, IResNetError, PreemptedError, UnavailableError
from iresnet_models.files import sha256_of, write_bytes, write_json, write_text
from iresnet_models.network import Network
from iresnet_models.remembered import remember
from iresnet_models.saved_files import read_saved
from iresnet_models.spec import ModelSpec
from iresnet_train.config import TrainConfig
from iresnet_train.logs import Logs, require_packages
from iresnet_train.records import EpochRecord, Position, csv_of
from iresnet_train.saved import SavedState, checked
from iresnet_train.state import StateFolder

SCHEMA = "iresnet-export/train/1"
_EPOCH_END_AFTER = 60.0
"""Seconds after a saved state from which the end of an epoch is worth another one. The first end is in any case."""

_log = logging.getLogger("iresnet_train")


class RunFolder:
    """The folder of a run, and what has been logged in it. Only the first process writes; the others keep the records alone."""

    def __init__(self, config: TrainConfig, environment: dict[str, Any] | None, said: str | None = None, *, writes: bool) -> None:
        self._config, self._environment, self._said, self._writes = config, environment, said, writes
        self.log = config.folder / "log.csv"
        self.last_checkpoint = config.folder / "last.pt"
        self.best_checkpoint = config.folder / "best.pt"
        self.report = config.folder / "train.json"
        self.said = config.folder / "config.toml"
        self.states = StateFolder(config.folder / "states")
        self.records: list[EpochRecord] = []
        self._spec: ModelSpec | None = None
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._has_state = False
        self._errors: dict[Path, IResNetError] = {}  # why a file is not as it should be; until it is written
        self._logs: Logs | None = None
        self._begun = False
        there = [
            path for path in (self.log, self.last_checkpoint, self.best_checkpoint, self.states.folder) if os.path.exists(path)
        ]
        if writes and there and not config.overwrite and config.resume == "no":
            raise InputError(
                f"{config.folder} already holds a run ({', '.join(path.name for path in there)}).",
                "Name another --result-path, say --resume to go on with it, or --force to replace it.",
            )
        require_packages(config)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder and keeps other processes out of it. Of a run that never began nothing is left.

        A place that cannot be written to shows here, before an epoch of work, not after.
        """
        if not self._writes:
            yield
            return
        from filelock import FileLock, Timeout

        folder = self._config.folder
        place = folder / ".lock"
        made = [path for path in (place, folder, *folder.parents) if not os.path.lexists(path)]
        lock = FileLock(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Another process is training in {folder}.", "Name another --result-path, or wait for its end."
            ) from None
        except (OSError, NotImplementedError) as error:
            self._remove(made)
            raise _unusable(folder, error) from error
        try:
            if not os.access(folder, os.W_OK):
                raise InputError(f"The result path {folder} may not be written to by this user.", "Name another --result-path.")
            yield
        finally:
            self.states.close()
            if not self._begun:
                self._remove(made)  # while it is locked
            lock.release()

    def _remove(self, made: list[Path]) -> None:
        """The lock's file and the folders that this run has made, as far as nothing else is in them."""
        for path in made:
            try:
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:
                return

    @contextmanager
    def reported(self, spec: ModelSpec) -> Iterator[None]:
        """At the end the report says how the run ended, if it began."""
        self._spec = spec
        status = "failed"
        try:
            yield
            status = "done"
        except PreemptedError:
            status = "preempted"
            raise
        finally:
            self.states.wait()
            if self._logs is not None:
                self._logs.end(status)
            if self._begun and self._writes:
                self._remember_data()
                self._attempt(self.report, lambda: self._write_report(status))

    def saved(self) -> SavedState | None:
        """The state to go on from; None where a run is to begin. InputError where that would lose one, or there has to be one."""
        folder = self._config.folder
        state = self.states.newest(checked) if self._config.resume != "no" else None
        if state is not None or self._config.resume == "no":
            return state
        if leavings := self.leavings():
            raise InputError(
                f"{folder} holds a run ({', '.join(leavings)}), but no state that this program can go on from.",
                "Say --force to replace it, or name another --result-path.",
            )
        if self._config.resume == "yes":
            raise InputError(f"{folder} holds no saved state to go on from.", "Leave out --resume, or name another --result-path.")
        return None

    def resume(self, saved: SavedState) -> None:
        """A run goes on, with what its state knows of files that are not as they should be."""
        self.records = list(saved.records)
        self._has_state = True
        self._errors = {self._config.folder / name: UnavailableError(reason) for name, reason in saved.unsaved.items()}
        if self._writes:
            self.states.set_aside()
            self._require_best_of_these()
        self._begin(saved.position.epoch, resumed=True)

    def _require_best_of_these(self) -> None:
        """Notes a best checkpoint of an epoch after the state: what comes now may be another, and need not be better."""
        if self.best is None or not self.best_checkpoint.is_file():
            return
        try:
            held = read_saved(self.best_checkpoint).get("epoch")
        except IResNetError as error:
            held = error.reason
        if held != self.best.epoch:
            self._errors[self.best_checkpoint] = UnavailableError(f"Before the run was ended it was replaced (epoch {held}).")

    def start(self) -> None:
        """A run has begun, which takes its first step: only then is one that was there before replaced."""
        if not self._begun:
            if self._writes:
                self.states.clear()
            self._begin(0, resumed=False)

    def _begin(self, epochs: int, *, resumed: bool) -> None:
        self._begun = True
        if not self._writes:
            return
        self._write_report("running")
        if not resumed:
            self.said.unlink(missing_ok=True) if self._said is None else write_text(self.said, self._said)
        self._logs = Logs(self._config, epochs, resumed=resumed)

    def leavings(self) -> list[str]:
        """Names of what took work to make: checkpoints and states, damaged ones too."""
        checkpoints = [path for path in (self.best_checkpoint, self.last_checkpoint) if path.exists()]
        return [path.name for path in (*checkpoints, *self.states.leavings())]

    @property
    def best(self) -> EpochRecord | None:
        """The epoch of the highest accuracy of what is exported on the held-out images, the first of equals."""
        return max(self.records, key=self.accuracy, default=None)

    def accuracy(self, record: EpochRecord) -> float:
        """Top-1 of what is exported, in percent."""
        average = record.ema_val_acc1
        return average if self._config.export_ema and average is not None else record.val_acc1

    def due(self, step: int, *, epoch_ends: bool) -> bool:
        """Whether a state is to be saved after `step` steps of the run: always before its first checkpoint."""
        steps, seconds = self._config.save_every
        passed = time.monotonic() - self._saved_at
        if epoch_ends and (passed >= _EPOCH_END_AFTER or not self._has_state):
            return True
        return step - self._saved_step >= steps if steps is not None else passed >= (seconds or 0)

    def save_state(self, step: int, position: Position, state: dict[str, Any]) -> None:
        """Saves what the run needs to go on after `step` steps. A failure is logged, and `states.error`."""
        self._saved_at, self._saved_step, self._has_state = time.monotonic(), step, True
        if self._writes:
            known: dict[str, Any] = {
                "config": self._config.to_json(),
                "records": [dataclasses.asdict(record) for record in self.records],
            }
            unsaved = {path.name: str(error) for path, error in self._errors.items()}
            assert self._spec is not None
            known |= {"spec": self._spec.to_json(), "unsaved": unsaved, "position": position.to_json()}
            self.states.save(step, known | state)

    def save_epoch(self, network: Network, record: EpochRecord) -> None:
        """Saves the network after an epoch, and adds the epoch to the logs. What a full disk keeps from being saved is logged."""
        self.records.append(record)
        if not self._writes:
            return
        details = {"epoch": record.epoch, "val_acc1": self.accuracy(record), "config": self._config.to_json()}
        if self._config.ema_decay is not None:
            details["which"] = "average" if self._config.export_ema else "raw"
        self.states.wait()
        if self.best is record:
            self._attempt(self.best_checkpoint, lambda: save_checkpoint(self.best_checkpoint, network, **details))
        self._attempt(self.last_checkpoint, lambda: save_checkpoint(self.last_checkpoint, network, **details))
        self._attempt(self.log, lambda: write_bytes(self.log, csv_of(self.records).encode()))
        self._attempt(self.report, lambda: self._write_report("running"))
        if self._logs is not None:
            self._logs.add(record)

    def require_state(self) -> None:
        """Raises what kept the last state from being written."""
        self.states.wait()
        if self.states.error is not None:
            raise self.states.error

    def require_files(self) -> None:
        """Raises what keeps a file from being as the report says: the last checkpoint, or the best one, of whatever epoch."""
        for path, error in self._errors.items():
            if path == self.best_checkpoint and self.best is not None:
                raise UnavailableError(
                    f"{path} is not the network of epoch {self.best.epoch}, the best one, which could not be saved: {error} If "
                    f"this comes again with --resume, that network is lost; {self.last_checkpoint} holds the last one."
                )
            raise error

    def _remember_data(self) -> None:
        """Notes on this machine where the images of its checkpoints lie: no file is to say so."""
        for path in (self.best_checkpoint, self.last_checkpoint):
            if not self.records or path in self._errors or not path.is_file():
                continue
            digest = sha256_of(path)
            for kind, data in (("data", self._config.data), ("val_data", self._config.val_data)):
                place = None if data is None else place_of(data)
                if place is not None:
                    remember(kind, digest, place)

    def _attempt(self, path: Path, write: Callable[[], object]) -> None:
        try:
            write()
            self._errors.pop(path, None)
        except IResNetError as error:
            self._errors[path] = error
            _log.error("%s", error)

    def _write_report(self, status: str) -> None:
        spec, best = self._spec, self.best
        assert spec is not None
        network = {"arch": spec.arch, "depth": spec.depth, "num_classes": spec.num_classes, "image_size": spec.image_size}
        split = None if spec.split is None else dataclasses.asdict(spec.split)
        write_json(
            self.report,
            {
                "schema": SCHEMA,
                "settings": self._config.to_json(),
                "network": network,
                "split": split,
                "epochs": [dataclasses.asdict(record) for record in self.records],
                "best": None if best is None else {"epoch": best.epoch, "val_acc1": self.accuracy(best)},
                "status": status,
                "environment": self._environment,
            },
        )


def _unusable(folder: Path, error: Exception) -> IResNetError:
    """Why a run cannot be kept in `folder`."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(f"The disk of the result path {folder} is full ({error}).", "Free some space, or name another.")
    if isinstance(error, NotImplementedError) or error.errno in (errno.ENOLCK, errno.ENOSYS):  # type: ignore[attr-defined]
        return UnavailableError(f"The file system of {folder} has no locks ({error}).", "Name another --result-path.")
    return InputError(f"The result path {folder} cannot be made or written to ({error}).", "Name another --result-path.")
