"""Whether a folder of images is laid out as training needs it; if not, what it holds and how to come from there to that."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from pathlib import Path

from iresnet_data.named_data import is_embedded
from iresnet_data.shards import has_shards
from iresnet_models.errors import InputError
from iresnet_train.config import TrainConfig

_TRAINING = ("training", "trn")
_HELD_OUT = ("valid", "validation", "test", "testing", "dev", "eval", "holdout")
_LOOKED_AT = 10_000
"""Entries of a folder that a message is made from."""


def require_layout(config: TrainConfig) -> None:
    """InputError for a folder without train/, or without val/ where nothing else says what is held out."""
    data, folder = config.data, Path(config.data)
    if config.balanced_sampling and not is_embedded(data) and has_shards(data):
        raise InputError("Shards are read in their own order, one after another;", "say --class-weights balanced instead.")
    if is_embedded(data) or "://" in data or has_shards(data) or not folder.is_dir():
        return
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in islice(entries, _LOOKED_AT) if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"The data folder {folder} cannot be read ({error.strerror}).", "Change its permissions.") from error
    folders, files = sorted(name for name, is_folder in found if is_folder), sum(not is_folder for _, is_folder in found)
    needed = "train/ and val/, and in each of them one folder of images for every class"
    if config.val_split is not None:
        _require_classes(folder, folders)
        return
    holds = f"{folder} holds {_listed(folders, files)}; training needs {needed}"
    if "train" not in folders:
        if other := _like(folders, ("train", *_TRAINING)):
            raise InputError(f"{holds}.", f"Rename {other}/ to train/.")
        if folders:
            raise InputError(
                f"{holds}.",
                "If these are the classes, say --val-split 0.2, which holds out a fifth of each; or move them into "
                f"{folder}/train/, and some images of each into val/.",
            )
        raise InputError(f"{holds}.", "Sort the images into such folders.")
    if "val" not in folders and config.val_data is None:
        if other := _like(folders, ("val", *_HELD_OUT)):
            raise InputError(f"{holds}.", f"Rename {other}/ to val/, or name it: --val-data {shlex.quote(str(folder / other))}")
        raise InputError(
            f"{holds}, and it has none named val/.", "Move some images of each class there, or name others with --val-data."
        )


def _require_classes(folder: Path, folders: list[str]) -> None:
    """InputError for a folder that is divided already, by whatever names: its parts are not classes."""
    training, held_out = _like(folders, ("train", *_TRAINING)), _like(folders, ("val", *_HELD_OUT))
    if not {"train", "val"}.isdisjoint(folders) or (training and held_out):
        parts = " and ".join(f"{name}/" for name in (training, held_out) if name)
        raise InputError(
            f"--val-split divides a folder whose folders are the classes, and {folder} holds {parts}: it is divided already.",
            "Leave out --val-split, or name the folder of classes alone.",
        )


def _listed(folders: list[str], files: int) -> str:
    shown = ", ".join(f"{name}/" for name in folders[:5]) + (f" and {len(folders) - 5} more folders" if len(folders) > 5 else "")
    parts = [*([f"the folders {shown}"] if len(folders) > 1 else [f"the folder {shown}"] if folders else [])]
    return " and ".join([*parts, *([f"{files} files" if files != 1 else "1 file"] if files or not folders else [])])


def _like(folders: list[str], names: tuple[str, ...]) -> str | None:
    """The folder that is one of `names` but for case."""
    return next((name for wanted in names for name in folders if name.lower() == wanted), None)
