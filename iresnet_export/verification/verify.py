"""Verification of artifacts: descent, weights, outputs; one verdict each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, open_artifact
from iresnet_export.backends import backends_for
from iresnet_export.backends.base import Backend, Progress, no_progress, require_trusted
from iresnet_export.errors import ArtifactError, IResNetError, StaleDescentError, UnavailableError
from iresnet_export.layers import layers_of_network
from iresnet_export.source import Source, source_of_artifact
from iresnet_export.verification.fold import deployed_network
from iresnet_export.verification.outputs import OutputsReport, compare_outputs
from iresnet_export.verification.reference import Reference, reference_of
from iresnet_export.verification.weights import WeightsReport, compare_layers
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


@dataclass(frozen=True)
class Candidate:
    """An artifact's verdict, with the measurements behind it. What was not measured is None, and `reason` says why."""

    artifact: Path
    backend: str
    precision: str
    status: Status
    reason: str | None
    reference: str | None = None
    weights: WeightsReport | None = None
    outputs: OutputsReport | None = None


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
            images, where = images_for(source.spec, self._options)
            identifier = f"{source.spec.name}-{source.weights.sha256[:8]}"
            self._known[key] = reference_of(identifier, source, images, where, self._options.batch_sizes, self._progress)
        return self._known[key]


def verify(paths: Sequence[Path], options: VerifyOptions, progress: Progress = no_progress) -> Verification:
    """Verifies every artifact; raises InputError for wrong use, and records everything that is wrong with an artifact."""
    artifacts = [open_artifact(path) for path in paths]
    references = References(options, progress)
    candidates = [verify_one(artifact, options, references, progress) for artifact in artifacts]
    return Verification(references.all, candidates)


def verify_one(artifact: Artifact, options: VerifyOptions, references: References, progress: Progress) -> Candidate:
    """One artifact's verdict. An engine's weights are those of the ONNX file that it was built from."""
    backend = backends_for(artifact.format)[0]
    precision = artifact.descent.precision if artifact.descent else "fp32"

    def verdict(status: Status, reason: str | None, **measured: Any) -> Candidate:
        return Candidate(artifact.path, backend.name, precision, status, reason, **measured)

    try:
        if artifact.descent is not None:
            artifact.require_intact()
        source = source_of_artifact(artifact, options.checkpoint)
        if backend.native:
            require_trusted(artifact, options.trust)
        weights = _weights(artifact, backend, source, progress)
    except StaleDescentError as error:
        return verdict("fail", str(error))
    wrong = _wrong_weights(artifact, weights)
    try:
        session = backend.load(artifact, options.device, trust=options.trust)
    except UnavailableError as error:
        return verdict("fail" if wrong else "skipped", wrong or str(error), weights=weights)
    except ArtifactError as error:
        return verdict("fail", wrong or f"it does not load: {error}", weights=weights)
    reference = references.of(source)
    try:
        with session:
            outputs = compare_outputs(session, reference, options.batch_sizes, progress)
    except (IResNetError, KeyboardInterrupt):
        raise
    except Exception as error:  # a runtime's own error types are many: whatever it raises, the artifact does not run
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        failure = f"it does not run: {type(error).__name__}: {first}"
        return verdict("fail", wrong or failure, weights=weights, reference=reference.id)
    reason = "; ".join(text for text in (wrong, outputs.reason) if text) or None
    return verdict("fail" if reason else "pass", reason, reference=reference.id, weights=weights, outputs=outputs)


def _wrong_weights(artifact: Artifact, weights: WeightsReport | None) -> str | None:
    """Why the weights are unacceptable, if they are. A foreign artifact may have fused its layers; its outputs decide then."""
    if weights is None or weights.passed or (artifact.descent is None and not weights.matched):
        return None
    return f"weights: {weights.first_difference}"


def _weights(artifact: Artifact, backend: Backend, source: Source, progress: Progress) -> WeightsReport | None:
    """Read back from the artifact, or where its format hides them, from the one that it was built from."""
    progress("Weights", 0.0)
    layers = backend.layers(artifact)
    if layers is None:
        if artifact.descent is None or artifact.descent.parent is None:
            return None
        artifact = artifact.parent()
        layers = backends_for(artifact.format)[0].layers(artifact)
        if layers is None:
            raise ArtifactError(f"The weights of {artifact.path} cannot be read back.")
    report = compare_layers(layers_of_network(deployed_network(source, artifact.descent)), layers)
    progress("Weights", 1.0)
    return report


def images_for(spec: ModelSpec, options: VerifyOptions) -> tuple[Tensor, str]:
    """Held-out images of the network's data set as its inputs, and in words what they are."""
    data = options.data or spec.data
    if data is None:
        generator = torch.Generator().manual_seed(options.seed)
        noise = torch.randn(options.images, 3, spec.image_size, spec.image_size, generator=generator)
        return noise, f"{options.images} images of seeded noise"
    from iresnet_train.data import evaluation_images

    images, _ = evaluation_images(data, spec, options.images, seed=options.seed)
    name = data if data == "digits" else Path(data).name
    return images, f"{len(images)} held-out images of {name}"
