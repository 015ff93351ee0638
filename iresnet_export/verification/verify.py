"""Verification of artifacts: manifest, weights, outputs; one verdict each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iresnet_data.named_data import remark, short_name
from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.data_choice import chosen_data, is_named
from iresnet_export.artifacts.manifest import Weights
from iresnet_export.artifacts.metadata import outputs_of, sides_of
from iresnet_export.artifacts.source import Source, source_of_artifact
from iresnet_export.artifacts.subject import subject_of
from iresnet_export.backends.base import MOST_BATCH, Runtime, require_trusted
from iresnet_export.backends.registry import format_named, require_settings_used, runtimes_for
from iresnet_export.errors import (
    ArtifactError,
    CheckFailedError,
    ExportError,
    InputError,
    IResNetError,
    StaleManifestError,
    UnavailableError,
)
from iresnet_export.graph.compare import WeightsReport
from iresnet_export.quantization.codes import Step
from iresnet_export.reporting.schemas import Coverage, FurtherOutput, GraphReport, SizeResult, Verdict
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.criteria import NOISE_LIMIT, Criterion, criterion_for
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.foreign import other_images, takes_channels_last
from iresnet_export.verification.from_scratch import REPEATED, data_of, not_repeated, was_measured
from iresnet_export.verification.further import Expected, compare_further, expected_outputs
from iresnet_export.verification.localisation import OUTPUT, Localisation, localise
from iresnet_export.verification.outputs import OutputsReport, compare_outputs, interface_reason, not_compared
from iresnet_export.verification.read_back import ReadBack, read_back
from iresnet_export.verification.reference import MINIMUM_IMAGES, Reference, reference_of
from iresnet_export.verification.reference_cache import cached_reference
from iresnet_export.verification.sizes import calibrated_elsewhere, compare_sizes
from iresnet_models.errors import named_line
from iresnet_models.outputs import LOGITS, OutputName, require_had
from iresnet_models.preprocessing import noise_pixels
from iresnet_models.spec import NOTHING_SAID, NetworkSpec, SpecOptions, Which

_NO_RUNTIME = "file"
"""What stands in a runtime's place where only files are compared."""


@dataclass(frozen=True)
class VerifyOptions:
    """`data` is a data set (`digits`, a folder); None for the network's own, or seeded noise where it has none here."""

    checkpoint: Path | None = None
    data: str | None = None
    images: int = 64
    batch_sizes: tuple[int, ...] = (1, 7, 32)
    device: torch.device = torch.device("cpu")
    trust: bool = False
    seed: int = 0
    backends: tuple[str, ...] = ()
    """The runtimes to run artifacts by, as the registry spells them; none named: all that are installed."""
    localise: bool = False
    """Whether to compare block by block even where nothing fails."""
    max_accuracy_drop: float | None = None
    """In percentage points: a candidate fails unless its accuracy is shown to drop by no more; needs labels."""
    quick: bool = False
    """Whether to compare files alone, and no outputs: what cannot be rebuilt here is skipped then."""
    from_scratch: bool = False
    """Whether to measure again, from its data, what an export measured: calibration and the fold's proof."""
    cache: bool = True
    """Whether references are kept from one run to the next."""
    which: Which | None = None
    """Of the checkpoint's weights: None for those that a manifest tells of, without one for their average where there is one."""
    source: Source | None = None
    """The network that artifacts should be, in place of `checkpoint`: the only way to one that is in memory alone."""

    said: SpecOptions = NOTHING_SAID
    """Of the images and classes of a file without a manifest, in place of what its checkpoint says."""

    @property
    def given(self) -> Source | Path | None:
        return self.source or self.checkpoint

    def __post_init__(self) -> None:
        if self.source is not None and self.checkpoint is not None:
            raise InputError("A source and a checkpoint were given, and each says what the network is;", "leave one out.")
        if self.images < 1:
            raise InputError(f"--images takes a number of images, not {self.images}.")
        if not self.batch_sizes or min(self.batch_sizes) < 1 or max(self.batch_sizes) > MOST_BATCH:
            raise InputError(f"--batch takes batch sizes from 1 to {MOST_BATCH:,}, such as --batch 1,7,32.")


