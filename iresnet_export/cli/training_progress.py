"""How a training run shows itself while it goes on: on the first process alone."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from iresnet_export.cli.console import notice

if TYPE_CHECKING:
    from iresnet_train import Progress as TrainingProgress

_LINE_EVERY = 60.0
"""Seconds between lines where stderr is not a terminal, beside the line at the end of an epoch."""

Update = Callable[["TrainingProgress"], None]


def is_first_process() -> bool:
    """Whether this is the one of torchrun's processes that speaks."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def training_bar() -> Iterator[Update]:
    """A bar over all steps on a terminal; elsewhere a line an epoch, and one a minute, so that a log stays readable."""
    with _remarks():
        if not is_first_process():
            yield lambda now: None
        elif sys.stderr.isatty():
            with _bar() as update:
                yield update
        else:
            yield _lines()


@contextmanager
def _bar() -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Training", total=None)

        def update(now: TrainingProgress) -> None:
            bar.update(
                task, total=now.epochs * now.steps, completed=(now.epoch - 1) * now.steps + now.step, description=_described(now)
            )

        yield update


def _lines() -> Update:
    last = time.monotonic()

    def update(now: TrainingProgress) -> None:
        nonlocal last
        if now.step == now.steps or time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            step = "" if now.step == now.steps else f", step {now.step}/{now.steps}"
            notice(_described(now, step))

    return update


def _described(now: TrainingProgress, step: str = "") -> str:
    parts = [
        f"Epoch {now.epoch}/{now.epochs}{step}",
        f"loss {now.loss:.3f}",
        f"lr {now.lr:.3g}",
        f"{now.images_per_second:.0f} images/s",
        f"{now.data_wait_share:.0%} waiting for data",
        *([] if now.gpu_memory_gb is None else [f"GPU {now.gpu_memory_gb:.1f} GB"]),
        *([] if now.val_acc1 is None else [f"held-out {now.val_acc1:.1f} %"]),
        f"{timedelta(seconds=round(now.eta_seconds))} left",
    ]
    return ", ".join(parts)


@contextmanager
def _remarks() -> Iterator[None]:
    """What the training library has to say, as notices."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notice(record.getMessage())

    log, handler = logging.getLogger("iresnet_train"), Handler()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
