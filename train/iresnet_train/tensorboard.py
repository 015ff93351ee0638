"""The epochs of a run for TensorBoard (extra `tensorboard`)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from iresnet_models.errors import UnavailableError
from iresnet_train.records import EpochRecord


class Board:
    """Every figure of the log as a curve over the epochs; on resumption those after `epochs` are dropped."""

    def __init__(self, folder: Path, epochs: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UnavailableError(
                "--tensorboard needs the package tensorboard, which is not installed here.",
                "Run: pip install 'iresnet-export[tensorboard]'",
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=epochs + 1)

    def add(self, record: EpochRecord) -> None:
        values = asdict(record)
        epoch = values.pop("epoch")
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
