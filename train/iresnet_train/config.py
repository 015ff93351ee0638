"""What a training run is, as data: a frozen dataclass, and the presets as values of it. Needs no torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from iresnet_models.errors import InputError
from iresnet_models.spec import ModelSpec

Schedule = Literal["steps", "cosine"]
Augmentation = Literal["crop-flip", "affine"]
Device = Literal["auto", "cpu", "cuda"]

LR_STEP_FACTOR = 0.1
"""What each of `lr_steps` multiplies the learning rate by."""


def _require(holds: bool, name: str, wanted: str, found: object) -> None:
    if not holds:
        raise InputError(f"{name} has to be {wanted}, not {found}.")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on. Raises InputError for values that make no sense.

    The defaults are the official recipe for ImageNet (`OFFICIAL`). `data`: "digits" or a folder; classes follow from
    it. `groups`: None for the family's own. `pretrained`: a checkpoint to start from. `result_path`: None for
    runs/<arch><depth>. `overwrite`: replace a run that is there. `lr`: for the whole batch, however large.
    `lr_steps`: epochs after which the rate of the schedule "steps" falls tenfold. `warmup_epochs`: over which the rate
    rises linearly, step by step. `train_crop_size`, `val_resize`, `val_crop_size`: in pixels. `workers`: processes
    that load images; None for one a processor, up to eight.
    """

    data: str
    arch: str = "iresnet"
    depth: int = 50
    groups: int | None = None
    dropout: float = 0.0
    zero_init_residual: bool = False
    pretrained: Path | None = None
    result_path: Path | None = None
    overwrite: bool = False
    epochs: int = 90
    batch_size: int = 256
    lr: float = 0.1
    lr_schedule: Schedule = "steps"
    lr_steps: tuple[int, ...] = (30, 60, 80)
    warmup_epochs: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    augmentation: Augmentation = "crop-flip"
    train_crop_size: int = 224
    val_resize: int = 256
    val_crop_size: int = 224
    seed: int = 0
    workers: int | None = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        ModelSpec(self.arch, self.depth, **self.model_fields())  # refuses a network that there is not
        for name, value in (("lr_schedule", Schedule), ("augmentation", Augmentation), ("device", Device)):
            if getattr(self, name) not in get_args(value):
                raise InputError(f"{name} is one of {', '.join(get_args(value))}, not {getattr(self, name)!r}.")
        for name, least in (("epochs", 1), ("batch_size", 2), ("train_crop_size", 1), ("warmup_epochs", 0), ("seed", 0)):
            _require(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))
        _require(self.workers is None or self.workers >= 0, "workers", "at least 0", self.workers)
        _require(0 < self.lr < math.inf, "lr", "a positive number", self.lr)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "a number that is not negative", self.weight_decay)
        _require(0 <= self.momentum < 1, "momentum", "at least 0 and below 1", self.momentum)
        steps = self.lr_steps
        _require(list(steps) == sorted(set(steps)) and min(steps, default=1) > 0, "lr_steps", "epochs in rising order", steps)
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0; give one, or leave nesterov out.")
        if self.lr_schedule != "steps" and self.lr_steps:
            raise InputError(f"lr_steps belong to the schedule 'steps', and not to {self.lr_schedule!r}; leave one of them out.")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise InputError(f"A warm-up of {self.warmup_epochs} epochs leaves nothing of {self.epochs}; make it shorter.")
        if self.pretrained is not None and self.zero_init_residual:
            raise InputError("zero_init_residual sets initial weights, but pretrained brings its own; leave one of them out.")

    @property
    def folder(self) -> Path:
        """Where the run's log and checkpoints go."""
        return Path("runs") / f"{self.arch}{self.depth}" if self.result_path is None else self.result_path

    def model_fields(self) -> dict[str, Any]:
        """The fields of a ModelSpec that are this configuration's to say."""
        return {"groups": self.groups, "dropout": self.dropout, "image_size": self.val_crop_size, "resize": self.val_resize}

    def learning_rate(self, epoch: float) -> float:
        """The learning rate after `epoch` epochs; a fraction lies within the next one.

        The steps take effect *after* as many epochs as they say.
        """
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        if self.lr_schedule == "steps":
            return self.lr * LR_STEP_FACTOR ** sum(step <= epoch for step in self.lr_steps)
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    def to_json(self) -> dict[str, Any]:
        """Plain values, for checkpoints and reports; of paths only the last part."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}
        values["data"] = self.data if self.data == DIGITS.data else Path(self.data).resolve().name
        values["result_path"] = self.folder.name
        values["pretrained"] = None if self.pretrained is None else self.pretrained.name
        return values


OFFICIAL = TrainConfig(data="imagenet")
"""The paper's recipe (arXiv 2004.04989, section 4), for image folders."""

DIGITS = TrainConfig(
    data="digits",
    depth=18,
    epochs=6,
    batch_size=32,
    lr=0.02,
    lr_schedule="cosine",
    lr_steps=(),
    weight_decay=5e-4,
    augmentation="affine",
    train_crop_size=32,
    val_resize=32,
    val_crop_size=32,
    workers=0,
)
"""A short recipe for the embedded digits."""

PRESETS = {"official": OFFICIAL, "digits": DIGITS}


def config_for(data: str, preset: str | None = None, **overrides: Any) -> TrainConfig:
    """The preset that suits `data`, or the one named, with whatever of `overrides` is not None in place of its values.

    Steps imply the schedule "steps", and another schedule drops the preset's steps.
    """
    name = preset or ("digits" if data == DIGITS.data else "official")
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; there are: {', '.join(PRESETS)}.")
    said = {key: value for key, value in overrides.items() if value is not None}
    if said.get("lr_steps"):
        said.setdefault("lr_schedule", "steps")
    elif said.get("lr_schedule", "steps") != "steps":
        said.setdefault("lr_steps", ())
    return dataclasses.replace(PRESETS[name], data=data, **said)
