"""Images a second: batches double until that gains nothing more, until one takes too long, or until memory ends."""

from __future__ import annotations

from collections.abc import Sequence

from iresnet_export.benchmark.entrants import Entrant
from iresnet_export.benchmark.measuring import Bench, in_turns, unmeasured
from iresnet_export.benchmark.memory import Growth
from iresnet_export.reporting.schemas import BenchResult

GAIN, FLAT_DOUBLINGS = 1.05, 2
"""Saturated: twice in a row, doubling the batch did not make it 5 % faster than the best before."""

LARGEST_BATCH, LONGEST_SECONDS = 4096, 10.0
"""Nor does a sweep go on after a batch that takes so long."""


class Sweep:
    """How far one candidate's sweep has come."""

    def __init__(self) -> None:
        self._best, self._flat = 0.0, 0
        self.over = False

    def add(self, result: BenchResult) -> None:
        """Takes note of the next batch size; whatever could not be measured ends the sweep."""
        if result.throughput is None or result.batch > LONGEST_SECONDS * result.throughput:
            self.over = True
            return
        self._flat = 0 if result.throughput >= GAIN * self._best else self._flat + 1
        self._best = max(self._best, result.throughput)
        self.over = self._flat >= FLAT_DOUBLINGS


def throughput(candidates: Sequence[Entrant], bench: Bench) -> None:
    """Sweeps all candidates together, so that each batch size is measured in turns; baselines stay for those compared with them."""
    sweeps = {id(candidate): Sweep() for candidate in candidates}
    growth, batch, over = Growth(), 1, set[int]()
    active = list(candidates)
    while active and batch <= LARGEST_BATCH:
        shortage = growth.shortage() if batch > 1 and bench.options.device.type == "cpu" else None
        if shortage is not None:
            bench.add((one, unmeasured(one, "throughput", batch, shortage, "oom")) for one in active)
            return
        for candidate, result in zip(active, in_turns(active, batch, "throughput", bench), strict=True):
            sweeps[id(candidate)].add(result)
            if result.throughput is None:
                over.add(id(candidate))
        active = _active(candidates, sweeps, over, 2 * batch)
        batch *= 2


def _active(candidates: Sequence[Entrant], sweeps: dict[int, Sweep], over: set[int], batch: int) -> list[Entrant]:
    going = [c for c in candidates if not sweeps[id(c)].over and c.takes(batch) is None]
    needed = {candidate.subject.baseline for candidate in going}
    baselines = [c for c in candidates if c.is_baseline and c.subject.artifact in needed and id(c) not in over]
    return [candidate for candidate in candidates if candidate in going or candidate in baselines]
