"""torch.export programs, run by PyTorch as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.backends.base import Runtime, Session, require_trusted
from iresnet_export.backends.pt2.reading import graph_of_program, layer_precisions, load_program
from iresnet_export.graph.network import values_of_calls
from iresnet_export.graph.precision import widest
from iresnet_export.graph.probe import Probe
from iresnet_export.system.torch_settings import torch_threads


class TorchExport(Runtime):
    name: ClassVar[str] = "torch_export"
    format: ClassVar[FormatName] = "pt2"

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> ProgramSession:
        require_trusted(artifact, trust)
        return ProgramSession(load_program(artifact.path), device, threads)

    def probe(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> ProgramProbe:
        require_trusted(artifact, trust)
        return ProgramProbe(load_program(artifact.path), device)


class ProgramProbe(Probe):
    """A program's graph, run node by node."""

    def __init__(self, program: ExportedProgram, device: torch.device) -> None:
        self._module, self._device = module_on(program, device), device
        self.graph = graph_of_program(program)
        calls = {call.name: call for call in self._module.graph.nodes}
        self._calls = [calls[node.name] for node in self.graph.nodes]
        image = next(node.meta["val"] for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
        self.with_preprocessing = image.dtype is torch.uint8

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        found = values_of_calls(self._module, batch.to(self._device), [self._calls[number] for number in wanted])
        return [value.float() for value in found]


class ProgramSession(Session):
    def __init__(self, program: ExportedProgram, device: torch.device, threads: int | None) -> None:
        self.device, self._threads = device, threads
        name = program.graph_signature.user_inputs[0]
        example = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
        size = example.shape[0]
        self.batch = (size, size) if isinstance(size, int) else None
        self.image = tuple(extent if isinstance(extent, int) else None for extent in example.shape[1:])
        self.with_preprocessing = example.dtype is torch.uint8
        self.computed_precision = widest(layer_precisions(program))
        self._module = module_on(program, device)

    def run(self, batch: Tensor) -> Tensor:
        return self.all_outputs(batch)[0]

    def all_outputs(self, batch: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode(), torch_threads(self._threads):
            found: Tensor | tuple[Tensor, ...] = self._module(batch)
        return (found,) if isinstance(found, Tensor) else tuple(found)


def module_on(program: ExportedProgram, device: torch.device) -> fx.GraphModule:
    """A program's module on a device; constants that its graph makes follow too."""
    from torch.export.passes import move_to_device_pass

    module: fx.GraphModule = (program if device.type == "cpu" else move_to_device_pass(program, device)).module()
    return module
