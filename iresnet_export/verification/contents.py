"""What an artifact holds, whichever backend runs it: weights, graph and identity, read back and compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from iresnet_export.artifact import Artifact
from iresnet_export.backends import backends_for
from iresnet_export.errors import ArtifactError
from iresnet_export.identity import contradiction
from iresnet_export.layers import layers_of_network
from iresnet_export.observing import GraphReport, compare_graphs, operations_of_network
from iresnet_export.progress import Progress
from iresnet_export.quantization.parameters import quantized_layers
from iresnet_export.source import Source
from iresnet_export.verification.criteria import quantization_of
from iresnet_export.verification.fold import deployed_network
from iresnet_export.verification.weights import WeightsReport, compare_layers


@dataclass(frozen=True)
class Contents:
    """`weights` and `graph` are None where they cannot be read back. `complaint` says what is wrong with them, if anything."""

    weights: WeightsReport | None
    graph: GraphReport | None
    complaint: str | None


def contents_of(artifact: Artifact, source: Source, progress: Progress) -> Contents:
    """Reads an artifact that is trusted back, and holds it against its source.

    Raises ArtifactError or StaleManifestError for a damaged file, parent or manifest.
    """
    weights, graph = _read_back(artifact, source, progress)
    complaints = [contradiction(artifact, source.trained_spec or source.spec)]
    foreign = artifact.manifest is None
    if weights is not None and not weights.passed and (weights.matched or not foreign):
        complaints.append(f"weights: {weights.first_difference}")
    if graph is not None and graph.first_difference is not None and not foreign:
        # A foreign artifact may have fused its layers, or wired them otherwise; its outputs decide then.
        complaints.append(f"graph: {graph.first_difference}")
    return Contents(weights, graph, "; ".join(filter(None, complaints)) or None)


def _read_back(artifact: Artifact, source: Source, progress: Progress) -> tuple[WeightsReport | None, GraphReport | None]:
    """From the artifact, or where its format hides them, from the one that it was built from, as an engine from its ONNX file."""
    progress("Weights and graph", 0.0)
    holder = artifact
    if backends_for(artifact.format)[0].parent_format is not None:
        if artifact.manifest is None or artifact.manifest.parent is None:
            return None, None
        holder = artifact.parent()
    observer = backends_for(holder.format)[0].observer(holder, torch.device("cpu"), trust=True)
    if observer is None:
        raise ArtifactError(f"The weights of {holder.path} cannot be read back.")
    network = deployed_network(source, holder.manifest)
    expected, quantization = layers_of_network(network), quantization_of(holder.manifest)
    weights = compare_layers(expected if quantization is None else quantized_layers(expected, quantization), observer.layers)
    progress("Weights and graph", 0.7)
    graph = compare_graphs(operations_of_network(network)[0], observer.operations)
    progress("Weights and graph", 1.0)
    return weights, graph
