"""What an artifact should hold: its source's network, folded, cast and quantized as its manifest says. Made once in a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
import torch
from torch import nn

from iresnet_export.artifacts.manifest import Manifest
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.pt2.format import example_of, program_of
from iresnet_export.backends.pt2.runtime import ProgramProbe
from iresnet_export.errors import ArtifactError
from iresnet_export.graph.ir import Graph
from iresnet_export.graph.network import NetworkProbe
from iresnet_export.graph.probe import Probe
from iresnet_export.quantization.codes import Quantization, quantized_graph
from iresnet_export.quantization.schemes import QUANTIZED
from iresnet_models.deployed import DTYPES, Deployable, deployed, with_probabilities
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.outputs import LOGITS, OutputName, require_had
from iresnet_models.spec import NetworkSpec


def probe_of(
    network: nn.Module, spec: NetworkSpec, batch: tuple[int, int] | None = None, sides: tuple[int, int] | None = None
) -> Probe:
    """A network in PyTorch, traced with the names of its modules; for batches of any size unless one is given, and images of the
    spec's size unless `sides` are free.

    Networks of this project's own layers are traced by torch.fx, others by torch.export; ExportError where that cannot be.
    """
    if isinstance(network, Deployable):
        return NetworkProbe(network)
    dtype = next(network.parameters()).dtype
    example = example_of(spec, None if batch is None else batch[0], sides).to(dtype)
    program = program_of(network, example, dynamic_batch=batch is None, sides=sides)
    return ProgramProbe(program, torch.device("cpu"))


def as_exported(
    source: Source,
    plan: FoldPlan | None,
    dtype: torch.dtype = torch.float32,
    *,
    with_preprocessing: bool,
    outputs: Sequence[OutputName],
) -> nn.Module:
    """A source's network as a file of these settings holds it; InputError where it has no such outputs."""
    require_had(outputs, source.spec)
    if source.weights.kind == "module" and plan is None and dtype is torch.float32 and not with_preprocessing:
        return source.network if tuple(outputs) == (LOGITS,) else with_probabilities(source.network)
    return deployed(source.own, plan, dtype, with_preprocessing=with_preprocessing, outputs=outputs)


@dataclass(frozen=True)
class Deployment:
    """Of an artifact with a manifest, or of a foreign one, which should hold the source's network as it is.

    Each part is computed when it is first asked for; ArtifactError where a damaged manifest does not tell how.
    """

    source: Source
    manifest: Manifest | None

    @cached_property
    def network(self) -> nn.Module:
        manifest, plan = self.manifest, None
        if manifest is None:
            return self.source.network
        if manifest.fold:
            if manifest.details.fold is None:
                raise ArtifactError(f"The manifest of {manifest.file} tells of a fold but holds no plan of it.", "Export it again.")
            plan = manifest.details.fold.plan
        dtype = DTYPES.get(manifest.precision, torch.float32)
        return as_exported(self.source, plan, dtype, with_preprocessing=manifest.with_preprocessing, outputs=manifest.outputs)

    @cached_property
    def quantization(self) -> Quantization | None:
        """The scales of a quantized artifact; None for floating-point ones."""
        manifest = self.manifest
        if manifest is None or manifest.precision not in QUANTIZED:
            return None
        found = manifest.details.quantization
        if found is None:
            raise ArtifactError(f"The manifest says that the artifact is in {manifest.precision}, and not how.", "Export it again.")
        if found.precision != manifest.precision:
            raise ArtifactError(
                f"The manifest says that the artifact is in {manifest.precision}, and that it is quantized to {found.precision}.",
                "Export it again.",
            )
        return found

    @cached_property
    def floating_model(self) -> onnx.ModelProto:
        """The graph that is quantized, before it is."""
        from iresnet_export.backends.onnx.writing import onnx_from_network

        assert isinstance(self.network, Deployable)  # a quantized artifact is of no other
        return onnx_from_network(self.network)

    @cached_property
    def quantized_model(self) -> onnx.ModelProto:
        """The quantized graph; ArtifactError or ExportError where the manifest's quantization is not one of this network."""
        from iresnet_export.quantization.placement import quantized_onnx

        if self.quantization is None:
            raise ArtifactError("Only int8 and fp8 artifacts have a quantized graph.")
        return quantized_onnx(self.floating_model, self.quantization)

    @cached_property
    def probe(self) -> Probe:
        """The network's own graph, its places and its inner values."""
        batch, sides = (None, None) if self.manifest is None else (self.manifest.batch, self.manifest.sides)
        return probe_of(self.network, self.source.spec, batch, sides)

    @cached_property
    def graph(self) -> Graph:
        """What the file should hold."""
        graph = self.probe.graph
        return graph if self.quantization is None else quantized_graph(graph, self.quantization)

    @property
    def outputs(self) -> tuple[OutputName, ...]:
        """What it gives, in order."""
        return (LOGITS,) if self.manifest is None else self.manifest.outputs

    @property
    def with_preprocessing(self) -> bool:
        return self.manifest is not None and self.manifest.with_preprocessing