@dataclass(frozen=True)
class Candidate:
    """An artifact's verdict, with the measurements behind it. What was not measured is None, and `reason` says why."""

    artifact: Path
    backend: str
    precision: str
    status: Verdict
    reason: str | None
    computed_precision: str | None = None
    reference: str | None = None
    weights: WeightsReport | None = None
    outputs: OutputsReport | None = None
    further: tuple[FurtherOutput, ...] = ()
    """What is given beside the logits."""
    sizes: tuple[SizeResult, ...] = ()
    """The outputs at other sizes of images, where these are free."""
    localisation: Localisation | None = None
    graph: GraphReport | None = None
    coverage: Coverage = "outputs"
    """How much of the artifact was compared: see `ReadBack`."""
    notices: tuple[str, ...] = ()
    """What is to be said of how it ran, whatever the verdict."""
    steps: tuple[Step, ...] = ()
    """What keeping places in float32 gives and costs, as the export measured it."""


@dataclass(frozen=True)
class Verification:
    references: list[Reference]
    candidates: list[Candidate]

    @property
    def passed(self) -> bool:
        """At least one artifact passed, and none failed."""
        return self.exit_status == 0

    @property
    def exit_status(self) -> int:
        """0: passed; 1: something failed; 3: nothing could be verified here."""
        statuses = {candidate.status for candidate in self.candidates}
        return 1 if "fail" in statuses else 0 if "pass" in statuses else 3


class References:
    """The references of several artifacts, each network's computed once."""

    def __init__(self, options: VerifyOptions, progress: Progress) -> None:
        self._options, self._progress = options, progress
        self._known: dict[tuple[str, NetworkSpec], Reference] = {}

    @property
    def all(self) -> list[Reference]:
        return list(self._known.values())

    def of(self, source: Source) -> Reference:
        key = (source.weights.key, source.spec)
        if key not in self._known:
            pixels, labels, where = pixels_for(source.spec, self._options, source.weights)
            if source.trained_on is not None and where.endswith("noise"):
                remark(f"This checkpoint was trained on {source.trained_on}, as its file says: name it with --data.")
            # The hash of a module's state says nothing of what it computes with it.
            is_known = source.weights.kind != "module"
            compute = cached_reference if self._options.cache and is_known else reference_of
            self._known[key] = compute(
                self._identifier(source),
                source,
                pixels,
                where,
                self._options.batch_sizes,
                self._progress,
                None if labels is None else labels.numpy(),
            )
        return self._known[key]

    def _identifier(self, source: Source) -> str:
        """Such as `iresnet50-1a2b3c4d`; the same weights with another spec, of another image size say, are numbered."""
        name = f"{source.spec.name}-{source.weights.sha256[:8]}"
        namesakes = sum(reference.id.startswith(name) for reference in self._known.values())
        return f"{name}-{namesakes + 1}" if namesakes else name


def verify(paths: Sequence[Path], options: VerifyOptions, progress: Progress = no_progress) -> Verification:
    """Verifies every artifact; raises InputError for wrong use, and records everything that is wrong with an artifact."""
    images_given = options.data is not None and not options.from_scratch
    if options.quick and (options.localise or options.max_accuracy_drop is not None or options.backends or images_given):
        raise InputError("--quick compares files alone: no --data, --backend, --localise or --max-accuracy-drop goes with it.")
    artifacts = [open_artifact(path) for path in paths]
    require_settings_used(options.backends, options.device, [artifact.format for artifact in artifacts])
    if options.max_accuracy_drop is not None:
        _require_labels(artifacts, options, options.max_accuracy_drop)
    if options.from_scratch:
        _require_measured(artifacts, options)
    references = References(options, progress)
    candidates = []
    for artifact in artifacts:
        runtimes = () if options.quick else runtimes_for(artifact.format, options.backends)
        candidates += verify_artifact(artifact, runtimes, options, references, progress)
    return Verification(references.all, candidates)


