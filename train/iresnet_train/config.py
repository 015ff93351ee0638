"""What a training run is, as data: one frozen dataclass. Needs no torch."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from iresnet_data.named_data import is_embedded, short_name
from iresnet_models.errors import InputError
from iresnet_models.spec import ModelSpec, Which
from iresnet_models.typed import first_fault

Schedule = Literal["steps", "cosine"]
Augmentation = Literal["crop-flip", "trivial", "affine"]
Device = Literal["auto", "cpu", "cuda"]
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]
Resume = Literal["no", "yes", "auto"]
OnNan = Literal["stop", "skip"]
LoaderName = Literal["torch", "dali"]
Optimizer = Literal["sgd", "adamw"]
LogName = Literal["tensorboard", "mlflow", "wandb"]
FrozenPart = Literal["none", "stem", "layer1", "layer2", "layer3", "layer4"]
ClassWeights = Literal["none", "balanced"]

_MAY_DIFFER = {
    "epochs",  # asked apart: more of them go on with the same run
    *("data", "val_data", "result_path", "overwrite", "resume", "workers", "device"),
    *("loader", "max_corrupt", "on_nan", "checkpoint_every", "log"),
}
"""What may be another on resumption: it says where and how a run is computed, not what. Data may have moved."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that a training run depends on. Raises InputError for values that make no sense.

    The defaults are the official recipe for ImageNet. Data: "digits", "synthetic", a folder, or shards; classes follow from them.
    Lengths are in epochs, sizes in pixels, `batch_size` is that of one step over all processes. Where a field is None, the
    attribute's comment says what follows.
    """

    data: str
    val_data: str | None = None  # None: the held-out part of `data`
    val_split: float | None = None  # what is held out of each class, where `data` is a folder without train/ and val/

    arch: str = "iresnet"
    depth: int = 50
    groups: int | None = None  # None: the family's own
    dropout: float = 0.0
    zero_init_residual: bool = False
    pretrained: Path | None = None  # a checkpoint whose weights to start from
    which: Which | None = None  # of its weights: None for their average where there is one
    freeze_until: FrozenPart = "none"  # the parts that keep their weights and statistics: from the stem to this one
    freeze_bn: bool = False  # all BatchNorms keep the statistics of `pretrained`

    result_path: Path | None = None  # None: runs/<arch><depth>
    overwrite: bool = False  # replace a run that is there
    resume: Resume = "no"  # "auto": go on where there is a saved state, else begin
    checkpoint_every: str = "10m"  # steps ("500") or minutes ("10m")
    log: tuple[LogName, ...] = ()  # where each epoch goes beside log.csv

    epochs: int = 90
    patience: int | None = None  # epochs without a better accuracy on the held-out images after which a run ends
    batch_size: int = 256
    accumulate: int = 1  # parts in which each process takes its images of a step, one after another
    optimizer: Optimizer = "sgd"
    lr: float = 0.1  # for the whole batch, however large
    layer_decay: float = 1.0  # by this factor the rate falls from the head to layer4, from there to layer3, and so on to the stem
    lr_schedule: Schedule = "steps"
    lr_steps: tuple[int, ...] = (30, 60, 80)  # after these epochs the rate falls
    lr_reduce_factor: float = 0.1  # to this share
    warmup_epochs: int = 0  # over which the rate rises linearly, step by step
    momentum: float = 0.9  # of AdamW: its first beta; the second is 0.999
    nesterov: bool = False
    weight_decay: float = 1e-4
    norm_weight_decay: float | None = None  # of BatchNorms; None: as of all weights
    clip_norm: float | None = None  # largest norm of the gradient of all weights

    class_weights: ClassWeights = "none"  # of each image's loss; balanced: the rarer its class, the more
    balanced_sampling: bool = False  # an epoch takes each class equally often
    augmentation: Augmentation = "crop-flip"
    random_erasing: float = 0.0  # probability
    mixup: float = 0.0  # alpha of its Beta distribution; 0: off. With both on, each batch takes one of them
    cutmix: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float | None = None  # of the average of the weights, per update of it
    ema_every: int = 1  # steps between its updates
    export_ema: bool = False  # best.pt and last.pt hold the average

    train_crop_size: int = 224
    val_resize: int = 256
    val_crop_size: int = 224

    precision: TrainingPrecision = "auto"  # auto: bf16 on GPUs that have it, else fp32
    channels_last: bool | None = None  # None: on GPUs, and on CPUs from 112 pixels
    compile: bool = False
    sync_bn: bool = False
    activation_checkpointing: bool = False
    deterministic: bool = False

    seed: int = 0
    workers: int | None = None  # of each process; None: its share of the processors, up to eight
    loader: LoaderName = "torch"  # what decodes and crops training images
    device: Device = "auto"
    max_corrupt: int = 0  # images that may be unreadable
    on_nan: OnNan = "stop"

    def __post_init__(self) -> None:
        ModelSpec(self.arch, self.depth, **self.model_fields())  # refuses a network that there is not
        for name, kind in get_type_hints(TrainConfig).items():
            choices = get_args(kind)
            if choices and all(isinstance(choice, str) for choice in choices) and getattr(self, name) not in choices:
                raise InputError(f"{name} is one of {', '.join(choices)}, not {getattr(self, name)!r}.")
        if (unknown := next((name for name in self.log if name not in get_args(LogName)), None)) is not None:
            raise InputError(f"log is one of {', '.join(get_args(LogName))}, not {unknown!r}.")
        if len(set(self.log)) < len(self.log):
            raise InputError(f"log names {', '.join(self.log)};", "name each of them once.")
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            _require(value is None or least <= value <= most, name, f"at least {least} and at most {most:,}", value)
        for name in ("lr", "clip_norm"):
            value = getattr(self, name)
            _require(value is None or 0 < value <= _LARGEST, name, f"a positive number up to {_LARGEST:g}", value)
        for name in ("lr_reduce_factor", "layer_decay"):
            _require(0 < getattr(self, name) <= 1, name, "above 0 and at most 1", getattr(self, name))
        _require(self.val_split is None or 0 < self.val_split < 1, "val_split", "above 0 and below 1", self.val_split)
        for name in ("weight_decay", "norm_weight_decay"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1000, name, "a number that is not negative, up to 1000", value)
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            _require(value == 0 or 0.001 <= value <= 1000, name, "0, or at least 0.001 and at most 1000", value)
        for name in ("momentum", "label_smoothing", "random_erasing", "ema_decay"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, name, "at least 0 and below 1", value)
        steps = self.lr_steps
        _require(len(steps) <= _MOST_LR_STEPS, "lr_steps", f"at most {_MOST_LR_STEPS} epochs", len(steps))
        _require(list(steps) == sorted(set(steps)) and min(steps, default=1) > 0, "lr_steps", "epochs in rising order", steps)
        _interval(self.checkpoint_every)
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        if self.nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0;", "give one, or leave nesterov out.")
        if self.lr_schedule != "steps" and self.lr_steps:
            raise InputError(f"lr_steps belong to the schedule 'steps', and not to {self.lr_schedule!r};", "leave one of them out.")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise InputError(f"A warm-up of {self.warmup_epochs} epochs leaves nothing of {self.epochs};", "make it shorter.")
        if self.pretrained is not None and self.zero_init_residual:
            raise InputError("zero_init_residual sets initial weights, but pretrained brings its own;", "leave one of them out.")
        if self.which is not None and self.pretrained is None:
            raise InputError("which says which weights of pretrained to start from, and none is given;", "leave it out.")
        self._refuse_contradictions_of_tuning()
        if self.export_ema and self.ema_decay is None:
            raise InputError("export_ema exports the average of the weights, but none is kept;", "give ema_decay too.")
        if self.compile and self.activation_checkpointing:
            raise InputError("compile plans by itself what to compute again;", "leave out activation_checkpointing, or compile.")
        if self.val_data is None and (self.data.endswith(".tar") or self.data.startswith("pipe:")):
            raise InputError(f"{self.data} names the shards of the training part alone;", "name those held out with --val-data.")
        if self.loader == "dali" and self.needs_no_files:
            raise InputError(f"DALI decodes files, and the images of {self.data} are none;", "leave out --loader dali.")
        if self.loader == "dali" and (self.augmentation != "crop-flip" or self.random_erasing):
            raise InputError(
                "DALI crops and flips, and no more: it goes with the augmentation crop-flip and without random erasing, not with "
                f"{self.augmentation} and {self.random_erasing:g}.",
                "Leave out --loader dali, or say --augmentation crop-flip --random-erasing 0.",
            )
        if self.overwrite and self.resume != "no":
            raise InputError("A run is either resumed or replaced;", "leave out --force, or --resume and --auto-resume.")
        if self.batch_size < 2 * self.accumulate:
            raise InputError(
                f"{self.accumulate} parts of {self.batch_size} images have fewer than the two that BatchNorm needs;",
                "use a larger batch_size, or a smaller accumulate.",
            )

    def _refuse_contradictions_of_tuning(self) -> None:
        if self.pretrained is None and (self.freeze_until != "none" or self.freeze_bn):
            name = "freeze_bn" if self.freeze_until == "none" else "freeze_until"
            raise InputError(
                f"{name} keeps what pretrained brings, and nothing says which weights these are:",
                f"name a checkpoint with --pretrained, or leave out --{name.replace('_', '-')}.",
            )
        if self.optimizer == "adamw" and self.nesterov:
            raise InputError("nesterov is a kind of SGD;", "leave it out, or say --optimizer sgd.")
        if self.class_weights == "balanced" and self.balanced_sampling:
            raise InputError(
                "class_weights and balanced_sampling both make up for rare classes, and together they do so twice;",
                "leave one of them out.",
            )
        if self.val_split is not None and self.val_data is not None:
            raise InputError("val_data names the held-out images, and val_split would hold out others;", "leave one of them out.")
        if self.val_split is not None and self.needs_no_files:
            raise InputError(f"The held-out images of {self.data} are known;", "leave out --val-split.")

    @property
    def folder(self) -> Path:
        """Where the run's logs, states and checkpoints go."""
        return Path("runs") / f"{self.arch}{self.depth}" if self.result_path is None else self.result_path

    @property
    def needs_no_files(self) -> bool:
        """Whether the data are embedded, so that their name is all of them."""
        return is_embedded(self.data)

    @property
    def save_every(self) -> tuple[int | None, float | None]:
        """Steps, or seconds, between saved states; the other is None."""
        return _interval(self.checkpoint_every)

    def model_fields(self) -> dict[str, Any]:
        """The fields of a ModelSpec that are this configuration's to say."""
        return {"groups": self.groups, "dropout": self.dropout, "image_size": self.val_crop_size, "resize": self.val_resize}

    def recipe(self) -> dict[str, Any]:
        """The fields that make this run another one than others on the same data."""
        return {name: value for name, value in vars(self).items() if name not in _MAY_DIFFER}

    def learning_rate(self, epoch: float) -> float:
        """The learning rate after `epoch` epochs; a fraction lies within the next one.

        The steps take effect *after* as many epochs as they say.
        """
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        if self.lr_schedule == "steps":
            return self.lr * self.lr_reduce_factor ** sum(step <= epoch for step in self.lr_steps)
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.lr * (1 + math.cos(math.pi * done)) / 2

    def to_json(self) -> dict[str, Any]:
        """Plain values, for checkpoints and reports; of paths only the last part."""
        values = {key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()}
        values["data"] = short_name(self.data)
        values["val_data"] = None if self.val_data is None else short_name(self.val_data)
        values["result_path"] = self.folder.name
        values["pretrained"] = None if self.pretrained is None else self.pretrained.name
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any], **said: Any) -> TrainConfig:
        """The configuration whose `to_json` was `values`, with whatever was `said` since in place of its values.

        Where data and results are is not in `values`, apart from embedded data: it has to be said. Raises InputError for
        anything else than what `to_json` makes.
        """
        from pydantic import TypeAdapter, ValidationError

        kinds = get_type_hints(cls)
        if not values.keys() <= kinds.keys():
            raise InputError(f"These are no settings that this version knows: {', '.join(map(str, values.keys() - kinds.keys()))}.")
        read = dict(values) | {"overwrite": False, "val_data": None, "result_path": None}
        for name in ("lr_steps", "log"):
            if isinstance(read.get(name), list):
                read[name] = tuple(read[name])
        if isinstance(read.get("pretrained"), str):
            read["pretrained"] = Path(read["pretrained"])
        read |= said
        try:
            return cls(**{name: TypeAdapter(kinds[name]).validate_python(value, strict=True) for name, value in read.items()})
        except ValidationError as error:
            raise InputError(f"These settings are damaged ({first_fault(error)}).") from error
        except TypeError as error:  # one is missing
            raise InputError(f"These settings are damaged ({error}).") from error

    def differences(self, earlier: dict[str, Any]) -> list[str]:
        """What makes this another run than the one whose `to_json` was `earlier`, such as "lr 0.2 (was 0.1)"."""
        own = self.to_json()
        return [
            f"{name} {own.get(name)} (was {earlier.get(name)})"
            for name in sorted(own.keys() | earlier.keys())
            if name not in _MAY_DIFFER and own.get(name) != earlier.get(name)
        ]


_BOUNDS = {
    "epochs": (1, 100_000),
    "patience": (1, 100_000),
    "batch_size": (2, 1 << 20),
    "accumulate": (1, 1 << 19),
    "train_crop_size": (1, 8192),
    "val_resize": (1, 8192),
    "val_crop_size": (1, 8192),
    "ema_every": (1, 1_000_000),
    "warmup_epochs": (0, 100_000),
    "seed": (0, 2**63 - 1),  # what PyTorch's generators take
    "workers": (0, 1024),
    "max_corrupt": (0, 1_000_000_000),
}
_LARGEST = 1e38
"""Near the end of float32."""

_MOST_LR_STEPS = 1000


def _require(holds: bool, name: str, wanted: str, found: object) -> None:
    if not holds:
        raise InputError(f"{name} has to be {wanted}, not {found}.")


def _interval(text: str) -> tuple[int | None, float | None]:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(m?)", text)
    if match is None or float(match[1]) <= 0 or (not match[2] and "." in match[1]):
        raise InputError(f"checkpoint_every takes steps, such as 500, or minutes, such as 10m; not {text!r:.50}.")
    return (None, 60 * float(match[1])) if match[2] else (int(match[1]), None)
