"""What an artifact holds, whichever runtime runs it: weights, graph and metadata, read back and compared."""

from __future__ import annotations

from dataclasses import dataclass

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.metadata import contradiction
from iresnet_export.backends.registry import format_named
from iresnet_export.errors import ArtifactError
from iresnet_export.graph.compare import Comparison, GraphReport, WeightsReport, compare
from iresnet_export.system.progress import Progress
from iresnet_export.verification.deployment import Deployment


@dataclass(frozen=True)
class ReadBack:
    """`weights` and `graph` are None where they cannot be read back. `reason` says what is wrong with them, if anything."""

    weights: WeightsReport | None
    graph: GraphReport | None
    reason: str | None


def read_back(artifact: Artifact, deployment: Deployment, progress: Progress) -> ReadBack:
    """Reads an artifact that is trusted back, and compares it with what it should hold.

    Raises ArtifactError or StaleManifestError for a damaged file, parent or manifest.
    """
    source, foreign = deployment.source, artifact.manifest is None
    found = _compared(artifact, deployment, progress)
    reasons = [contradiction(artifact, source.trained_spec or source.spec)]
    if found is None:
        return ReadBack(None, None, reasons[0])
    if not found.weights.passed and (found.weights.matched or not foreign):
        reasons.append(f"weights: {found.weights.first_difference}")
    if found.graph.first_difference is not None and not foreign:
        # A foreign artifact may have fused its layers, or wired them otherwise; its outputs decide then.
        reasons.append(f"graph: {found.graph.first_difference}")
    return ReadBack(found.weights, found.graph, "; ".join(filter(None, reasons)) or None)


def _compared(artifact: Artifact, deployment: Deployment, progress: Progress) -> Comparison | None:
    """Of the artifact, or where its format hides what it holds, of the one that it was built from."""
    progress("Weights and graph", 0.0)
    if format_named(artifact.format).parent is not None:
        if artifact.manifest is None or artifact.manifest.parent is None:
            return None
        artifact = artifact.parent()
        deployment = Deployment(deployment.source, artifact.manifest)
    found = format_named(artifact.format).read(artifact)
    if found is None:
        raise ArtifactError(f"The weights of {artifact.path} cannot be read back.")
    progress("Weights and graph", 0.5)
    comparison = compare(deployment.graph, found)
    progress("Weights and graph", 1.0)
    return comparison
