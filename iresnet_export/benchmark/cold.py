"""Cold starts: how long a fresh process takes from a file to its first logits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median

from iresnet_export.benchmark.child import FreshRun, in_fresh_process
from iresnet_export.benchmark.entrants import Entrant
from iresnet_export.benchmark.measuring import Bench, status_of, unmeasured
from iresnet_export.errors import UnavailableError
from iresnet_export.reporting.schemas import BenchResult, Cold, Timing

_WHY = "mode cold measures load time and first inference: see cold"
_NOT_MEASURED = ("latency_ms", "throughput", "gflops", "peak_fraction", "speedup", "stable", "device_ms", "copy_ms")


def cold(candidates: Sequence[Entrant], bench: Bench) -> None:
    """Every candidate in several fresh processes, in random order, round after round."""
    usable = [index for index, candidate in enumerate(candidates) if candidate.takes(1) is None]
    runs: dict[int, list[FreshRun]] = {index: [] for index in usable}
    reasons: dict[int, str] = {}
    generator = random.Random(bench.options.seed)
    for repeat in range(bench.options.repeats):
        for index in generator.sample(usable, len(usable)):
            if index in reasons:
                continue
            bench.progress(f"Starting {candidates[index].name} afresh", repeat / bench.options.repeats)
            try:
                runs[index].append(in_fresh_process(candidates[index].recipe, (1,)))
            except UnavailableError as error:
                reasons[index] = str(error)
    results = []
    for index, candidate in enumerate(candidates):
        reason = candidate.takes(1) or reasons.get(index)
        results.append((candidate, unmeasured(candidate, "cold", 1, reason) if reason else _result(candidate, runs[index])))
    bench.add(results)


def _result(candidate: Entrant, runs: Sequence[FreshRun]) -> BenchResult:
    status, reason = status_of(candidate, None)
    loads, firsts = ([getattr(run, key) for run in runs] for key in ("load_ms", "first_inference_ms"))
    return candidate.subject.result(
        "cold", 1, status, reason, samples=tuple(map(sum, zip(loads, firsts, strict=True))),
        memory_mb=max(run.peaks_mb[0] for run in runs), null_reasons=dict.fromkeys(_NOT_MEASURED, _WHY),
        cold=Cold(*(Timing(median(times), tuple(times)) for times in (loads, firsts))),
    )  # fmt: skip
