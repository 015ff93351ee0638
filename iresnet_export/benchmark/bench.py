"""The latency benchmark: candidates from artifacts, measured together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from iresnet_export.artifact import Artifact, open_artifact
from iresnet_export.backends import runners
from iresnet_export.backends.base import Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.benchmark.clock import Samples, Timed, measure
from iresnet_export.benchmark.statistics import Latency, Speedup, latency_of, speedup_of
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.progress import Progress, no_progress
from iresnet_export.source import Source, source_of_artifact
from iresnet_export.verification.verify import VerifyOptions, pixels_for
from iresnet_models.operations import multiply_accumulates
from iresnet_models.preprocessing import normalised
from iresnet_models.spec import ModelSpec


@dataclass(frozen=True)
class BenchOptions:
    """`seconds`: measured time for each candidate and batch size. `threads`: None for one for each usable core."""

    batch_sizes: tuple[int, ...] = (1,)
    device: torch.device = torch.device("cpu")
    threads: int | None = None
    seconds: float = 3.0
    warmup_seconds: float = 0.3
    seed: int = 0
    checkpoint: Path | None = None
    trust: bool = False
    backends: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise InputError("--batch takes batch sizes of at least 1, such as --batch 1,8,32.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"--threads takes a number of at least 1, not {self.threads}.")
        if self.seconds <= 0:
            raise InputError(f"--seconds takes a time above 0, not {self.seconds}.")

    @property
    def thread_count(self) -> int:
        return self.threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True)
class Result:
    """One candidate at one batch size. `gflops` counts an addition and a multiplication each."""

    artifact: str
    backend: str
    precision: str
    device: str
    batch: int
    threads: int
    status: Literal["ok", "skipped"]
    reason: str | None = None
    samples: Samples | None = None
    latency: Latency | None = None
    throughput: float | None = None
    gflops: float | None = None
    speedup: Speedup | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class _Candidate:
    label: str
    backend: str
    precision: str
    spec: ModelSpec
    session: Session
    size_bytes: int | None
    baseline: str


def bench(paths: Sequence[Path], options: BenchOptions, progress: Progress = no_progress) -> list[Result]:
    """Measures every artifact, and its network in eager PyTorch as the baseline; those that cannot run here are "skipped"."""
    artifacts = [open_artifact(path) for path in paths]
    results: list[Result] = []
    with ExitStack() as stack:
        candidates = _candidates(artifacts, options, results, stack)
        for batch in options.batch_sizes:
            results += _measured(candidates, batch, options, progress)
    return results


def _candidates(artifacts: list[Artifact], options: BenchOptions, skipped: list[Result], stack: ExitStack) -> list[_Candidate]:
    baselines: dict[tuple[str, ModelSpec], _Candidate] = {}
    found: list[_Candidate] = []
    runs = [(artifact, backend) for artifact in artifacts for backend in runners(artifact.format, options.backends)]
    for artifact, backend in runs:
        precision = artifact.descent.precision if artifact.descent else "fp32"
        if artifact.descent is not None:
            artifact.require_intact()
        source = source_of_artifact(artifact, options.checkpoint)
        key = (source.weights.sha256, source.spec)
        if key not in baselines:
            baselines[key] = _baseline(source, options)
        try:
            session = backend.load(artifact, options.device, threads=options.thread_count, trust=options.trust)
        except UnavailableError as error:
            skipped += [_skipped(artifact, backend.name, precision, batch, options, str(error)) for batch in options.batch_sizes]
            continue
        stack.enter_context(session)
        if session.computed_precision != precision:
            reason = f"it stores {precision}, and {backend.name} computes it in {session.computed_precision} here"
            skipped += [_skipped(artifact, backend.name, precision, batch, options, reason) for batch in options.batch_sizes]
            continue
        size = artifact.path.stat().st_size
        found.append(_Candidate(artifact.path.name, backend.name, precision, source.spec, session, size, baselines[key].label))
    return [*baselines.values(), *found]


def _baseline(source: Source, options: BenchOptions) -> _Candidate:
    label = f"{source.spec.name}-{source.weights.sha256[:8]}"
    session = EagerSession(source.network, options.device, options.thread_count)
    return _Candidate(label, "eager", "fp32", source.spec, session, None, label)


def _skipped(artifact: Artifact, backend: str, precision: str, batch: int, options: BenchOptions, reason: str) -> Result:
    return Result(
        artifact.path.name, backend, precision, options.device.type, batch, options.thread_count, "skipped", reason,
        size_bytes=artifact.path.stat().st_size,
    )  # fmt: skip


def _measured(candidates: list[_Candidate], batch: int, options: BenchOptions, progress: Progress) -> list[Result]:
    usable = [candidate for candidate in candidates if _takes(candidate.session, batch)]
    timed = [Timed(f"{c.backend} {c.label} at batch {batch}", _inference(c, batch, options)) for c in usable]
    measured = measure(timed, seconds=options.seconds, warmup_seconds=options.warmup_seconds, seed=options.seed, progress=progress)
    by_label = {c.label: samples for c, samples in zip(usable, measured, strict=True) if c.backend == "eager"}
    results = []
    for candidate in candidates:
        common = (candidate.label, candidate.backend, candidate.precision, options.device.type, batch, options.thread_count)
        if candidate not in usable:
            smallest, largest = candidate.session.batch or (1, batch)
            reason = f"it takes batches of {smallest} to {largest}"
            results.append(Result(*common, "skipped", reason, size_bytes=candidate.size_bytes))
            continue
        samples = measured[usable.index(candidate)]
        latency = latency_of(samples, options.seed)
        is_baseline = candidate.backend == "eager"
        results.append(
            Result(
                *common,
                "ok",
                samples=samples,
                latency=latency,
                throughput=batch / latency.p50 * 1e3,
                gflops=2 * multiply_accumulates(candidate.spec) * batch / latency.p50 / 1e6,
                speedup=None if is_baseline else speedup_of(by_label[candidate.baseline], samples, options.seed),
                size_bytes=candidate.size_bytes,
            )
        )
    return results


def _takes(session: Session, batch: int) -> bool:
    return session.batch is None or session.batch[0] <= batch <= session.batch[1]


def _inference(candidate: _Candidate, batch: int, options: BenchOptions) -> Any:
    """One inference, from images in host memory to logits in host memory."""
    pixels, _, _ = pixels_for(candidate.spec, VerifyOptions(images=batch, seed=options.seed))
    pixels = pixels.repeat(-(-batch // len(pixels)), 1, 1, 1)[:batch].contiguous()
    images = pixels if candidate.session.takes_pixels else normalised(pixels, candidate.spec)
    if options.device.type == "cuda":
        images = images.pin_memory()

    def run() -> None:
        candidate.session.run(images.to(options.device, non_blocking=True)).cpu()

    return run
