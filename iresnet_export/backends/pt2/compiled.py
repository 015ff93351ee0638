"""torch.export programs as GPUs like them: in channels-last, and compiled by torch.compile, their kernels in CUDA graphs."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.backends.base import Runtime, require_trusted
from iresnet_export.backends.pt2.reading import load_program
from iresnet_export.backends.pt2.runtime import ProgramSession
from iresnet_export.errors import UnavailableError
from iresnet_export.system import nvidia

_BATCH_SIZES = 64
"""Each is compiled when it first comes; torch's own limit of 8 would go back to eager PyTorch without an error."""


class ChannelsLast(Runtime):
    """Eager PyTorch in the layout of tensor cores. It runs on CPUs too, where it is measured only by its name."""

    name: ClassVar[str] = "channels-last"
    format: ClassVar[FormatName] = "pt2"

    def runs_unasked(self) -> bool:
        return torch.cuda.is_available()

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> CompiledSession:
        require_trusted(artifact, trust)
        return CompiledSession(load_program(artifact.path), device, threads, compiled=False)


class Compiled(ChannelsLast):
    """The same, compiled by torch.compile. On GPUs alone: for a CPU a package is compiled once."""

    name: ClassVar[str] = "compiled"

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> CompiledSession:
        require_trusted(artifact, trust)
        missing = nvidia.absence()
        if device.type != "cuda" or missing is not None:
            why = f" ({missing.reason})" if missing is not None else ""
            raise UnavailableError(
                f"torch.compile is used on NVIDIA GPUs{why};", "for CPUs compile a package once: iresnet-export pt2 --compile"
            )
        return CompiledSession(load_program(artifact.path), device, threads)


class CompiledSession(ProgramSession):
    """`compiled`: else the same program and layout in eager PyTorch. The first run of a batch size takes many seconds."""

    def __init__(
        self, program: ExportedProgram, device: torch.device, threads: int | None = None, *, compiled: bool = True
    ) -> None:
        super().__init__(program, device, threads)
        self._compiled = compiled
        self._module = self._module.to(memory_format=torch.channels_last)
        if compiled:
            # "reduce-overhead" puts kernels into CUDA graphs, one for each batch size.
            mode = "reduce-overhead" if device.type == "cuda" else "default"
            self._module.compile(mode=mode, dynamic=False)

    def run(self, batch: Tensor) -> Tensor:
        if not self.with_preprocessing:
            batch = batch.contiguous(memory_format=torch.channels_last)
        if not self._compiled:
            return super().run(batch)
        with torch._dynamo.config.patch(recompile_limit=_BATCH_SIZES):
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            return super().run(batch).clone()  # a CUDA graph's outputs lie where the next run writes its own
