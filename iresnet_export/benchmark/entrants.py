"""What is measured: artifacts by each backend that runs them, their networks in eager PyTorch as baselines, and peers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, source_of_artifact
from iresnet_export.backends.base import Runtime, Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.registry import runtimes_for
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.recipe import Recipe
from iresnet_export.benchmark.work import Work, work_of
from iresnet_export.errors import ArtifactError, StaleManifestError, UnavailableError
from iresnet_export.reporting.schemas import Parity, Subject, validated
from iresnet_export.verification.verify import Verification
from iresnet_models.checkpoint import save_checkpoint
from iresnet_models.spec import NetworkSpec


@dataclass(frozen=True)
class Entrant:
    """`session` is None where it cannot be run, and `reason` says why."""

    subject: Subject
    spec: NetworkSpec
    recipe: Recipe
    work: Work
    session: Session | None
    reason: str | None = None

    @property
    def name(self) -> str:
        return f"{self.subject.backend} {self.subject.artifact}"

    @property
    def is_baseline(self) -> bool:
        return self.subject.is_baseline

    @property
    def usable(self) -> Session:
        assert self.session is not None
        return self.session

    def takes(self, batch: int) -> str | None:
        """Why it does not take a batch of that size; None if it does."""
        if self.session is None:
            return self.reason
        smallest, largest = self.session.batch or (1, batch)
        return None if smallest <= batch <= largest else f"it takes batches of {smallest} to {largest}"


@dataclass(frozen=True)
class Origin:
    """A network that artifacts were made from: its name in tables, and the checkpoint, if any, that a fresh process can read."""

    label: str
    source: Source
    checkpoint: Path | None

    @cached_property
    def work(self) -> Work:
        return work_of(self.source.network, self.source.spec.sides)

    def recipe(self, opener: str, options: BenchOptions, threads: int) -> Recipe:
        """How its network is opened as it is."""
        network = self.source.network if self.checkpoint is None else None
        return Recipe(opener, self.checkpoint, self.source.spec, options.device, threads, network=network)


class Origins:
    """The networks of the artifacts, each once."""

    def __init__(self, options: BenchOptions, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._known: dict[tuple[str, NetworkSpec], Origin] = {}

    @property
    def all(self) -> list[Origin]:
        return list(self._known.values())

    def of(self, artifact: Artifact) -> Origin:
        source = source_of_artifact(artifact, self._options.given, self._options.which)
        key = (source.weights.key, source.spec)
        if key not in self._known:
            name = f"{source.spec.name}-{source.weights.sha256[:8]}"
            namesakes = sum(origin.label.startswith(name) for origin in self.all)
            label = f"{name}-{namesakes + 1}" if namesakes else name
            path = None if source.weights.kind == "module" else self._folder / f"{label}.pt"
            if path is not None:
                save_checkpoint(path, source.own)
            self._known[key] = Origin(label, source, path)
        return self._known[key]


def parities(verification: Verification | None) -> dict[tuple[Path, str], Parity]:
    """The verdicts by artifact and backend."""
    found = {}
    for candidate in verification.candidates if verification else ():
        outputs = candidate.outputs
        accuracy = outputs.decisions.accuracy if outputs and outputs.decisions else None
        verdict = {
            "status": candidate.status,
            "noise_ratio": outputs.noise_ratio if outputs else None,
            "sqnr_db": outputs.sqnr_db if outputs else None,
            "reason": candidate.reason,
            "accuracy_drop_points": accuracy.points if accuracy else None,
        }
        found[candidate.artifact, candidate.backend] = validated(Parity, verdict)
    return found


def open_entrants(
    artifacts: Sequence[Artifact],
    threads: int,
    options: BenchOptions,
    origins: Origins,
    verdicts: dict[tuple[Path, str], Parity],
    stack: ExitStack,
) -> list[Entrant]:
    """The baselines first, then every artifact by every runtime; sessions live as long as the stack."""
    runs = [(artifact, runtime) for artifact in artifacts for runtime in runtimes_for(artifact.format, options.backends)]
    found = [_entrant(*run, threads, options, origins, verdicts, stack) for run in runs]
    return [*(_baseline(origin, threads, options) for origin in origins.all), *found]


def subject_of(origin: Origin, threads: int, options: BenchOptions) -> Subject:
    """The subject of an origin's baseline, which others are made from."""
    spec = origin.source.spec
    which = (origin.label, "eager", "fp32", options.device.type, threads)
    return Subject(*which, spec.arch, spec.depth, spec.image_size, macs=origin.work.macs)


def _baseline(origin: Origin, threads: int, options: BenchOptions) -> Entrant:
    spec = origin.source.spec
    session = EagerSession(origin.source.network, options.device, threads)
    return Entrant(subject_of(origin, threads, options), spec, origin.recipe("eager", options, threads), origin.work, session)


def _entrant(
    artifact: Artifact,
    runtime: Runtime,
    threads: int,
    options: BenchOptions,
    origins: Origins,
    verdicts: dict[tuple[Path, str], Parity],
    stack: ExitStack,
) -> Entrant:
    precision = artifact.precision
    origin = origins.of(artifact)
    spec, parity = origin.source.spec, verdicts.get((artifact.path, runtime.label))
    subject = dataclasses.replace(
        subject_of(origin, threads, options),
        artifact=artifact.path.name,
        backend=runtime.label,
        precision=precision,
        baseline=origin.label,
        size_bytes=artifact.path.stat().st_size,
        parity=parity,
    )
    recipe = Recipe(runtime.spelled, artifact.path.resolve(), spec, options.device, threads, options.trust)

    def entrant(session: Session | None, reason: str | None = None) -> Entrant:
        return Entrant(subject, spec, recipe, origin.work, session, reason)

    try:
        if artifact.manifest is not None:
            artifact.require_intact()
        session = runtime.load(artifact, options.device, threads=threads, trust=options.trust)
    except UnavailableError as error:
        return entrant(None, str(error))
    except (ArtifactError, StaleManifestError) as error:
        if parity is None or parity.status != "fail":
            raise
        return entrant(None, str(error))
    stack.enter_context(session)
    computed = session.computed_precision
    if precision == "fp32" and computed == "tf32":  # which nothing does unasked
        return dataclasses.replace(entrant(session), subject=dataclasses.replace(subject, precision=computed))
    if computed != precision:
        return entrant(None, f"it stores {precision}, and {runtime.label} computes it in {computed} here")
    return entrant(session)
