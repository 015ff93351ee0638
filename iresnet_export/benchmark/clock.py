"""The only clock: candidates take turns in random order, round after round, so that a machine's drift hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iresnet_export.benchmark.isolation import others_run
from iresnet_export.benchmark.stability import halves_agree
from iresnet_export.errors import IResNetError
from iresnet_export.system.progress import Progress

RUNS_PER_TURN_SECONDS = 0.1
"""A turn is as many runs as fit in this, and at least three (one of runs that last longer): warm, and yet many turns."""

MINIMUM_ROUNDS, PATIENCE = 10, 3
"""Where the halves of a measurement disagree it goes on, to at most this many times as many rounds as were asked for."""

_SETTLE_STEP, _SETTLE_LIMIT = 0.002, 1.0
_LOOKS = 2  # a thread that waits for a lock for a moment looks like one that rests
_SPIN_SECONDS = 0.001


@dataclass(frozen=True)
class Clock:
    """Seconds. Tests give one that is simulated; everything else takes `CLOCK`."""

    now: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    busy: Callable[[], bool] = others_run
    """Whether another thread of this process works, or would if a core were free."""

    def wait_until(self, moment: float) -> None:
        """Sleeps, and spins the last millisecond, since sleeping overshoots."""
        while (left := moment - self.now()) > 0:
            if left > _SPIN_SECONDS:
                self.sleep(left - _SPIN_SECONDS / 2)

    def settle(self) -> None:
        """Waits until this process's idle threads have stopped spinning; those of one candidate would slow down the next."""
        deadline, rested = self.now() + _SETTLE_LIMIT, 0
        while rested < _LOOKS and self.now() < deadline:
            rested = 0 if self.busy() else rested + 1
            self.sleep(_SETTLE_STEP)


CLOCK = Clock()


@dataclass(frozen=True)
class DeviceTime:
    """Milliseconds by the device's own events: the network alone, and the copies to and from the host."""

    compute: float
    copies: float


@dataclass(frozen=True)
class Timed:
    """What is measured: `run` does one inference, host to host, and returns when its result is there.

    `device` does one by the device's own clock, with inputs that are there already; None where there is no such clock.
    A `baseline` takes its turn in every round: others are compared with it round by round.
    """

    name: str
    run: Callable[[], object]
    device: Callable[[], DeviceTime] | None = None
    baseline: bool = False


@dataclass(frozen=True)
class Samples:
    """Latencies in milliseconds, by round: every inner tuple is one turn. `failure` is why there are none, if there are none."""

    name: str
    rounds: tuple[tuple[float, ...], ...]
    device: tuple[DeviceTime, ...] = ()
    failure: Exception | None = None

    @property
    def all(self) -> list[float]:
        return [sample for turn in self.rounds for sample in turn]


Watcher = Callable[[Sequence[Samples]], None]
"""Told after every round what has been measured so far."""


def measure(
    candidates: Sequence[Timed],
    *,
    seconds: float,
    warmup_seconds: float,
    seed: int,
    progress: Progress,
    watch: Watcher | None = None,
    clock: Clock = CLOCK,
) -> list[Samples]:
    """Measures every candidate for about `seconds`, in at least ten rounds, after a warm-up.

    Those that are unstable then go on, with the baselines, until they are stable or patience ends. One that fails, for want of
    memory for example, is left out from there on, and its samples say why.
    """
    turns = [_Turns(candidate, clock) for candidate in candidates]
    for step, turn in enumerate(turns):
        progress(f"Warming up {turn.candidate.name}", step / len(turns))
        turn.attempt(turn.warm_up, warmup_seconds)
    generator, enough = random.Random(seed), None
    while active := [turn for turn in turns if turn.failure is None]:
        count = max(len(turn.rounds) for turn in active)
        if enough is None and count >= MINIMUM_ROUNDS and min(turn.measured for turn in active) >= seconds:
            enough = count
        if enough is not None:
            unstable = [turn for turn in active if not halves_agree(turn.rounds)]
            if not unstable or count >= PATIENCE * enough:
                break
            active = [turn for turn in active if turn in unstable or turn.candidate.baseline]
        for turn in generator.sample(active, len(active)):
            turn.attempt(turn.take)
        if watch is not None:
            watch([turn.samples for turn in turns])
        least = min(turn.measured for turn in active)
        share = 1.0 if enough else min(least / seconds if seconds else 1.0, (count + 1) / MINIMUM_ROUNDS)
        progress("Measuring on: not stable yet" if enough else "Measuring in turns", min(1.0, share))
    return [turn.samples for turn in turns]


class _Turns:
    """One candidate's turns."""

    def __init__(self, candidate: Timed, clock: Clock) -> None:
        self.candidate, self._clock = candidate, clock
        self.rounds: list[tuple[float, ...]] = []
        self.measured = 0.0
        self.failure: Exception | None = None
        self._device: list[DeviceTime] = []
        self._runs = 1

    @property
    def samples(self) -> Samples:
        if self.failure is not None:
            return Samples(self.candidate.name, (), failure=self.failure)
        return Samples(self.candidate.name, tuple(self.rounds), tuple(self._device))

    def attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        """Runtimes have error types of their own; whatever they raise ends this candidate, and not the run."""
        try:
            step(*arguments)
        except IResNetError:
            raise
        except Exception as error:
            self.failure = error.with_traceback(None)  # its frames would hold what took the memory

    def warm_up(self, seconds: float) -> None:
        """Runs at least three times and for `seconds`; the shortest run says how many make a turn."""
        self._clock.settle()
        shortest, start, runs = float("inf"), self._clock.now(), 0
        while runs < 3 or self._clock.now() - start < seconds:
            shortest = min(shortest, self._one())
            runs += 1
        fitting = round(RUNS_PER_TURN_SECONDS / shortest) if shortest > 0 else 1000
        self._runs = max(fitting, 3 if shortest <= RUNS_PER_TURN_SECONDS else 1)

    def take(self) -> None:
        self._clock.settle()
        self.candidate.run()  # not counted: it fetches the candidate's weights back into the caches
        turn = tuple(self._one() * 1e3 for _ in range(self._runs))
        self.rounds.append(turn)
        self.measured += sum(turn) / 1e3
        if self.candidate.device is not None:
            self._device.append(self.candidate.device())

    def _one(self) -> float:
        begin = self._clock.now()
        self.candidate.run()
        return self._clock.now() - begin
