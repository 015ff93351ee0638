"""A clock that only moves when something is done with it, and candidates whose true times are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from iresnet_export.benchmark.clock import Clock


class Simulation:
    """A machine that drifts slowly, is a little noisy, and has spikes now and then."""

    def __init__(self, seed: int = 0, drift: float = 0.0, noise: float = 0.0, spikes: float = 0.0) -> None:
        self.time = 0.0
        self.slept = 0.0
        self._generator = np.random.default_rng(seed)
        self._drift, self._noise, self._spikes = drift, noise, spikes
        self._phase = self._generator.uniform(0, 2 * math.pi)

    @property
    def clock(self) -> Clock:
        return _SimulatedClock(now=lambda: self.time, sleep=self.sleep, busy=lambda: False, simulation=self)

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept += seconds

    def candidate(self, seconds: float) -> Callable[[], None]:
        """An inference of that true time. The drift is one of seconds: it hits all that take turns alike."""

        def run() -> None:
            slower = 1 + self._drift * math.sin(self._phase + self.time / 2)
            slower *= 1 + self._noise * abs(self._generator.standard_normal())
            if self._generator.uniform() < self._spikes:
                slower *= 3
            self.time += seconds * slower

        return run


@dataclass(frozen=True)
class _SimulatedClock(Clock):
    simulation: Simulation | None = None

    def wait_until(self, moment: float) -> None:
        assert self.simulation is not None
        self.simulation.time = max(self.simulation.time, moment)
