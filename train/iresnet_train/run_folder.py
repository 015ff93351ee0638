"""What a run leaves: logs, states, the last and the best checkpoint. A kill leaves each file as it was, or new, never half."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from iresnet_models.checkpoint import save_checkpoint
from iresnet_models.errors import InputError, IResNetError, PreemptedError
from iresnet_models.files import write_bytes, write_json
from iresnet_models.network import Network
from iresnet_models.spec import ModelSpec
from iresnet_train.config import TrainConfig
from iresnet_train.records import EpochRecord, Position, csv_of
from iresnet_train.state import StateFolder

if TYPE_CHECKING:
    from iresnet_train.tensorboard import Board

SCHEMA = "iresnet-export/train/1"
_EPOCH_END_AFTER = 60.0
"""Seconds after a saved state from which the end of an epoch is worth another one."""

_log = logging.getLogger("iresnet_train")


class RunFolder:
    """The folder of a run, and what has been logged in it. Only the first process writes; the others keep the records alone."""

    def __init__(self, config: TrainConfig, environment: dict[str, Any] | None, *, writes: bool) -> None:
        self._config, self._environment, self._writes = config, environment, writes
        self.log = config.folder / "log.csv"
        self.last_checkpoint = config.folder / "last.pt"
        self.best_checkpoint = config.folder / "best.pt"
        self.report = config.folder / "train.json"
        self.states = StateFolder(config.folder / "states")
        self.records: list[EpochRecord] = []
        self._spec: ModelSpec | None = None
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._error: IResNetError | None = None
        self._board: Board | None = None
        there = [path for path in (self.log, self.last_checkpoint, self.best_checkpoint, self.states.folder) if path.exists()]
        if writes and there and not config.overwrite and config.resume == "no":
            raise InputError(
                f"{config.folder} already holds a run ({', '.join(path.name for path in there)}). "
                "Name another --result-path, say --resume to go on with it, or --force to replace it."
            )

    @contextmanager
    def opened(self, spec: ModelSpec) -> Iterator[None]:
        """Makes the folder and keeps other processes out of it; at the end the report says how the run ended.

        A place that cannot be written to shows here, before an epoch of work, not after.
        """
        self._spec = spec
        if not self._writes:
            yield
            return
        with self._claimed():
            status = "failed"
            try:
                yield
                status = "done"
            except PreemptedError:
                status = "preempted"
                raise
            finally:
                self.states.close()
                if self._board is not None:
                    self._board.close()
                self._attempt(lambda: self._write_report(status))

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        from filelock import FileLock, Timeout

        folder = self._config.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The result path {folder} cannot be made ({error}). Name another --result-path.") from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"The result path {folder} may not be written to by this user. Name another --result-path.")
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"Another process is training in {folder}. Name another --result-path, or wait for its end.") from None
        with lock:
            lock.release()  # `with` has acquired it a second time
            yield

    def begin(self, position: Position, records: list[EpochRecord]) -> None:
        """A run begins, or goes on at `position` after `records`."""
        self.records = records
        if not self._writes:
            return
        if not records and not position.step:
            self.states.prune(0)
        if self._config.tensorboard:
            from iresnet_train.tensorboard import Board

            self._board = Board(self._config.folder / "tensorboard", position.epoch)
        self._write_report("running")

    @property
    def best(self) -> EpochRecord | None:
        """The epoch of the highest accuracy of what is exported on the held-out images, the first of equals."""
        return max(self.records, key=self.accuracy, default=None)

    def accuracy(self, record: EpochRecord) -> float:
        """Top-1 of what is exported, in percent."""
        average = record.ema_val_acc1
        return average if self._config.export_ema and average is not None else record.val_acc1

    def due(self, step: int, *, epoch_ends: bool) -> bool:
        """Whether a state is to be saved after `step` steps of the run."""
        steps, seconds = self._config.save_every
        passed = time.monotonic() - self._saved_at
        if epoch_ends and passed >= _EPOCH_END_AFTER:
            return True
        return step - self._saved_step >= steps if steps is not None else passed >= (seconds or 0)

    def save_state(self, step: int, position: Position, state: dict[str, Any]) -> None:
        """Saves what the run needs to go on after `step` steps. A failure is logged, and `states.error`."""
        self._saved_at, self._saved_step = time.monotonic(), step
        if self._writes:
            known = {"config": self._config.to_json(), "records": [dataclasses.asdict(record) for record in self.records]}
            self.states.save(step, known | {"position": position.to_json()} | state)

    def save_epoch(self, network: Network, record: EpochRecord) -> None:
        """Saves the network after an epoch, and adds the epoch to the logs. What a full disk keeps from being saved is logged."""
        self.records.append(record)
        if not self._writes:
            return
        details = {"epoch": record.epoch, "val_acc1": self.accuracy(record), "config": self._config.to_json()}
        self._error = None
        if self.best is record:
            self._attempt(lambda: save_checkpoint(self.best_checkpoint, network, **details))
        self._attempt(lambda: save_checkpoint(self.last_checkpoint, network, **details))
        self._attempt(lambda: write_bytes(self.log, csv_of(self.records).encode()))
        self._attempt(lambda: self._write_report("running"))
        if self._board is not None:
            self._board.add(record)

    def finish(self) -> None:
        """Raises what kept the last state or checkpoint from being written."""
        self.states.wait()
        if (error := self.states.error or self._error) is not None:
            raise error

    def _attempt(self, write: Any) -> None:
        try:
            write()
        except IResNetError as error:
            self._error = error
            _log.error("%s", error)

    def _write_report(self, status: str) -> None:
        spec, best = self._spec, self.best
        assert spec is not None
        network = {"arch": spec.arch, "depth": spec.depth, "num_classes": spec.num_classes, "image_size": spec.image_size}
        write_json(
            self.report,
            {
                "schema": SCHEMA,
                "settings": self._config.to_json(),
                "network": network,
                "epochs": [dataclasses.asdict(record) for record in self.records],
                "best": None if best is None else {"epoch": best.epoch, "val_acc1": self.accuracy(best)},
                "status": status,
                "environment": self._environment,
            },
        )
