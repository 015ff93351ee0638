"""What is known of a run so far: where it is, and what each epoch gave."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from iresnet_train.metrics import NOTHING, Evaluation


@dataclass(frozen=True)
class EpochRecord:
    """A line of the log. Accuracies in percent; `lr` of the last step; `seconds` with evaluation, `images_per_second` without.

    `data_wait_share`: of the time of training, that spent waiting for images. `ema_...`: of the average of the weights.
    """

    epoch: int
    train_loss: float
    train_acc1: float
    train_acc5: float
    val_loss: float
    val_acc1: float
    val_acc5: float
    lr: float
    seconds: float
    images_per_second: float
    data_wait_share: float | None = None
    ema_val_acc1: float | None = None
    ema_val_acc5: float | None = None


@dataclass
class Position:
    """How far a run is: `step` steps into `epoch` (both from 0), where so much was counted, in so many seconds."""

    epoch: int = 0
    step: int = 0
    counted: Evaluation = NOTHING
    seconds: float = 0.0
    data_seconds: float = 0.0
    skipped: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Position:
        return cls(**(values | {"counted": Evaluation(**values["counted"])}))


@dataclass(frozen=True)
class Progress:
    """Where a run is, after one of its steps; `epoch` and `step` (of the epoch) count from 1.

    `loss` is the batch's; `val_acc1`, in percent, is that of the epoch before. `eta_seconds`: what is left of the run, at the
    speed of this epoch. `gpu_memory_gb`: the most that was taken (10⁹ bytes).
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    images_per_second: float
    val_acc1: float | None
    eta_seconds: float = 0.0
    data_wait_share: float = 0.0
    gpu_memory_gb: float | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What a run left, and how good it became: `val_acc1`, in percent, is that of `best`."""

    best: Path
    last: Path
    log: Path
    report: Path
    val_acc1: float
    best_epoch: int
    epochs: int
    seconds: float
    images_per_second: float


def csv_of(records: list[EpochRecord]) -> str:
    """A line for each epoch; what was not measured is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(EpochRecord)], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in asdict(record).items()})
    return text.getvalue()
