"""How a training run shows itself while it goes on: on the first process alone."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from iresnet_export.cli.console import notice
from iresnet_train.torchrun import is_first

if TYPE_CHECKING:
    from iresnet_train import Progress as TrainingProgress

_LINE_EVERY = 60.0
"""Seconds between lines where stderr is not a terminal, beside the line of each epoch, which training itself gives."""

Update = Callable[["TrainingProgress"], None]


@contextmanager
def training_bar() -> Iterator[Update]:
    """A bar over all steps on a terminal; elsewhere a line a minute, beside that of each epoch, so that a log stays readable.

    Where the terminal has gone away, as with SIGHUP, nothing is shown, and training goes on to save its state.
    """
    with _remarks():
        if not is_first():
            yield lambda now: None
        elif sys.stderr is not None and sys.stderr.isatty():
            with _bar() as update:
                yield _as_far_as_possible(update)
        else:
            yield _as_far_as_possible(_lines())


def _as_far_as_possible(update: Update) -> Update:
    def shown(now: TrainingProgress) -> None:
        with suppress(OSError):
            update(now)

    return shown


@contextmanager
def _bar() -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    try:
        task = bar.add_task("Training", total=None)

        def update(now: TrainingProgress) -> None:
            bar.update(
                task, total=now.epochs * now.steps, completed=(now.epoch - 1) * now.steps + now.step, description=_described(now)
            )

        yield update
    finally:
        with suppress(OSError):
            bar.stop()


def _lines() -> Update:
    last = time.monotonic()

    def update(now: TrainingProgress) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            notice(_described(now, f", step {now.step}/{now.steps}"))

    return update


def _described(now: TrainingProgress, step: str = "") -> str:
    parts = [
        f"Epoch {now.epoch}/{now.epochs}{step}",
        f"loss {now.loss:.3f}",
        f"lr {now.lr:.3g}",
        f"{now.images_per_second:.0f} images/s",
        f"{now.data_wait_share:.0%} waiting for data",
        *([] if now.gpu_memory_gb is None else [f"GPU {now.gpu_memory_gb:.1f} GB"]),
        *([] if now.val_acc1 is None else [f"held-out {now.val_acc1:.1f} % after epoch {now.epoch - 1}"]),
        f"{timedelta(seconds=round(now.eta_seconds))} left",
    ]
    return ", ".join(parts)


@contextmanager
def _remarks() -> Iterator[None]:
    """What the training library has to say, as notices."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(OSError):
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
