"""The training loop, from a configuration to checkpoints."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iresnet_models.errors import CheckFailedError, InputError, UnavailableError
from iresnet_models.spec import ModelSpec
from iresnet_train.augmentation import augmented
from iresnet_train.config import TrainConfig
from iresnet_train.data import evaluation_set, spec_for, training_set
from iresnet_train.learner import Learner
from iresnet_train.loader import Loader
from iresnet_train.metrics import NOTHING, Evaluation, evaluate
from iresnet_train.run_folder import EpochRecord, RunFolder

_MOST_WORKERS = 8


@dataclass(frozen=True)
class Progress:
    """Where a run is, after one of its steps; `epoch` and `step` (of the epoch) count from 1.

    `loss` is the batch's; `val_acc1`, in percent, is that of the epoch before.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    images_per_second: float
    val_acc1: float | None


@dataclass(frozen=True)
class TrainingResult:
    """What a run left, and how good it became: `val_acc1`, in percent, is that of `best`."""

    best: Path
    last: Path
    log: Path
    val_acc1: float
    best_epoch: int
    epochs: int
    seconds: float
    images_per_second: float


def train(config: TrainConfig, progress: Callable[[Progress], None] | None = None) -> TrainingResult:
    """Trains a network as `config` says, and calls `progress` after every step.

    Leaves log.csv (a line an epoch), last.pt and best.pt (of the highest accuracy on the held-out images) in
    `config.folder`. On a CPU, a seed gives the same weights bit by bit. Raises CheckFailedError before a loss that
    is not finite reaches the weights.
    """
    started = time.perf_counter()
    run = RunFolder(config)
    device = _device(config)
    torch.manual_seed(config.seed)
    learner = Learner(config, spec_for(config.data, config.arch, config.depth, **config.model_fields()), device)
    training, held_out = _loaders(config, learner.spec, device)
    steps = len(training)
    run.create()

    for epoch in range(config.epochs):
        epoch_started = time.perf_counter()
        trained = NOTHING
        for step, (images, labels) in enumerate(training):
            lr = config.learning_rate(epoch + (step + 0.5) / steps)
            loss, counted = learner.backward(images, labels)
            _require_finite(loss, run, f"at step {step + 1} of {steps} of epoch {epoch + 1}", lr)
            learner.update(lr)
            trained += counted
            speed = trained.images / (time.perf_counter() - epoch_started)
            if progress is not None:
                val_acc1 = run.records[-1].val_acc1 if run.records else None
                progress(Progress(epoch + 1, config.epochs, step + 1, steps, loss, lr, speed, val_acc1))

        validated = evaluate(learner.predict, held_out)
        _require_finite(validated.loss, run, f"on the held-out images after epoch {epoch + 1}", lr)
        run.save(learner.model, _record(epoch + 1, trained, validated, lr, time.perf_counter() - epoch_started, speed))

    return _result(run, time.perf_counter() - started)


def _device(config: TrainConfig) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UnavailableError(
            "Training on a GPU was asked for, but PyTorch finds none here. Install NVIDIA's driver and a CUDA build of PyTorch, "
            "or say --device cpu."
        )
    return torch.device("cuda" if available and config.device != "cpu" else "cpu")


def _loaders(config: TrainConfig, spec: ModelSpec, device: torch.device) -> tuple[Loader, Loader]:
    """Of the training part, augmented and shuffled, and of the held-out part."""
    training = training_set(config.data, spec, augmented(config.augmentation, spec, config.train_crop_size))
    held_out = evaluation_set(config.data, spec)
    if len(training) < 2:
        raise InputError(f"{config.data} has a single training image; training needs at least two.")
    workers = min(_MOST_WORKERS, _processors()) if config.workers is None else config.workers
    common: dict[str, Any] = {"seed": config.seed, "workers": workers, "pin_memory": device.type == "cuda"}
    # A last batch of one image is left out: BatchNorm cannot normalise a single value a channel.
    alone = len(training) % config.batch_size == 1
    return (
        Loader(training, config.batch_size, shuffle=True, drop_last=alone, **common),
        Loader(held_out, config.batch_size, **common),
    )


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _require_finite(loss: float, run: RunFolder, where: str, lr: float) -> None:
    if math.isfinite(loss):
        return
    saved = (
        f"{run.last_checkpoint} and {run.best_checkpoint} stay as they were after epoch {run.records[-1].epoch}"
        if run.records
        else "no epoch was finished, so that nothing was saved"
    )
    raise CheckFailedError(
        f"The loss became {loss} {where}, at a learning rate of {lr:.3g}. Training was stopped there, and "
        f"{saved}. Mostly the learning rate is too high for the network and the batch size: try a third of it, or warm-up "
        "epochs; if it is low already, look for damaged weights in the checkpoint that training started from."
    )


def _record(epoch: int, trained: Evaluation, validated: Evaluation, lr: float, seconds: float, speed: float) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        train_loss=trained.loss,
        train_acc1=trained.top1,
        train_acc5=trained.top5,
        val_loss=validated.loss,
        val_acc1=validated.top1,
        val_acc5=validated.top5,
        lr=lr,
        seconds=seconds,
        images_per_second=speed,
    )


def _result(run: RunFolder, seconds: float) -> TrainingResult:
    best = run.best
    assert best is not None
    return TrainingResult(
        best=run.best_checkpoint,
        last=run.last_checkpoint,
        log=run.log,
        val_acc1=best.val_acc1,
        best_epoch=best.epoch,
        epochs=len(run.records),
        seconds=seconds,
        images_per_second=sum(record.images_per_second for record in run.records) / len(run.records),
    )
