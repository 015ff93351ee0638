"""What an artifact holds, whichever runtime runs it: rebuilt from its checkpoint and compared whole, or read back and compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from iresnet_export.artifacts.artifact import Artifact, Manifest, embedded_identity
from iresnet_export.artifacts.metadata import contradiction
from iresnet_export.backends.base import ExportJob, Format
from iresnet_export.backends.registry import format_named
from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.graph.compare import Comparison, GraphReport, WeightsReport, compare, same_as
from iresnet_export.graph.ir import KINDS
from iresnet_export.system.environment import versions
from iresnet_export.system.progress import Progress
from iresnet_export.verification.deployment import Deployment

Coverage = Literal["whole file", "parent", "graph", "outputs"]


@dataclass(frozen=True)
class ReadBack:
    """`weights` and `graph` are None where they cannot be read back. `reason` says what is wrong with them, if anything.

    `coverage`: how much of the artifact was compared. The whole file, with the one that its checkpoint and manifest give; the same
    of the parent that it was compiled from; its graph with all weights; or nothing but outputs. `is_comparable`: whether it takes
    the images that it should, so that its outputs can be compared at all.
    """

    weights: WeightsReport | None
    graph: GraphReport | None
    reason: str | None
    coverage: Coverage = "outputs"
    is_comparable: bool = True

    @property
    def limit(self) -> str | None:
        """What a pass does not say; None where nothing is left to say."""
        return _LIMITS[self.coverage]


_LIMITS: dict[Coverage, str | None] = {
    "whole file": None,
    "parent": "compiled code: what it was compiled from is the network, whole; itself it is compared by its outputs",
    "graph": "compared by its graph, weights and outputs: without a manifest of these versions no file is rebuilt",
    "outputs": "compared by its outputs alone: of what no image of these shows, nothing is said",
}


def read_back(artifact: Artifact, deployment: Deployment, progress: Progress) -> ReadBack:
    """Compares an artifact that is trusted with what it should hold.

    Raises ArtifactError, ExportError or StaleManifestError for a damaged file, parent or manifest.
    """
    progress("Weights and graph", 0.0)
    contradicted = contradiction(artifact, deployment.source.trained_spec or deployment.source.spec)
    if contradicted is not None:
        return ReadBack(None, None, contradicted, is_comparable=False)
    format = format_named(artifact.format)
    is_compiled = format.parent is not None
    if is_compiled:
        if artifact.manifest is None or artifact.manifest.parent is None:
            return ReadBack(None, None, None)
        artifact = artifact.parent()
        format, deployment = format_named(artifact.format), Deployment(deployment.source, artifact.manifest)
    manifest = artifact.manifest
    difference = None if manifest is None else _difference(artifact, format, manifest, deployment, progress)
    if manifest is not None and difference is None:
        progress("Weights and graph", 1.0)
        same = same_as(deployment.graph)
        return ReadBack(same.weights, same.graph, None, "parent" if is_compiled else "whole file")
    found = format.read(artifact)
    if found is None:
        raise ArtifactError(f"The weights of {artifact.path} cannot be read back.")
    comparison = compare(deployment.graph, found)
    progress("Weights and graph", 1.0)
    if manifest is None:
        coverage: Coverage = "graph" if comparison.weights.matched and comparison.graph.first_difference is None else "outputs"
        return ReadBack(comparison.weights, comparison.graph, _foreign_reason(comparison, found.kinds), coverage)
    reasons = [
        f"{what}: {report.first_difference}"
        for what, report in (("weights", comparison.weights), ("graph", comparison.graph))
        if report.first_difference is not None
    ]
    if not reasons and not _made_by_others(manifest):
        reasons = [f"whole file: rebuilt from its checkpoint and manifest it is another one: {difference}"]
    return ReadBack(comparison.weights, comparison.graph, "; ".join(reasons) or None, "outputs" if is_compiled else "graph")


def _difference(artifact: Artifact, format: Format, manifest: Manifest, deployment: Deployment, progress: Progress) -> str | None:
    """The first thing in which the file is not the one that its checkpoint and manifest give; None where it is, bit by bit."""
    try:
        options = format.options_of(manifest)
        batch = format.batch_range(options)
    except InputError as error:
        raise ArtifactError(f"The manifest of {artifact.path} tells of an export that cannot be: {error}") from error
    if manifest.batch != batch:
        raise ArtifactError(
            f"The manifest of {artifact.path} says that it takes batches of {manifest.batch}, which no export of this format does.",
            "Export it again.",
        )
    identity = embedded_identity(manifest.spec, manifest.weights, manifest.precision, manifest.fold, manifest.with_preprocessing)
    job = ExportJob(deployment.network, artifact.path, options, identity, deployment.quantization)
    expected = format.content(job)
    if expected is None:
        raise AssertionError(f"{format.name} is built from no other format, and cannot be rebuilt")
    progress("Weights and graph", 0.6)
    found = artifact.path.read_bytes()
    return None if expected == found else format.difference(expected, found)


def _made_by_others(manifest: Manifest) -> bool:
    """Whether another version of this project, or of what it writes files by, made the artifact."""
    here = versions()
    return any(manifest.versions.get(name) != here.get(name) for name in ("iresnet-export", "torch", "onnx"))


def _foreign_reason(comparison: Comparison, kinds: set[str]) -> str | None:
    """A foreign artifact may have fused its layers, or wired them otherwise: its outputs decide then.

    Where it holds the network's layers one for one, it must hold their weights, and nothing that the network has not.
    """
    if not comparison.weights.matched:
        return None
    if not comparison.weights.passed:
        return f"weights: {comparison.weights.first_difference}"
    unknown = sorted(kinds - set(KINDS))
    if unknown:
        return f"graph: beside the network's layers it computes {', '.join(unknown)}, which may depend on what no image here shows"
    return None