def verify_artifact(
    artifact: Artifact, runtimes: Sequence[Runtime], options: VerifyOptions, references: References, progress: Progress
) -> list[Candidate]:
    """The verdicts on an artifact as each runtime runs it. What it holds is read once."""
    precision = artifact.precision

    def all_fail(error: Exception) -> list[Candidate]:
        labels = [_NO_RUNTIME] if options.quick else [runtime.label for runtime in runtimes]
        return [Candidate(artifact.path, label, precision, "fail", str(error)) for label in labels]

    try:
        return _verdicts(artifact, runtimes, options, references, progress, all_fail)
    except (IResNetError, MemoryError):
        raise
    except Exception as error:
        return all_fail(CheckFailedError(f"a check itself ended in an error: {named_line(error)}"))


def _verdicts(
    artifact: Artifact,
    runtimes: Sequence[Runtime],
    options: VerifyOptions,
    references: References,
    progress: Progress,
    all_fail: Callable[[Exception], list[Candidate]],
) -> list[Candidate]:
    precision = artifact.precision
    try:
        if artifact.manifest is not None:
            artifact.require_intact()
        source = source_of_artifact(artifact, options.given, options.which, options.said)
        if format_named(artifact.format).native:
            require_trusted(artifact, options.trust)
    except StaleManifestError as error:
        return all_fail(error)
    try:
        deployment = Deployment(source, artifact.manifest)
        found = read_back(artifact, deployment, progress)
        if options.from_scratch and was_measured(artifact) and found.reason is None:
            found = dataclasses.replace(found, reason=not_repeated(artifact, source, options.data, progress), is_repeated=True)
    except (InputError, ExportError, StaleManifestError) as error:  # a damaged file, parent or manifest
        return all_fail(error)

    if options.quick:
        limit = None if found.reason else found.unlike or found.limit()
        unseen = None if limit is None else f"not comparable: {limit}" if found.unlike else f"without --quick it is {limit}"
        status: Verdict = "fail" if found.reason else "skipped" if limit else "pass"
        read: dict[str, Any] = {"weights": found.weights, "graph": found.graph, "coverage": found.coverage}
        read["steps"] = _steps(artifact, status)
        read["notices"] = (*said_by_options(artifact), *((REPEATED,) if found.is_repeated and not found.reason else ()))
        return [Candidate(artifact.path, _NO_RUNTIME, found.stored or precision, status, found.reason or unseen, **read)]

    @functools.cache
    def criterion_of(computed: str) -> tuple[Reference, Criterion]:
        reference = references.of(source)
        criterion = criterion_for(computed, deployment, reference, options.batch_sizes, progress)
        return reference, dataclasses.replace(criterion, max_accuracy_drop=options.max_accuracy_drop)

    @functools.cache
    def expected_of(computed: str, names: tuple[OutputName, ...]) -> Expected:
        return expected_outputs(names, deployment, references.of(source), computed, options.batch_sizes, progress)

    held_against = (criterion_of, expected_of, references.of)
    return [_verdict(artifact, runtime, deployment, found, *held_against, options, progress) for runtime in runtimes]


def _steps(artifact: Artifact, status: Verdict) -> tuple[Step, ...]:
    """Of what passed: of any other nothing that its manifest says is known to be so."""
    codes = None if artifact.manifest is None or status != "pass" else artifact.manifest.details.quantization
    return () if codes is None else codes.steps


