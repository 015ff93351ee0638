"""torch.compile on an NVIDIA GPU: torch.export programs in channels-last, their kernels in CUDA graphs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram as Program

from iresnet_export import nvidia
from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, Session, require_trusted
from iresnet_export.backends.eager import torch_threads
from iresnet_export.backends.exported import layers_of_program, load_program, precisions_of_layers
from iresnet_export.errors import UnavailableError
from iresnet_export.precision import widest

_BATCH_SIZES = 64
"""Each is compiled when it first comes; torch's own limit of 8 would go back to eager PyTorch without an error."""


class Compiled(Backend):
    name: ClassVar[str] = "compiled"
    format: ClassVar[Format] = "pt2"
    native: ClassVar[bool] = True

    def is_installed(self) -> bool:
        return torch.cuda.is_available()

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> CompiledSession:
        require_trusted(artifact, trust)
        missing = nvidia.absence()
        if device.type != "cuda" or missing is not None:
            why = f" ({missing.sentence})" if missing is not None else ""
            raise UnavailableError(
                f"torch.compile is used on NVIDIA GPUs{why}; for CPUs compile a package once: iresnet-export pt2 --compile"
            )
        return CompiledSession(load_program(artifact.path), device, threads)


class CompiledSession(Session):
    """`compiled`: else the same program and layout in eager PyTorch. The first run of a batch size takes many seconds."""

    def __init__(self, program: Program, device: torch.device, threads: int | None = None, *, compiled: bool = True) -> None:
        from torch.export.passes import move_to_device_pass

        self.device, self._threads = device, threads
        name = program.graph_signature.user_inputs[0]
        example = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
        size = example.shape[0]
        self.batch = (size, size) if isinstance(size, int) else None
        self.takes_pixels = example.dtype is torch.uint8
        self.computed_precision = widest(precisions_of_layers(layers_of_program(program)))
        module: Any = (program if device.type == "cpu" else move_to_device_pass(program, device)).module()
        module = module.to(memory_format=torch.channels_last)
        # "reduce-overhead" puts kernels into CUDA graphs, one for each batch size.
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        self._module = torch.compile(module, mode=mode, dynamic=False) if compiled else module
        self._compiled = compiled

    def run(self, batch: Tensor) -> Tensor:
        if not self.takes_pixels:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.inference_mode(), torch_threads(self._threads), torch._dynamo.config.patch(recompile_limit=_BATCH_SIZES):
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            found = self._module(batch)
            logits: Tensor = found if isinstance(found, Tensor) else found[0]
            # A CUDA graph's outputs lie where the next run writes its own.
            return logits.clone() if self._compiled else logits
