"""What an artifact should hold: its source's network, folded, cast and quantized as its manifest says. Made once in a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx
import torch

from iresnet_export.artifacts.artifact import Manifest
from iresnet_export.artifacts.source import Source
from iresnet_export.errors import ArtifactError
from iresnet_export.graph.ir import Graph
from iresnet_export.graph.network import NetworkProbe
from iresnet_export.quantization.codes import Quantization, quantized_graph
from iresnet_export.quantization.schemes import QUANTIZED
from iresnet_models.deployed import DTYPES, Deployable, deployed
from iresnet_models.folding_plan import FoldPlan


@dataclass(frozen=True)
class Deployment:
    """Of an artifact with a manifest, or of a foreign one, which should hold the source's network as it is.

    Each part is computed when it is first asked for; ArtifactError where a damaged manifest does not tell how.
    """

    source: Source
    manifest: Manifest | None

    @cached_property
    def network(self) -> Deployable:
        manifest = self.manifest
        if manifest is None:
            return self.source.network
        plan = None
        if manifest.fold:
            details = manifest.details.get("fold")
            if not isinstance(details, dict) or "plan" not in details:
                raise ArtifactError(f"The manifest of {manifest.file} tells of a fold but holds no plan of it.", "Export it again.")
            plan = FoldPlan.from_json(details["plan"])
        dtype = DTYPES.get(manifest.precision, torch.float32)
        return deployed(self.source.network, plan, dtype, with_preprocessing=manifest.with_preprocessing)

    @cached_property
    def quantization(self) -> Quantization | None:
        """The scales of a quantized artifact; None for floating-point ones."""
        manifest = self.manifest
        if manifest is None or manifest.precision not in QUANTIZED:
            return None
        found = Quantization.from_json(manifest.details.get("quantization"))
        if found.precision != manifest.precision:
            raise ArtifactError(
                f"The manifest says that the artifact is in {manifest.precision}, and that it is quantized to {found.precision}.",
                "Export it again.",
            )
        return found

    @cached_property
    def quantized_model(self) -> onnx.ModelProto:
        """The quantized graph; ArtifactError or ExportError where the manifest's quantization is not one of this network."""
        from iresnet_export.backends.onnx.writing import onnx_from_network
        from iresnet_export.quantization.placement import quantized_onnx

        if self.quantization is None:
            raise ArtifactError("Only int8 and fp8 artifacts have a quantized graph.")
        return quantized_onnx(onnx_from_network(self.network), self.quantization)

    @cached_property
    def probe(self) -> NetworkProbe:
        """The network's own graph, its places and its inner values."""
        return NetworkProbe(self.network)

    @cached_property
    def graph(self) -> Graph:
        """What the file should hold."""
        graph = self.probe.graph
        return graph if self.quantization is None else quantized_graph(graph, self.quantization)

    @property
    def with_preprocessing(self) -> bool:
        return self.manifest is not None and self.manifest.with_preprocessing