def _verdict(
    artifact: Artifact,
    runtime: Runtime,
    deployment: Deployment,
    held: ReadBack,
    criterion_of: Callable[[str], tuple[Reference, Criterion]],
    expected_of: Callable[[str, tuple[OutputName, ...]], Expected],
    reference_of: Callable[[Source], Reference],
    options: VerifyOptions,
    progress: Progress,
) -> Candidate:
    """`held`: what the file holds. What outputs are held against, by the precision that is computed in: `criterion_of` the logits,
    `expected_of` those beside them, `reference_of` those for images of other sizes."""
    precision, wrong, is_foreign = held.stored or artifact.precision, held.reason, artifact.manifest is None

    def verdict(status: Verdict, reason: str | None, **measured: Any) -> Candidate:
        found = {
            "weights": held.weights,
            "graph": held.graph,
            "coverage": held.coverage,
            "steps": _steps(artifact, status),
            **measured,
        }
        return Candidate(artifact.path, runtime.label, precision, status, reason, **found)

    if not held.is_comparable:
        return verdict("fail", wrong)
    if held.unlike is not None:
        return verdict("skipped", f"not comparable: {held.unlike}")
    try:
        session = runtime.load(artifact, options.device, trust=options.trust)
    except UnavailableError as error:
        return verdict("fail" if wrong else "skipped", wrong or str(error))
    except ArtifactError as error:
        return verdict("fail", wrong or f"it does not load: {error}")
    computed = session.computed_precision
    if computed != precision and not (precision == "fp32" and computed == "tf32"):  # which nothing does unasked
        session.close()
        unlike = f"it stores {precision}, and {runtime.label} would compute it in {computed} here: nothing is said of {precision}"
        return verdict("fail" if wrong else "skipped", wrong or unlike, computed_precision=computed)
    if is_foreign and (images := other_images(session, deployment.source.spec)) is not None:
        session.close()
        return verdict("fail" if wrong else "skipped", wrong or f"not comparable: {images}", computed_precision=computed)
    reference, criterion = criterion_of(computed)
    try:
        with session:
            outputs = compare_outputs(session, reference, criterion, options.batch_sizes, progress, is_foreign=is_foreign)
            is_rebuilt, told = held.coverage == "whole file", outputs_of(artifact)
            sizes, further = options.batch_sizes, tuple[FurtherOutput, ...]()
            beside = interface_reason(session, reference, artifact.manifest, told, sizes, is_rebuilt=is_rebuilt)
            if beside is None and told is not None and told != (LOGITS,):
                require_had(told, deployment.source.spec)
                further = compare_further(session, told, expected_of(computed, told[1:]), sizes, progress)
            limit = held.limit(f"{criterion.images} images")
            sizes_free = sides_of(artifact) is not None and beside is None
            others = (session, told or (LOGITS,), deployment, reference_of, computed, sizes, progress)
            by_size = tuple(compare_sizes(*others)) if sizes_free else ()
            unknown = not_compared(session, reference, sizes) if told is None else None
            notices = (
                *([elsewhere] if (elsewhere := calibrated_elsewhere(deployment, by_size)) else []),
                *([unknown] if unknown else []),
                *session.notices,
                *([limit] if limit else []),
                *said_by_options(artifact),
                *([REPEATED] if held.is_repeated and not held.reason else []),
            )
    except UnavailableError as error:
        return verdict("fail" if wrong else "skipped", wrong or str(error), computed_precision=computed, reference=reference.id)
    except MemoryError:
        raise
    except Exception as error:  # a runtime's own error types are many: whatever it raises, the artifact does not run
        if is_foreign and not wrong and takes_channels_last(session, reference):
            unlike = "not comparable: it takes images with their channels last (NHWC), and they are given channels first (NCHW)"
            return verdict("skipped", unlike, computed_precision=computed, reference=reference.id)
        failure = f"it does not run: {error if isinstance(error, IResNetError) else named_line(error)}"
        return verdict("fail", f"{wrong}; {failure}" if wrong else failure, computed_precision=computed, reference=reference.id)
    besides = (*(output.reason for output in further), *(size.reason for size in by_size))
    reason = "; ".join(text for text in (wrong, outputs.reason, beside, *besides) if text) or None
    status: Verdict = "fail" if reason else "pass"
    measured = {
        "computed_precision": computed,
        "reference": reference.id,
        "outputs": outputs,
        "notices": notices,
        "further": further,
        "sizes": by_size,
    }
    if not (reason or options.localise):
        return verdict(status, reason, **measured)
    try:
        found = localise(artifact, runtime, deployment, reference, computed, options.device, options.trust, progress, session.batch)
    except Exception as error:  # the verdict stands, whatever looking inside takes
        unknown = f"where it departs could not be looked for: {named_line(error)}"
        return verdict(status, f"{reason}; {unknown}" if reason else unknown, **measured)
    if found is not None and found.first is None and (outputs.noise_ratio or 0.0) > NOISE_LIMIT and found.is_whole:
        found = dataclasses.replace(found, first=OUTPUT)
    if reason and found is not None and found.first is not None:
        reason = f"{reason}; it departs in {found.first}"
    return verdict(status, reason, localisation=found, **measured)


