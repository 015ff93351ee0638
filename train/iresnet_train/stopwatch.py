"""Where the time of an epoch goes: waiting for images, and everything else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

from iresnet_train.records import Position

T = TypeVar("T")

_ADVICE_FROM_SHARE, _ADVICE_FROM_SECONDS = 0.1, 60.0


class Stopwatch:
    """Adds to the seconds of a position, with what they were before a resumption."""

    def __init__(self, position: Position) -> None:
        self._at, self._last = position, time.perf_counter()

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches; the time until each is there is counted apart."""
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            if batch is None:  # nor does a lap follow that would count this time
                return
            self._at.data_seconds += time.perf_counter() - before
            yield batch

    def lap(self) -> None:
        """Adds the time since the last call."""
        now = time.perf_counter()
        self._at.seconds += now - self._last
        self._last = now


def advice(position: Position, workers: int, processors: int) -> str | None:
    """What to do where an epoch waits for its images; None where it does not, or is too short to matter."""
    share = position.data_seconds / position.seconds if position.seconds else 0.0
    if share <= _ADVICE_FROM_SHARE or position.seconds < _ADVICE_FROM_SECONDS:
        return None
    more = (
        f"more --workers ({workers} now, {processors} processors)"
        if workers < processors
        else "faster decoding (smaller images on disk) or a faster disk (shards instead of single files)"
    )
    return f"{share:.0%} of the epoch's training was spent waiting for images: it would gain from {more}."
