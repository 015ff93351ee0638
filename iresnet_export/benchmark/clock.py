"""The only clock: candidates take turns in random order, round after round, so that a machine's drift hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iresnet_export.progress import Progress

RUNS_PER_TURN_SECONDS = 0.1
"""A turn is as many runs as fit in this, and at least three: long enough to be warm, short enough to take many turns."""

_SETTLE_STEP, _SETTLE_LIMIT, _IDLE_SHARE = 0.002, 0.1, 0.05


@dataclass(frozen=True)
class Timed:
    """What is measured: `run` does one inference, host to host, and returns when its result is there."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Samples:
    """Latencies in milliseconds, by round: every inner tuple is one turn."""

    name: str
    rounds: tuple[tuple[float, ...], ...]

    @property
    def all(self) -> list[float]:
        return [sample for turn in self.rounds for sample in turn]


def measure(candidates: Sequence[Timed], *, seconds: float, warmup_seconds: float, seed: int, progress: Progress) -> list[Samples]:
    """Measures every candidate for about `seconds`, in at least ten rounds, after a warm-up of its own."""
    runs = []
    for step, candidate in enumerate(candidates):
        progress(f"Warming up {candidate.name}", step / len(candidates))
        typical = _warm_up(candidate, warmup_seconds)
        runs.append(max(3, round(RUNS_PER_TURN_SECONDS / typical)))
    order, generator = list(range(len(candidates))), random.Random(seed)
    rounds: list[list[tuple[float, ...]]] = [[] for _ in candidates]
    measured = [0.0] * len(candidates)
    while min(measured) < seconds or len(rounds[0]) < 10:
        generator.shuffle(order)
        for index in order:
            turn = _turn(candidates[index], runs[index])
            rounds[index].append(turn)
            measured[index] += sum(turn) / 1e3
        progress("Measuring in turns", min(1.0, min(min(measured) / seconds if seconds else 1.0, len(rounds[0]) / 10)))
    return [Samples(candidate.name, tuple(turns)) for candidate, turns in zip(candidates, rounds, strict=True)]


def _warm_up(candidate: Timed, seconds: float) -> float:
    """Runs at least three times and for `seconds`; returns the shortest run, in seconds."""
    shortest, start = float("inf"), time.perf_counter()
    runs = 0
    while runs < 3 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        candidate.run()
        shortest = min(shortest, time.perf_counter() - begin)
        runs += 1
    return shortest


def _turn(candidate: Timed, runs: int) -> tuple[float, ...]:
    _settle()
    candidate.run()  # not counted: it fetches the candidate's weights back into the caches
    samples = []
    for _ in range(runs):
        begin = time.perf_counter_ns()
        candidate.run()
        samples.append((time.perf_counter_ns() - begin) / 1e6)
    return tuple(samples)


def _settle() -> None:
    """Waits until this process's idle threads have stopped spinning; those of one candidate would slow down the next."""
    deadline = time.perf_counter() + _SETTLE_LIMIT
    while time.perf_counter() < deadline:
        begin, busy = time.perf_counter(), time.process_time()
        time.sleep(_SETTLE_STEP)
        if time.process_time() - busy < _IDLE_SHARE * (time.perf_counter() - begin):
            return