def said_by_options(artifact: Artifact) -> list[str]:
    """What of the spec is not the checkpoint's word, in one notice."""
    said = None if artifact.manifest is None else artifact.manifest.details.settings.spec
    return [] if said is None else [f"set by options of its export, and not by its checkpoint: {said.in_words}"]


def _require_measured(artifacts: Sequence[Artifact], options: VerifyOptions) -> None:
    """InputError where there is nothing to measure again, or its data are not here."""
    measured = [artifact for artifact in artifacts if was_measured(artifact)]
    if not measured:
        raise InputError(
            f"--from-scratch measures again what an export measured, and that of {artifacts[0].path} measured nothing: it has no "
            "manifest, or neither a fold nor codes;",
            "leave it out.",
        )
    for artifact in measured:
        data_of(artifact, subject_of(artifact, options.checkpoint, options.which, options.said), options.data)


def _require_labels(artifacts: Sequence[Artifact], options: VerifyOptions, limit: float) -> None:
    if not 0 < limit <= 100:
        raise InputError(
            f"--max-accuracy-drop takes percentage points, more than 0 and up to 100, not {limit:g}: that nothing at all is lost "
            "cannot be shown with any number of images."
        )
    from iresnet_data.datasets import has_labels

    for artifact in artifacts:
        subject = subject_of(artifact, options.given, options.which, options.said)
        data = chosen_data(options.data, subject.spec, subject.weights, held_out=True)
        if data is None or not has_labels(data):
            found = "seeded noise" if data is None else f"the images of {Path(data).name}"
            raise InputError(
                f"--max-accuracy-drop needs images whose classes are known, and {artifact.path} would be compared over {found}, "
                "without labels.",
                "Name a folder that holds one folder of images for every class with --data.",
            )


def pixels_for(spec: NetworkSpec, options: VerifyOptions, weights: Weights | None = None) -> tuple[Tensor, Tensor | None, str]:
    """Held-out images of the network's data set as pixels (n, h, w, 3), their labels if there are any, and what they are.

    `weights`: whose training may be remembered here.
    """
    data = chosen_data(options.data, spec, weights, held_out=True)
    named = is_named(options.data, spec)
    if data is None:
        return noise_pixels(spec, options.images, options.seed), None, f"{options.images} images of seeded noise"
    from iresnet_data.datasets import evaluation_pixels

    try:
        pixels, labels = evaluation_pixels(data, spec, options.images, seed=options.seed)
        if not named and len(pixels) < MINIMUM_IMAGES <= options.images:
            raise InputError(f"They are {len(pixels)}, and parity is measured over at least {MINIMUM_IMAGES}.")
    except InputError as error:
        if named or options.max_accuracy_drop is not None:
            raise
        # Nobody named these images in this command: what became of them is no reason to fail.
        remark(f"Seeded noise is taken in place of these images: {error}")
        return noise_pixels(spec, options.images, options.seed), None, f"{options.images} images of seeded noise"
    return pixels, labels, f"{len(pixels)} held-out images of {short_name(data)}"
