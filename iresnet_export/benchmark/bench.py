"""The benchmark: parity, then every mode, then what follows from it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.backends.base import Session
from iresnet_export.backends.registry import require_settings_used
from iresnet_export.benchmark.child import in_fresh_process
from iresnet_export.benchmark.cold import cold
from iresnet_export.benchmark.entrants import Entrant, Origin, Origins, open_entrants, parities
from iresnet_export.benchmark.limits import better, measured_limits, raised, with_fractions
from iresnet_export.benchmark.measuring import Bench, Watch, in_turns, no_watch
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.peers import open_peers
from iresnet_export.benchmark.reasons import with_reasons
from iresnet_export.benchmark.recommendation import recommendation
from iresnet_export.benchmark.server import server
from iresnet_export.benchmark.stability import without_contradictions
from iresnet_export.benchmark.throughput import throughput
from iresnet_export.errors import UnavailableError
from iresnet_export.reporting.schemas import BenchReport, BenchResult, Limit, Recommendation, environment_here
from iresnet_export.system.machine import OthersLoad, cpu_state, gpu_state, load_now, load_warnings, under_load
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.reference import Reference
from iresnet_export.verification.verify import References, Verification, VerifyOptions, verify
from iresnet_models.temporary import temporary_folder

UNFINISHED = "This run did not come to its end: what follows was measured until then, without peak memory or shares of the limit."


def bench(
    paths: Sequence[Path],
    options: BenchOptions,
    progress: Progress = no_progress,
    *,
    watch: Watch = no_watch,
    keep: Callable[[BenchReport], None] | None = None,
    verification: Verification | None = None,
) -> BenchReport:
    """Measures every artifact, and its network in eager PyTorch as the baseline; those that cannot run here are "skipped".

    `keep` gets, after every batch size and mode, a report of what there is so far, whose warnings say that it is not the whole.
    `verification`: verdicts on the same paths that are known already; else they are found first, unless `options` say not to.
    """
    artifacts = [open_artifact(path) for path in paths]
    require_settings_used(options.backends, options.device, [artifact.format for artifact in artifacts])
    if verification is None and options.verify:
        verification = verify(paths, _verify_options(options), progress)
    cpu, gpu = cpu_state() | {"load_before": load_now()}, gpu_state(options.device.index or 0)
    meter, limits, results = OthersLoad(), list[Limit](), list[BenchResult]()

    def report(
        results: Sequence[BenchResult], warnings: Sequence[str], load_after: float | None, best: Recommendation | None = None
    ) -> BenchReport:
        reasons = {} if gpu else {"environment.gpu": "torch finds no GPU here"}
        if best is None:
            reasons["recommendation"] = "nothing passed" if options.recommend else "none was asked for"
        return BenchReport(
            environment_here(cpu=cpu | {"load_after": load_after}, gpu=gpu, warnings=warnings),
            tuple(with_reasons(result, options) for result in results),
            _settings(options),
            tuple(limits),
            best,
            reasons,
        )

    def keep_so_far(found: Sequence[BenchResult]) -> None:
        if keep is not None:
            keep(report(found, [UNFINISHED], None))

    with temporary_folder() as folder, _own_compiler_cache(folder):
        origins = Origins(options, folder)
        for artifact in artifacts:
            origins.of(artifact)
        for threads in options.thread_counts:
            before = _limits(artifacts, threads, options, folder, progress)
            found = Bench(options, progress, watch, keep_so_far, tuple(results))
            with ExitStack() as stack:
                candidates = open_entrants(artifacts, threads, options, origins, parities(verification), stack)
                if options.peers:
                    reference = _references(options, progress)
                    for origin in origins.all:
                        own = (artifact for artifact in artifacts if origins.of(artifact) is origin)
                        int8 = next((artifact for artifact in own if artifact.precision == "int8"), None)
                        candidates += open_peers(origin, threads, options, folder, reference, progress, stack, int8)
                _every_mode(candidates, found)
                here = _with_memory(candidates, found)
            limits += raised(better([*before, *_limits(artifacts, threads, options, folder, progress)]), here)
            results += here
    load_after = load_now()
    warnings = load_warnings(cpu | {"load_after": load_after}, gpu, meter.cores())
    results = without_contradictions(results)
    loaded = under_load(warnings)
    best = recommendation(results, options.max_accuracy_drop, options.seed, loaded=loaded) if options.recommend else None
    return report(with_fractions(results, limits), warnings, load_after, best)


def _settings(options: BenchOptions) -> dict[str, Any]:
    plain = ("seconds", "warmup_seconds", "seed", "peers", "p99_limit_ms", "repeats", "max_accuracy_drop")
    return {
        "modes": list(options.modes),
        "batch_sizes": list(options.batch_sizes),
        "device": options.device.type,
        "backends": list(options.backends) or None,
        "threads": list(options.thread_counts),
        "clock": "host to host",
        "verified": options.verify,
        "rates": list(options.rates),
        **{key: getattr(options, key) for key in plain},
    }


def _limits(artifacts: Sequence[Artifact], threads: int, options: BenchOptions, folder: Path, progress: Progress) -> list[Limit]:
    """What the machine can do; measured before and after everything else, since it may be busy once."""
    return measured_limits(_precisions(artifacts), threads, options.device, folder, progress) if options.limits else []


def _every_mode(candidates: Sequence[Entrant], found: Bench) -> None:
    for mode in found.options.modes:
        if mode == "latency":
            for batch in found.options.batch_sizes:
                in_turns(candidates, batch, "latency", found)
        elif mode == "throughput":
            throughput(candidates, found)
        elif mode == "server":
            server(candidates, found)
        else:
            cold(candidates, found)


def _with_memory(candidates: Sequence[Entrant], found: Bench) -> list[BenchResult]:
    """What this run has found, with the peak memory of a process that runs that candidate alone."""
    peaks: dict[tuple[int, int], float | str] = {}
    for index, candidate in enumerate(candidates) if found.options.memory else ():
        batches = sorted({r.batch for of, r in found.found if of is candidate and r.latency_ms is not None})
        if not batches:
            continue
        found.progress(f"Peak memory of {candidate.name}", index / len(candidates))
        try:
            fresh = in_fresh_process(candidate.recipe, batches)
            peaks |= {(id(candidate), batch): peak for batch, peak in zip(batches, fresh.peaks_mb, strict=True)}
        except UnavailableError as error:
            peaks |= {(id(candidate), batch): str(error) for batch in batches}
    return [_complete(_noticed(result, of.session), peaks.get((id(of), result.batch))) for of, result in found.found]


def _noticed(result: BenchResult, session: Session | None) -> BenchResult:
    """With what its session says by now of how it ran."""
    return result if session is None else dataclasses.replace(result, notices=tuple(session.notices))


def _complete(result: BenchResult, peak: float | str | None) -> BenchResult:
    if result.memory_mb is not None or "memory_mb" in result.null_reasons:
        return result
    if isinstance(peak, float):
        return dataclasses.replace(result, memory_mb=peak)
    why = peak or (result.reason if result.latency_ms is None else None) or "memory was not asked for"
    return dataclasses.replace(result, null_reasons=result.null_reasons | {"memory_mb": why})


def _precisions(artifacts: Sequence[Artifact]) -> list[str]:
    return list(dict.fromkeys(["fp32", *(artifact.manifest.precision for artifact in artifacts if artifact.manifest)]))


def _verify_options(options: BenchOptions) -> VerifyOptions:
    return VerifyOptions(
        checkpoint=options.checkpoint,
        which=options.which,
        source=options.source,
        data=options.data,
        images=options.parity_images,
        batch_sizes=tuple(sorted({1, min(8, options.parity_images)})),
        device=options.device,
        trust=options.trust,
        seed=options.seed,
        backends=options.backends,
        max_accuracy_drop=options.max_accuracy_drop,
    )


def _references(options: BenchOptions, progress: Progress) -> Callable[[Origin], Reference | None]:
    """What the outputs of peers are compared with: the reference that `verify` has computed and kept."""
    references = References(_verify_options(options), progress)
    return lambda origin: references.of(origin.source) if options.verify else None


class _own_compiler_cache:  # noqa: N801 - a context manager, named like a function
    """What `torch.compile` keeps on disk lies in the run's own folder: no earlier run makes this one's fresh processes faster."""

    _NAME = "TORCHINDUCTOR_CACHE_DIR"

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "inductor"

    def __enter__(self) -> None:
        self._before = os.environ.get(self._NAME)
        os.environ[self._NAME] = str(self._folder)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            os.environ.pop(self._NAME, None)
        else:
            os.environ[self._NAME] = self._before
