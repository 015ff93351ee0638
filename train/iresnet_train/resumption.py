"""Going on with a run that was saved: its own settings, and whether what is asked for is the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from iresnet_data.named_data import is_embedded
from iresnet_models.errors import InputError
from iresnet_models.remembered import recall, remember
from iresnet_models.spec import ModelSpec
from iresnet_train.config import TrainConfig
from iresnet_train.initial import INHERITED
from iresnet_train.saved import SavedState, checked
from iresnet_train.state import StateFolder

_log = logging.getLogger("iresnet_train")


def config_of_run(folder: Path, **said: Any) -> TrainConfig | None:
    """The settings of the run in `folder`, to go on with it, with whatever of `said` is not None in place of them.

    None where no state is saved. Embedded data are known to the state; the place of others is not, but this machine may remember
    it, in the user's own state folder. Else it has to be said: InputError.
    """
    saved = StateFolder(folder / "states").newest(checked, tell=False)
    if saved is None:
        return None
    values = {name: value for name, value in said.items() if value is not None} | {"result_path": folder, "resume": "yes"}
    remembered = {} if saved.config.needs_no_files or "data" in values else _recalled(folder)
    values = remembered | values
    if "data" not in values and not saved.config.needs_no_files:
        raise InputError(
            f"The run in {folder} was trained on images in {saved.config.data}, and a run does not keep where they are.",
            "Name them with --data.",
        )
    if values.get("ema_decay") == 0:
        values["ema_decay"] = None
    return TrainConfig.from_json(saved.settings, **values)


def remember_data(config: TrainConfig) -> None:
    """Notes on this machine, and in no file of the run, where its images are."""
    for name in ("data", "val_data"):
        data = getattr(config, name)
        if data is not None and not is_embedded(data):
            # What fetches or runs something is said anew each time.
            local = not data.startswith("pipe:") and "://" not in data
            remember(f"run_{name}", _key(config.folder), os.path.abspath(data) if local else "")


def _recalled(folder: Path) -> dict[str, str]:
    found = {name: recall(f"run_{name}", _key(folder)) for name in ("data", "val_data")}
    return {name: value for name, value in found.items() if value}


def _key(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()


def require_same_run(config: TrainConfig, saved: SavedState, *, first: bool) -> None:
    """InputError where `config` is of another run than the one that was saved; more epochs, or fewer, are the same run."""
    if differences := config.differences(saved.settings):
        raise InputError(
            f"{config.folder} holds a run of other settings: {'; '.join(differences)}.",
            "Resume it with its own (--resume alone "
            "knows them), or begin another one in another --result-path (with --pretrained from its weights).",
        )
    if config.epochs < saved.epochs_begun:
        raise InputError(
            f"{config.folder} holds a run of which {saved.epochs_begun} epochs are done or begun: it cannot end after "
            f"{config.epochs}.",
            f"Give more --epochs, or none, which leaves it at {saved.config.epochs}.",
        )
    if config.epochs != saved.config.epochs and config.lr_schedule != "steps" and first:
        at = saved.position.epoch
        _log.warning(
            "The %s schedule now spans %d epochs in place of %d: the learning rate goes on at %.3g, where it would have been %.3g.",
            config.lr_schedule,
            config.epochs,
            saved.config.epochs,
            config.learning_rate(at),
            saved.config.learning_rate(at),
        )


def spec_of(saved: SavedState, spec: ModelSpec, config: TrainConfig) -> ModelSpec:
    """`spec`, which follows from the data, as that of the saved network; InputError where their classes differ."""
    own = saved.spec
    if (spec.num_classes, spec.labels) != (own.num_classes, own.labels):
        found = "of other names" if spec.num_classes == own.num_classes else f"{spec.num_classes}, and not {own.num_classes}"
        raise InputError(
            f"The classes of {config.data} are {found}: {config.folder} holds a run on other data.",
            "Name those that it was begun with, or begin another run in another --result-path.",
        )
    if spec.split != own.split:
        raise InputError(
            f"{config.data} does not hold the photos that the run in {config.folder} was begun with, or not them alone: its "
            "split is another.",
            "Name the folder as it was, or begin another run in another --result-path.",
        )
    return dataclasses.replace(spec, **{name: getattr(own, name) for name in INHERITED})
