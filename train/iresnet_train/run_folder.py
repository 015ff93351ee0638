"""What a run leaves: a log, the last and the best checkpoint. A kill leaves each file as it was, or new, never half."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import asdict, dataclass, fields

from iresnet_models.checkpoint import save_checkpoint
from iresnet_models.errors import InputError
from iresnet_models.files import write_bytes
from iresnet_models.network import Network
from iresnet_train.config import TrainConfig


@dataclass(frozen=True)
class EpochRecord:
    """A line of the log. Accuracies in percent; `lr` of the last step; `seconds` with evaluation, `images_per_second` without."""

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


class RunFolder:
    """The folder of a run, and what has been logged in it."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.log = config.folder / "log.csv"
        self.last_checkpoint = config.folder / "last.pt"
        self.best_checkpoint = config.folder / "best.pt"
        self.records: list[EpochRecord] = []
        there = [path.name for path in (self.log, self.last_checkpoint, self.best_checkpoint) if path.exists()]
        if there and not config.overwrite:
            raise InputError(
                f"{config.folder} already holds a run ({', '.join(there)}). "
                "Name another --result-path, or say --force to replace it."
            )

    def create(self) -> None:
        """Makes the folder, so that a place that cannot be written to shows before an epoch of work, not after."""
        folder = self._config.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The result path {folder} cannot be made ({error}). Name another --result-path.") from error
        if not os.access(folder, os.W_OK):
            raise InputError(f"The result path {folder} may not be written to by this user. Name another --result-path.")

    @property
    def best(self) -> EpochRecord | None:
        """The epoch of the highest accuracy on the held-out images, the first of equals."""
        return max(self.records, key=lambda record: record.val_acc1, default=None)

    def save(self, model: Network, record: EpochRecord) -> None:
        """Saves the network after an epoch, and adds the epoch to the log."""
        self.records.append(record)
        details = {"epoch": record.epoch, "val_acc1": record.val_acc1, "config": self._config.to_json()}
        save_checkpoint(self.last_checkpoint, model, **details)
        if self.best is record:
            save_checkpoint(self.best_checkpoint, model, **details)
        write_bytes(self.log, _csv(self.records).encode())


def _csv(records: list[EpochRecord]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(EpochRecord)], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({key: value if isinstance(value, int) else f"{value:.6g}" for key, value in asdict(record).items()})
    return text.getvalue()
