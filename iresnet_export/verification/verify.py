"""Verification of artifacts: descent, weights, outputs; one verdict each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, open_artifact
from iresnet_export.backends import backends_for, runners
from iresnet_export.backends.base import Backend, require_trusted
from iresnet_export.errors import ArtifactError, InputError, IResNetError, StaleDescentError, UnavailableError
from iresnet_export.identity import contradiction
from iresnet_export.layers import layers_of_network
from iresnet_export.observing import GraphReport, compare_graphs, operations_of_network
from iresnet_export.progress import Progress, no_progress
from iresnet_export.quantization.parameters import quantized_layers
from iresnet_export.source import Source, source_of_artifact
from iresnet_export.verification.accuracy import spec_of
from iresnet_export.verification.criteria import criterion_for, quantization_of
from iresnet_export.verification.fold import deployed_network
from iresnet_export.verification.localisation import Localisation, localise
from iresnet_export.verification.outputs import OutputsReport, compare_outputs
from iresnet_export.verification.reference import Reference, reference_of
from iresnet_export.verification.reference_cache import cached_reference
from iresnet_export.verification.weights import WeightsReport, compare_layers
from iresnet_models.preprocessing import noise_pixels
from iresnet_models.spec import ModelSpec

Status = Literal["pass", "fail", "skipped"]


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
    """The backends to run artifacts by; none named: all that are installed."""
    localise: bool = False
    """Whether to compare block by block even where nothing fails."""
    max_accuracy_drop: float | None = None
    """In percentage points: a candidate fails unless its accuracy is shown to drop by no more; needs labels."""
    cache: bool = True
    """Whether references are kept from one run to the next."""


@dataclass(frozen=True)
class Candidate:
    """An artifact's verdict, with the measurements behind it. What was not measured is None, and `reason` says why."""

    artifact: Path
    backend: str
    precision: str
    status: Status
    reason: str | None
    computed_precision: str | None = None
    reference: str | None = None
    weights: WeightsReport | None = None
    outputs: OutputsReport | None = None
    localisation: Localisation | None = None
    graph: GraphReport | None = None


@dataclass(frozen=True)
class Verification:
    references: list[Reference]
    candidates: list[Candidate]

    @property
    def passed(self) -> bool:
        """At least one artifact passed, and none failed."""
        statuses = [candidate.status for candidate in self.candidates]
        return "pass" in statuses and "fail" not in statuses


class References:
    """The references of several artifacts, each network's computed once."""

    def __init__(self, options: VerifyOptions, progress: Progress) -> None:
        self._options, self._progress = options, progress
        self._known: dict[tuple[str, ModelSpec], Reference] = {}

    @property
    def all(self) -> list[Reference]:
        return list(self._known.values())

    def of(self, source: Source) -> Reference:
        key = (source.weights.sha256, source.spec)
        if key not in self._known:
            pixels, labels, where = pixels_for(source.spec, self._options)
            compute = cached_reference if self._options.cache else reference_of
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
    artifacts = [open_artifact(path) for path in paths]
    if options.max_accuracy_drop is not None:
        _require_labels(artifacts, options, options.max_accuracy_drop)
    references = References(options, progress)
    candidates = [
        verify_one(artifact, backend, options, references, progress)
        for artifact in artifacts
        for backend in runners(artifact.format, options.backends)
    ]
    return Verification(references.all, candidates)


