"""What a run says of itself: how it begins, what each epoch gave, and how to go on with it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from iresnet_models.network import Network
from iresnet_train.config import TrainConfig
from iresnet_train.records import EpochRecord


def beginning(network: Network, config: TrainConfig, sets: Sequence[Any], device: str, precision: str) -> str:
    """One line of network, images, device and precision; then what `sets`, the training and the held-out part, left out and why."""
    spec = network.spec
    weights = sum(value.numel() for value in network.parameters())
    trained = sum(value.numel() for value in network.parameters() if value.requires_grad)
    share = f"{trained / 1e6:.1f} million" if trained >= 1e5 else f"{trained:,}"
    frozen = f", of which {share} are trained" if trained < weights else ""
    training, held_out = map(len, sets)
    source = config.data if config.needs_no_files else Path(config.data).name or config.data
    remarks = [f"{remark.rstrip('.')}." for remark in dict.fromkeys(getattr(data, "left_out", None) for data in sets) if remark]
    line = (
        f"Training {spec.name} ({weights / 1e6:.1f} million weights{frozen}) on {training:,} images of "
        f"{spec.num_classes:,} classes from {source}, with {held_out:,} held out; "
        f"{config.batch_size} images a step, {device}, {precision}."
    )
    return " ".join([line, *remarks])


def epoch_line(records: Sequence[EpochRecord], accuracy: Any, best: EpochRecord, epochs: int, memory: float | None) -> str:
    """What the last of `records` gave; `accuracy` is the top-1 of a record's exported network."""
    record = records[-1]
    left = (epochs - record.epoch) * sum(item.seconds for item in records) / len(records)
    parts = [
        f"loss {record.train_loss:.3f}",
        f"held-out {accuracy(record):.1f} % (best {accuracy(best):.1f} %, epoch {best.epoch})",
        f"lr {record.lr:.3g}",
        f"{record.images_per_second:.0f} images/s",
        *([] if record.data_wait_share is None else [f"{record.data_wait_share:.0%} waiting for data"]),
        *([] if memory is None else [f"GPU {memory:.1f} GB"]),
        f"{timedelta(seconds=round(left))} left",
    ]
    return f"Epoch {record.epoch}/{epochs}: {', '.join(parts)}"


def going_on(config: TrainConfig) -> str:
    """The command that goes on with the run: its own settings are in its state, but not where its images are."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "the same torchrun command and --resume"
    words = ["iresnet-export", "train", "--resume", "--result-path", str(config.folder)]
    if not config.needs_no_files:
        words += ["--data", config.data]
    if config.val_data is not None:
        words += ["--val-data", config.val_data]
    return shlex.join(words)
