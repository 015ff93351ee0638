"""A request to stop, as batch systems, terminals and their users send it: SIGTERM, SIGUSR1, SIGHUP and SIGINT (Ctrl-C)."""

from __future__ import annotations

import atexit
import copy
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from multiprocessing.context import BaseContext
from types import FrameType
from typing import TypeVar

from iresnet_models.errors import InterruptedRunError, PreemptedError

_INTERRUPT = "SIGINT"
_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGHUP", _INTERRUPT)  # Windows has the first and the last alone
_MAY_BE_IGNORED = ("SIGHUP", _INTERRUPT)
"""Those that nohup and shells have a program ignore: then they ask for nothing."""

_SAME = 2.0
"""Seconds within which a second Ctrl-C is the first one once more, under torchrun: it passes on what the terminal has sent too."""

_LOADING = "image-loading"

_log = logging.getLogger("iresnet_train")

T = TypeVar("T")


class StopRequest:
    """`name` of the signal that asked for it; None so far. `saves`: a step was taken, so that there is something to save."""

    name: str | None = None
    saves: bool = False

    def until(self, items: Iterable[T]) -> Iterator[T]:
        """The same items, until it is asked for."""
        for item in items:
            if self.name is not None:
                return
            yield item


class _EndNow(BaseException):
    """A request to stop where there is nothing to save. No handler of errors on the way is to take it for one."""


def leave_stopping_to_the_trainer(worker: int) -> None:
    """In a process that loads images: batch systems signal all processes of a job, and the step's images are still needed."""
    for name in _SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@cache
def loading_processes() -> BaseContext:
    """How processes that load images are made. They end when this one ends, in an error too.

    Python would send them SIGTERM, which they do not hear, and wait for their end for ever.
    """
    context = copy.copy(multiprocessing.get_context())
    vars(context)["Process"] = partial(context.Process, name=_LOADING)
    atexit.register(_kill_loading)
    return context


def _kill_loading() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would raise an error of its own for each
    for child in multiprocessing.active_children():
        if child.name == _LOADING:
            child.kill()


def stopped(name: str | None) -> type[PreemptedError]:
    """The error of a run that this signal stopped: its exit status tells Ctrl-C from a batch system."""
    return InterruptedRunError if name == _INTERRUPT else PreemptedError


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """While it is open, these signals are noted, and end nothing but what has nothing to save yet; a second Ctrl-C ends at once.

    Threads other than the main one cannot hear them.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    owner = os.getpid()
    interrupted_at: float | None = None

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted_at
        if os.getpid() != owner:  # a process that loads images, just forked
            return
        name = signal.Signals(number).name
        if name == _INTERRUPT and interrupted_at is not None:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - interrupted_at < _SAME:
                return
            raise KeyboardInterrupt
        if request.name is None:
            request.name = name
        if not request.saves:
            raise _EndNow
        if name == _INTERRUPT:
            interrupted_at = time.monotonic()
            with suppress(RuntimeError, OSError):  # where it interrupts a write to the same terminal
                _log.warning("Stopping: the step is finished and the state saved. Press again to end at once without saving.")

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    ignored = {getattr(signal, name) for name in _MAY_BE_IGNORED if hasattr(signal, name)}
    numbers = [number for number in numbers if number not in ignored or signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    except _EndNow:
        raise stopped(request.name)(
            f"Training was stopped by {request.name} before a step was taken; what was there is as it was. Begin, or go on, "
            "with the same command."
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
