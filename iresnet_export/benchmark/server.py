"""Requests that come at random to one server: how long each waits, and how many a second can be answered in time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from iresnet_export.benchmark.clock import CLOCK, Clock
from iresnet_export.benchmark.entrants import Entrant
from iresnet_export.benchmark.measuring import Bench, failed, status_of, unmeasured
from iresnet_export.benchmark.statistics import percentile, samples_needed
from iresnet_export.graph.ir import Array
from iresnet_export.reporting.schemas import BenchResult, Response, Server, Trial

BACKLOG = 2.0
"""A queue that is not served within this many times the arrivals' duration is given up: it would only grow."""

PROBES, STEP, MOST_TRIALS = 200, 0.05, 8
LEAST_UTILISATION = 0.01
"""The search goes no lower: hardly any request waits there for another, so that a lower rate would hardly shorten a response."""

_CHANCE = 1e-3
"""A limit counts as out of reach where the inferences alone break it, and would by chance so often more rarely than this."""

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}
_NOT_MEASURED = ("latency_ms", "gflops", "peak_fraction", "speedup", "memory_mb", "device_ms", "copy_ms")


@dataclass(frozen=True)
class ServerRun:
    """What came of offering requests. Response times in milliseconds, from arrival to logits; the rest as in `Server`."""

    rate_per_s: float
    offered: int
    completed: int
    utilisation: float
    responses: tuple[float, ...]
    seconds: float
    highest_rate_per_s: float | None = None
    p99_limit_ms: float | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def keeps_up(self) -> bool:
        return self.completed == self.offered and self.utilisation < 1


def server(candidates: Sequence[Entrant], bench: Bench) -> None:
    """Every candidate on its own, in random order, at every rate asked for; with a limit also at the highest rate within it."""
    start, places = len(bench.found), {id(candidate): place for place, candidate in enumerate(candidates)}
    for candidate in random.Random(bench.options.seed).sample(candidates, len(candidates)):
        bench.add((candidate, result) for result in _of_candidate(candidate, bench))
    bench.found[start:] = sorted(bench.found[start:], key=lambda pair: places[id(pair[0])])


def queue(
    run: Callable[[], object], rate: float, requests: int, seed: int, clock: Clock = CLOCK, p99_limit_ms: float = math.inf
) -> ServerRun:
    """Offers `requests` at random moments, `rate` a second on average, to one server that takes them one by one, in real time.

    It is given up where the backlog grows, and where more than 1 % of all requests have waited for longer than the limit: what is
    left then is offered and not completed.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, requests)
    clock.settle()
    run()
    start = clock.now()
    arrivals = start + np.cumsum(gaps)
    deadline = arrivals[-1] + (BACKLOG - 1) * (arrivals[-1] - start)
    responses, working, late = list[float](), 0.0, 0
    for arrival in arrivals:
        if clock.now() > deadline or late > requests / 100:
            break
        clock.wait_until(float(arrival))
        begin = clock.now()
        run()
        end = clock.now()
        responses.append((end - float(arrival)) * 1e3)
        late += responses[-1] > p99_limit_ms
        working += end - begin
    seconds = clock.now() - start
    return ServerRun(rate, requests, len(responses), working / seconds, tuple(responses), seconds)


def response_percentile(found: ServerRun, percent: float) -> float | None:
    """Of the response time, in milliseconds; None of too few requests, or where not all were answered."""
    return percentile(found.responses, percent) if found.completed == found.offered else None


def highest_rate(run: Callable[[], object], limit_ms: float, seconds: float, seed: int, clock: Clock = CLOCK) -> ServerRun:
    """The highest rate whose p99 stays within the limit, as measured at it; predicted first, so that few rates have to be tried.

    The search steps by 5 %. Each trial has the thousand requests that a p99 needs, or more if `seconds` allow.
    """
    service = _service_times(run, clock)
    capacity, hopeless = 1 / float(np.mean(service)), _out_of_reach(service, limit_ms)
    least = LEAST_UTILISATION * capacity
    rate = capacity / 2 if hopeless else max(least, predicted_rate(service, limit_ms / 1e3, seed))
    best: ServerRun | None = None
    trials: list[Trial] = []
    while len(trials) < MOST_TRIALS:
        found = queue(run, rate, max(samples_needed(99), round(rate * seconds)), seed + len(trials), clock, limit_ms)
        p99 = response_percentile(found, 99)
        held = found.keeps_up and p99 is not None and p99 <= limit_ms
        trials.append(Trial(rate, p99, held))
        if held:
            best = found
            if any(not trial.held for trial in trials):
                break
            rate *= 1 + STEP
        else:
            if best is not None or hopeless or rate == least:
                break
            rate = max(least, rate * (1 - STEP * (1 if len(trials) < 3 else 3)))
    shown = best or found
    highest = 0.0 if best is None else best.rate_per_s
    return replace(shown, highest_rate_per_s=highest, p99_limit_ms=limit_ms, trials=tuple(trials))


def _out_of_reach(service: Sequence[float], limit_ms: float) -> bool:
    """Whether more than 1 % of the inferences (seconds) take longer than the limit by themselves, so that no rate holds it."""
    from scipy.stats import binom

    late = sum(seconds * 1e3 > limit_ms for seconds in service)
    return bool(binom.sf(late - 1, len(service), 0.01) < _CHANCE)


def predicted_rate(service: Sequence[float], limit: float, seed: int, requests: int = 20_000) -> float:
    """The rate at which a simulated queue with these service times (seconds) has its p99 at the limit: where to begin."""
    generator = np.random.default_rng(seed)
    times, gaps = generator.choice(np.asarray(service), requests), generator.exponential(1.0, requests)
    low, high = 0.0, 1 / float(np.mean(times))
    for _ in range(30):
        middle = (low + high) / 2
        if np.percentile(_response_times(times, gaps / middle), 99) <= limit:
            low = middle
        else:
            high = middle
    return low


def _response_times(times: Array, gaps: Array) -> Array:
    """Lindley's recursion: a request waits for the one before it, less the time since that came."""
    steps = np.concatenate([[0.0], times[:-1] - gaps[1:]])
    walk = np.cumsum(steps)
    responses: Array = walk - np.minimum.accumulate(walk) + times
    return responses


