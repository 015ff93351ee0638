"""One batch size of several candidates, measured in turns, as results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch import Tensor

from iresnet_export.backends.base import Session
from iresnet_export.benchmark.clock import Samples, Timed, measure
from iresnet_export.benchmark.device import device_timer
from iresnet_export.benchmark.entrants import Entrant
from iresnet_export.benchmark.memory import release
from iresnet_export.benchmark.options import BenchOptions, Mode
from iresnet_export.benchmark.recipe import host_to_host
from iresnet_export.benchmark.stability import NOT_STEADY, unsteadiness
from iresnet_export.benchmark.statistics import latency_of, speedup_of
from iresnet_export.reporting.schemas import BenchResult, BenchStatus
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.verify import VerifyOptions, pixels_for
from iresnet_models.errors import first_line, is_out_of_memory, named_line
from iresnet_models.preprocessing import normalised
from iresnet_models.spec import NetworkSpec

Watch = Callable[[Sequence[BenchResult], Sequence[Samples]], None]
"""Told, while it measures, of the results so far and of the samples of what is being measured."""

FIGURES = ("samples", "latency_ms", "throughput", "gflops", "peak_fraction", "speedup", "stable")


def no_watch(_results: Sequence[BenchResult], _samples: Sequence[Samples]) -> None:
    """For callers that show nothing."""


def keep_nothing(_results: Sequence[BenchResult]) -> None:
    """For callers that write nothing before the end."""


@dataclass
class Bench:
    """What every mode needs: options, what is told to whom, and what has been found."""

    options: BenchOptions
    progress: Progress = no_progress
    watch: Watch = no_watch
    keep: Callable[[Sequence[BenchResult]], None] = keep_nothing
    before: Sequence[BenchResult] = ()
    """What earlier runs have found, with other threads."""
    found: list[tuple[Entrant, BenchResult]] = field(default_factory=list)
    _images: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def results(self) -> list[BenchResult]:
        return [*self.before, *(result for _, result in self.found)]

    def images_for(self, spec: NetworkSpec, session: Session, batch: int) -> Tensor:
        """Images in host memory as the session takes them; candidates of one kind share them."""
        if any(key[1] != batch for key in self._images):
            self._images.clear()  # those of an earlier batch size
        key = (spec, batch, session.with_preprocessing)
        if key not in self._images:
            wanted = VerifyOptions(images=batch, seed=self.options.seed, data=self.options.data)
            pixels, _, _ = pixels_for(spec, wanted)
            pixels = pixels.repeat(-(-batch // len(pixels)), 1, 1, 1)[:batch].contiguous()
            images = pixels if session.with_preprocessing else normalised(pixels, spec)
            self._images[key] = images.pin_memory() if self.options.device.type == "cuda" else images
        return self._images[key]

    def inference(self, candidate: Entrant, batch: int) -> Callable[[], Tensor]:
        """One inference, from images in host memory to logits in host memory."""
        session = candidate.usable
        images = self.images_for(candidate.spec, session, batch)
        return lambda: host_to_host(session, images)

    def add(self, found: Iterable[tuple[Entrant, BenchResult]]) -> None:
        """Takes what has been found, shows it, and keeps it."""
        self.found += found
        self.watch(self.results, ())
        self.keep(self.results)

    def seen(self, samples: Sequence[Samples]) -> None:
        self.watch(self.results, samples)


def in_turns(candidates: Sequence[Entrant], batch: int, mode: Mode, bench: Bench) -> list[BenchResult]:
    """One result for each candidate, those that do not take such batches "skipped"."""
    options = bench.options
    usable = [candidate for candidate in candidates if candidate.takes(batch) is None]
    timed = []
    for candidate in usable:
        images = bench.images_for(candidate.spec, candidate.usable, batch)
        timer = device_timer(candidate.usable, images)
        name, run = f"{candidate.name} at batch {batch}", bench.inference(candidate, batch)
        timed.append(Timed(name, run, timer, baseline=candidate.is_baseline))
    measured = measure(
        timed,
        seconds=options.seconds,
        warmup_seconds=options.warmup_seconds,
        seed=options.seed,
        progress=bench.progress,
        watch=bench.seen,
    )
    if any(samples.failure is not None for samples in measured):
        release(options.device)
    found = {id(candidate): samples for candidate, samples in zip(usable, measured, strict=True)}
    baselines = {c.subject.artifact: found[id(c)] for c in usable if c.is_baseline}
    results = []
    for candidate in candidates:
        reason = candidate.takes(batch)
        if reason is not None:
            results.append(unmeasured(candidate, mode, batch, reason))
            continue
        baseline = None if candidate.subject.baseline is None else baselines.get(candidate.subject.baseline)
        results.append(_result(candidate, batch, mode, found[id(candidate)], baseline, bench))
    bench.add(zip(candidates, results, strict=True))
    return results


def unmeasured(candidate: Entrant, mode: Mode, batch: int, reason: str, status: BenchStatus = "skipped") -> BenchResult:
    """A result that says why there is none. What verification failed goes by that."""
    parity = candidate.subject.parity
    if parity is not None and parity.status == "fail":
        status, reason = "failed_parity", parity.reason or reason
    return candidate.subject.result(mode, batch, status, reason, null_reasons=dict.fromkeys(FIGURES, reason))


def status_of(candidate: Entrant, unstable: str | None) -> tuple[BenchStatus, str | None]:
    """The verdict on what was measured, with its reason; `unstable` is why no figure describes it."""
    parity = candidate.subject.parity
    if parity is not None and parity.status == "fail":
        return "failed_parity", parity.reason
    return ("ok", None) if unstable is None else ("unstable", unstable)


def failed(candidate: Entrant, mode: Mode, batch: int, error: Exception) -> BenchResult:
    """A result of what could not be run."""
    if is_out_of_memory(error):
        return unmeasured(candidate, mode, batch, f"there is not enough memory: {first_line(error)}", "oom")
    return unmeasured(candidate, mode, batch, f"it does not run: {named_line(error)}")


def _result(candidate: Entrant, batch: int, mode: Mode, samples: Samples, baseline: Samples | None, bench: Bench) -> BenchResult:
    if samples.failure is not None:
        return failed(candidate, mode, batch, samples.failure)
    subject, options = candidate.subject, bench.options
    unstable = unsteadiness(samples.rounds)
    status, reason = status_of(candidate, unstable)
    latency = latency_of(samples, options.seed)
    gflops = 2 * candidate.work.macs * batch / latency.p50 / 1e6
    speedup, missing = None, {}
    if (why := _no_speedup(candidate, status, reason, baseline)) is not None:
        missing["speedup"] = why
    elif baseline is not None:
        speedup = speedup_of(baseline, samples, options.seed)
    moved = candidate.work.moved_bytes(batch, subject.precision)
    return subject.result(
        mode, batch, status, reason, samples=samples.rounds, latency_ms=latency, speedup=speedup, stable=unstable is None,
        device_ms=median(time.compute for time in samples.device) if samples.device else None,
        copy_ms=median(time.copies for time in samples.device) if samples.device else None,
        throughput=batch / latency.p50 * 1e3, gflops=gflops, bytes=moved,
        arithmetic_intensity=2 * subject.macs * batch / moved if moved and subject.macs else None, null_reasons=missing,
    )  # fmt: skip


def _no_speedup(candidate: Entrant, status: BenchStatus, reason: str | None, baseline: Samples | None) -> str | None:
    """Why there is no verdict on a candidate's speed; None if there is one."""
    if candidate.subject.baseline is None:
        return "this is the baseline"
    if status != "ok":
        return f"no verdict: {reason}"
    if baseline is None or not baseline.rounds:
        return "its baseline was not measured at this batch size"
    unstable = unsteadiness(baseline.rounds)
    return None if unstable is None else f"{NOT_STEADY}: {unstable}"
