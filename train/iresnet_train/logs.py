"""A run's epochs for TensorBoard, MLflow and Weights & Biases (extras of these names)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from iresnet_models.errors import InputError, UnavailableError, named_line
from iresnet_models.files import read_json, write_json
from iresnet_train.config import TrainConfig
from iresnet_train.records import EpochRecord

_log = logging.getLogger("iresnet_train")


class RunLog(Protocol):
    """One log. Made with the run's configuration, how many epochs are in it, and the `id` that it had before, if it goes on.

    Whatever fails may raise any error.
    """

    id: str | None

    def __init__(self, config: TrainConfig, epochs: int, known: str | None) -> None: ...

    def epoch(self, number: int, values: dict[str, float]) -> None: ...

    def end(self, status: str) -> None:
        """`status`: "done", "preempted" or "failed"."""


class TensorBoard:
    """Curves in the run's folder; on resumption those after `epochs` are dropped."""

    id: str | None = None

    def __init__(self, config: TrainConfig, epochs: int, known: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(config.folder / "tensorboard"), purge_step=epochs + 1)

    def epoch(self, number: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def end(self, status: str) -> None:
        self._writer.close()


class MLflow:
    """A run where MLflow's own settings say (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME)."""

    def __init__(self, config: TrainConfig, epochs: int, known: str | None) -> None:
        import mlflow

        self._mlflow = mlflow
        self.id: str | None = mlflow.start_run(run_id=known, run_name=config.folder.name).info.run_id
        if known is None:
            mlflow.log_params(config.to_json())

    def epoch(self, number: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=number)

    def end(self, status: str) -> None:
        self._mlflow.end_run({"done": "FINISHED", "preempted": "KILLED", "failed": "FAILED"}[status])


class WandB:
    """A run where W&B's own settings say (WANDB_PROJECT, WANDB_MODE); its files are in the run's folder."""

    def __init__(self, config: TrainConfig, epochs: int, known: str | None) -> None:
        import wandb

        self._run = wandb.init(
            dir=str(config.folder),
            id=known,
            resume=None if known is None else "allow",
            name=config.folder.name,
            config=config.to_json(),
            settings=wandb.Settings(console="off"),
        )
        self.id: str | None = self._run.id

    def epoch(self, number: int, values: dict[str, float]) -> None:
        self._run.log(values, step=number)

    def end(self, status: str) -> None:
        self._run.finish(exit_code=int(status == "failed"))


_LOGS: dict[str, type[RunLog]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


class Logs:
    """All that a run was told to keep. One that fails is told once and left; training goes on."""

    def __init__(self, config: TrainConfig, epochs: int, *, resumed: bool) -> None:
        self._logs: dict[str, RunLog] = {}
        place = config.folder / "logs.json"
        known = _known(place) if resumed else {}
        for name in config.log:
            self._attempt(name, partial(self._open, name, config, epochs, known.get(name)))
        ids = known | {name: log.id for name, log in self._logs.items() if log.id is not None}
        if ids or place.exists():
            self._attempt(place.name, partial(write_json, place, ids))

    def add(self, record: EpochRecord) -> None:
        values = {name: value for name, value in asdict(record).items() if name != "epoch" and value is not None}
        for name, log in list(self._logs.items()):
            self._attempt(name, partial(log.epoch, record.epoch, values))

    def end(self, status: str) -> None:
        for name, log in list(self._logs.items()):
            self._attempt(name, partial(log.end, status))

    def _open(self, name: str, config: TrainConfig, epochs: int, known: str | None) -> None:
        self._logs[name] = _LOGS[name](config, epochs, known)

    def _attempt(self, name: str, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:
            if (log := self._logs.pop(name, None)) is not None:
                with suppress(Exception):  # what cannot be told cannot be ended either, as a rule
                    log.end("failed")
            _log.warning("The log of %s failed (%.300s) and is left; training goes on.", name, named_line(error))


def require_packages(config: TrainConfig) -> None:
    """UnavailableError where the package of a log is missing."""
    for name in config.log:
        found = find_spec(name)
        # A folder of that name, such as W&B leaves where it ran, has no loader.
        if found is None or (found.loader is None and found.submodule_search_locations is not None):
            raise UnavailableError(
                f"--log {name} needs the package {name}, which is not installed here.", f"Run: pip install 'iresnet-export[{name}]'"
            )


def _known(place: Path) -> dict[str, Any]:
    """The run's ids in its logs, as far as the file that keeps them says any."""
    try:
        found = read_json(place, "The list of a run's logs") if place.exists() else {}
    except InputError as error:
        _log.warning("%s", error)
        return {}
    items = found.items() if isinstance(found, dict) else ()
    return {name: text for name, text in items if name in _LOGS and isinstance(text, str) and re.fullmatch(r"[\w-]{1,64}", text)}