def _service_times(run: Callable[[], object], clock: Clock) -> list[float]:
    clock.settle()
    run()
    found: list[float] = []
    start = clock.now()
    while len(found) < PROBES and (len(found) < 20 or clock.now() - start < 3.0):
        begin = clock.now()
        run()
        found.append(clock.now() - begin)
    return found


def _of_candidate(candidate: Entrant, bench: Bench) -> list[BenchResult]:
    options = bench.options
    if (reason := candidate.takes(1)) is not None:
        return [unmeasured(candidate, "server", 1, reason)]
    run = bench.inference(candidate, 1)
    found = []
    try:
        for _ in range(3):
            run()
        for rate in options.rates:
            bench.progress(f"Serving {rate:g} requests a second by {candidate.name}", 0.0)
            requests = max(1, round(rate * options.seconds))
            found.append(_result(candidate, queue(run, rate, requests, options.seed)))
        if options.p99_limit_ms is not None:
            bench.progress(f"Looking for the highest rate of {candidate.name}", 0.5)
            found.append(_result(candidate, highest_rate(run, options.p99_limit_ms, options.seconds, options.seed)))
    except Exception as error:
        return [*found, failed(candidate, "server", 1, error)]
    return found


def _result(candidate: Entrant, found: ServerRun) -> BenchResult:
    text = (
        f"it does not keep up with {found.rate_per_s:g} requests a second: {found.completed:,} of {found.offered:,} were answered, "
        "and the queue only grew"
    )
    if found.highest_rate_per_s == 0:
        text = f"no rate that was tried keeps p99 within {found.p99_limit_ms:g} ms"
    status, reason = status_of(candidate, None if found.keeps_up else text)
    return candidate.subject.result(
        "server", 1, status, reason, samples=found.responses, throughput=found.completed / found.seconds,
        stable=found.keeps_up, server=_document(found),
        null_reasons=dict.fromkeys(_NOT_MEASURED, "mode server measures response times: see server.response_ms"),
    )  # fmt: skip


def _document(found: ServerRun) -> Server:
    response = {key: response_percentile(found, percent) for key, percent in _PERCENTILES.items()}
    reasons = {}
    for key, percent in _PERCENTILES.items():
        if response[key] is None:
            few = f"it takes {samples_needed(percent):,} requests"
            reasons[f"response_ms.{key}"] = few if found.completed == found.offered else "not all requests were answered"
    if found.p99_limit_ms is None:
        reasons |= dict.fromkeys(("highest_rate_per_s", "p99_limit_ms"), "no limit was given")
    return Server(
        found.rate_per_s, found.offered, found.completed, found.utilisation, Response(**response),
        found.highest_rate_per_s, found.p99_limit_ms, found.trials, reasons,
    )  # fmt: skip