def verify_one(
    artifact: Artifact, backend: Backend, options: VerifyOptions, references: References, progress: Progress
) -> Candidate:
    """The verdict on an artifact as a backend runs it. An engine's weights are those of the ONNX file that it was built from."""
    precision = artifact.descent.precision if artifact.descent else "fp32"

    def verdict(status: Status, reason: str | None, **measured: Any) -> Candidate:
        return Candidate(artifact.path, backend.name, precision, status, reason, **measured)

    try:
        if artifact.descent is not None:
            artifact.require_intact()
        source = source_of_artifact(artifact, options.checkpoint)
        if backend.native:
            require_trusted(artifact, options.trust)
    except StaleDescentError as error:
        return verdict("fail", str(error))
    try:
        weights, graph = _contents(artifact, source, progress)
        origin = contradiction(artifact, source.trained_spec or source.spec)
    except (InputError, StaleDescentError) as error:  # a damaged file, parent or descent
        return verdict("fail", str(error))
    wrong = "; ".join(text for text in (origin, _wrong_contents(artifact, weights, graph)) if text) or None
    contents = {"weights": weights, "graph": graph}
    try:
        session = backend.load(artifact, options.device, trust=options.trust)
    except UnavailableError as error:
        return verdict("fail" if wrong else "skipped", wrong or str(error), **contents)
    except ArtifactError as error:
        return verdict("fail", wrong or f"it does not load: {error}", **contents)
    computed = session.computed_precision
    if computed != precision:
        session.close()
        reason = f"it stores {precision}, and {backend.name} would compute it in {computed} here: nothing is said of {precision}"
        return verdict("fail" if wrong else "skipped", wrong or reason, computed_precision=computed, **contents)
    reference = references.of(source)
    try:
        with session:
            criterion = criterion_for(precision, artifact, reference, options.batch_sizes, progress)
            criterion = dataclasses.replace(criterion, max_accuracy_drop=options.max_accuracy_drop)
            outputs = compare_outputs(session, reference, criterion, options.batch_sizes, progress)
    except (IResNetError, KeyboardInterrupt):
        raise
    except Exception as error:  # a runtime's own error types are many: whatever it raises, the artifact does not run
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        failure = f"it does not run: {type(error).__name__}: {first}"
        return verdict("fail", wrong or failure, computed_precision=computed, reference=reference.id, **contents)
    complaint = "; ".join(text for text in (wrong, outputs.reason) if text) or None
    status: Status = "fail" if complaint else "pass"
    found = None
    if complaint or options.localise:
        found = localise(artifact, backend, reference, precision, options.device, options.trust, progress)
    if complaint and found is not None and found.first is not None:
        complaint = f"{complaint}; it departs in {found.first}"
    measured = {**contents, "reference": reference.id, "outputs": outputs, "localisation": found}
    return verdict(status, complaint, computed_precision=computed, **measured)


def _wrong_contents(artifact: Artifact, weights: WeightsReport | None, graph: GraphReport | None) -> str | None:
    """Why weights or graph are unacceptable, if they are. A foreign artifact may have fused its layers; its outputs decide then."""
    if artifact.descent is None and (weights is None or not weights.matched):
        return None
    found = [f"weights: {weights.first_difference}" for _ in (1,) if weights is not None and not weights.passed]
    if artifact.descent is not None and graph is not None and graph.first_difference is not None:
        found.append(f"graph: {graph.first_difference}")
    return "; ".join(found) or None


def _contents(artifact: Artifact, source: Source, progress: Progress) -> tuple[WeightsReport | None, GraphReport | None]:
    """Weights and graph, read back from the artifact, or where its format hides them, from the one that it was built from."""
    progress("Weights and graph", 0.0)
    reader = backends_for(artifact.format)[0]
    layers = reader.layers(artifact)
    if layers is None:
        if artifact.descent is None or artifact.descent.parent is None:
            return None, None
        artifact = artifact.parent()
        reader = backends_for(artifact.format)[0]
        layers = reader.layers(artifact)
        if layers is None:
            raise ArtifactError(f"The weights of {artifact.path} cannot be read back.")
    network = deployed_network(source, artifact.descent)
    expected, quantization = layers_of_network(network), quantization_of(artifact.descent)
    weights = compare_layers(expected if quantization is None else quantized_layers(expected, quantization), layers)
    progress("Weights and graph", 0.7)
    observer = reader.observer(artifact, torch.device("cpu"), trust=True)  # trust was asked for before
    graph = None if observer is None else compare_graphs(operations_of_network(network)[0], observer.operations)
    progress("Weights and graph", 1.0)
    return weights, graph


def _require_labels(artifacts: Sequence[Artifact], options: VerifyOptions, limit: float) -> None:
    if not 0 < limit <= 100:
        raise InputError(
            f"--max-accuracy-drop takes percentage points, more than 0 and up to 100, not {limit:g}: that nothing at all is lost "
            "cannot be shown with any number of images."
        )
    from iresnet_train.data import has_labels

    for artifact in artifacts:
        data = options.data or spec_of(artifact, options.checkpoint).data
        if data is None or not has_labels(data):
            found = "seeded noise" if data is None else f"the images of {Path(data).name}"
            raise InputError(
                f"--max-accuracy-drop needs images whose classes are known, and {artifact.path} would be compared over {found}, "
                "without labels. Name a folder that holds one folder of images for every class with --data."
            )


def pixels_for(spec: ModelSpec, options: VerifyOptions) -> tuple[Tensor, Tensor | None, str]:
    """Held-out images of the network's data set as pixels (n, h, w, 3), their labels if there are any, and what they are."""
    data = options.data or spec.data
    if data is None:
        return noise_pixels(spec, options.images, options.seed), None, f"{options.images} images of seeded noise"
    from iresnet_train.data import evaluation_pixels

    pixels, labels = evaluation_pixels(data, spec, options.images, seed=options.seed)
    name = data if data == "digits" else Path(data).name
    return pixels, labels, f"{len(pixels)} held-out images of {name}"
