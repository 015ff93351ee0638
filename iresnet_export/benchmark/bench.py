"""The benchmark: parity, then every mode, then what follows from it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.backends.base import Session
from iresnet_export.backends.registry import require_settings_used
from iresnet_export.benchmark.child import in_fresh_process
from iresnet_export.benchmark.cold import cold
from iresnet_export.benchmark.entrants import Entrant, Origin, Origins, open_entrants, parities
from iresnet_export.benchmark.limits import better, measured_limits, raised, with_fractions
from iresnet_export.benchmark.measuring import Bench, Watch, in_turns, no_watch, without_contradictions
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.peers import open_peers
from iresnet_export.benchmark.recommendation import recommendation
from iresnet_export.benchmark.results import BenchReport, Limit, Result
from iresnet_export.benchmark.server import server
from iresnet_export.benchmark.throughput import throughput
from iresnet_export.errors import UnavailableError
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
    meter, limits, results = OthersLoad(), list[Limit](), list[Result]()

    def keep_so_far(found: Sequence[Result]) -> None:
        if keep is not None:
            keep(BenchReport(list(found), list(limits), cpu | {"load_after": None}, gpu, [UNFINISHED]))

    with temporary_folder() as folder, _own_compiler_cache(folder):
        origins = Origins(options, folder)
        for artifact in artifacts:
            origins.of(artifact)
        for threads in options.thread_counts:
            before = _limits(artifacts, threads, options, folder, progress)
            found = Bench(options, progress, watch, keep_so_far, list(results))
            with ExitStack() as stack:
                candidates = open_entrants(artifacts, threads, options, origins, parities(verification), stack)
                if options.peers:
                    reference = _references(options, progress)
                    for origin in origins.all:
                        candidates += open_peers(origin, threads, options, folder, reference, progress, stack)
                _every_mode(candidates, found)
                here = _with_memory(candidates, found, len(results))
            limits += raised(better([*before, *_limits(artifacts, threads, options, folder, progress)]), here)
            results += here
    cpu["load_after"] = load_now()
    warnings = load_warnings(cpu, gpu, meter.cores())
    results = without_contradictions(results)
    loaded = under_load(warnings)
    best = recommendation(results, options.max_accuracy_drop, options.seed, loaded=loaded) if options.recommend else None
    return BenchReport(with_fractions(results, limits), limits, cpu, gpu, warnings, best)


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


def _with_memory(candidates: Sequence[Entrant], found: Bench, start: int) -> list[Result]:
    """The results from `start` on, with the peak memory of a process that runs that candidate alone."""
    peaks: dict[tuple[int, int], float | str] = {}
    results = found.results[start:]
    places = {id(candidate.subject): index for index, candidate in enumerate(candidates)}
    for index, candidate in enumerate(candidates) if found.options.memory else ():
        batches = sorted({r.batch for r in results if r.subject is candidate.subject and r.latency is not None})
        if not batches:
            continue
        found.progress(f"Peak memory of {candidate.name}", index / len(candidates))
        try:
            fresh = in_fresh_process(candidate.recipe, batches)
            peaks |= {(index, batch): peak for batch, peak in zip(batches, fresh.peaks_mb, strict=True)}
        except UnavailableError as error:
            peaks |= {(index, batch): str(error) for batch in batches}
    sessions = {id(candidate.subject): candidate.session for candidate in candidates}
    return [
        _complete(_noticed(result, sessions[id(result.subject)]), peaks.get((places[id(result.subject)], result.batch)))
        for result in results
    ]


def _noticed(result: Result, session: Session | None) -> Result:
    """With what its session says by now of how it ran."""
    return result if session is None else dataclasses.replace(result, notices=tuple(session.notices))


def _complete(result: Result, peak: float | str | None) -> Result:
    if result.memory_mb is not None or "memory_mb" in result.missing:
        return result
    if isinstance(peak, float):
        return dataclasses.replace(result, memory_mb=peak)
    why = peak or (result.reason if result.latency is None else None) or "memory was not asked for"
    return dataclasses.replace(result, missing=result.missing | {"memory_mb": why})


def _precisions(artifacts: Sequence[Artifact]) -> list[str]:
    return list(dict.fromkeys(["fp32", *(artifact.manifest.precision for artifact in artifacts if artifact.manifest)]))


def _verify_options(options: BenchOptions) -> VerifyOptions:
    return VerifyOptions(
        checkpoint=options.checkpoint,
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
