"""TorchScript files, run by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.metadata import normalises
from iresnet_export.backends.base import Runtime, Session, require_trusted
from iresnet_export.backends.torchscript.reading import frozen, graph_of_script, load_script, operations_of
from iresnet_export.graph.precision import precision_of, widest
from iresnet_export.graph.probe import Probe
from iresnet_export.system.torch_settings import torch_threads


class TorchScriptRuntime(Runtime):
    name: ClassVar[str] = "torchscript"
    format: ClassVar[FormatName] = "torchscript"

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> ScriptSession:
        require_trusted(artifact, trust)
        return ScriptSession(artifact, device, threads)

    def probe(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> ScriptProbe:
        require_trusted(artifact, trust)
        return ScriptProbe(artifact, device)


class ScriptProbe(Probe):
    """A script's graph, run as a function that gives further values."""

    def __init__(self, artifact: Artifact, device: torch.device) -> None:
        self._module = frozen(load_script(artifact.path, device))
        self.graph = graph_of_script(self._module)
        self.with_preprocessing = normalises(artifact)

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        graph = self._module.graph.copy()
        nodes = operations_of(graph)
        values = [nodes[index].output() for index in wanted]
        both = graph.create("prim::TupleConstruct", values, 1)
        both.output().setType(torch._C.TupleType([value.type() for value in values]))
        graph.appendNode(both)
        for _ in list(graph.outputs()):
            graph.eraseOutput(0)
        graph.registerOutput(both.output())
        function = torch._C._create_function_from_graph("observed", graph)
        with torch.inference_mode():
            return [value.float() for value in function(self._module._c, batch)]


class ScriptSession(Session):
    def __init__(self, artifact: Artifact, device: torch.device, threads: int | None) -> None:
        self.device = device
        self._module, self._threads = load_script(artifact.path, device), threads
        self.with_preprocessing = normalises(artifact)
        weights = [node.tensors["weight"] for node in graph_of_script(self._module).layers if "weight" in node.tensors]
        self.computed_precision = widest([precision_of(values.dtype) for values in weights])

    def run(self, batch: Tensor) -> Tensor:
        return self.all_outputs(batch)[0]

    def all_outputs(self, batch: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch_threads(self._threads):
            found: Tensor | tuple[Tensor, ...] = self._module(batch)
        return (found,) if isinstance(found, Tensor) else tuple(found)
