"""A request to stop, as batch systems send it: SIGTERM or SIGUSR1."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

_SIGNALS = ("SIGTERM", "SIGUSR1")  # Windows has the first alone


class StopRequest:
    """`name` of the signal that asked for it; None so far."""

    name: str | None = None


def leave_stopping_to_the_trainer(worker: int) -> None:
    """In a process that loads images: batch systems signal all processes of a job, and the step's images are still needed."""
    for name in _SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@cache
def end_with_this_process() -> None:
    """Ends loading processes when this one ends, in an error too: Python itself would send them SIGTERM, and wait for ever."""
    atexit.register(_kill_children)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """While it is open, these signals end nothing; they are noted. Threads other than the main one cannot hear them."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        request.name = signal.Signals(number).name

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
