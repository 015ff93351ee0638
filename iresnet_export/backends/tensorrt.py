"""TensorRT engines: built from our ONNX files, run on NVIDIA GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, ExportJob, ExportOptions, Session, require_trusted
from iresnet_export.backends.onnx_graph import OUTPUT
from iresnet_export.backends.tensorrt_flavours import Flavour, flavour_for_building, flavour_named
from iresnet_export.errors import ArtifactError, ExportError, UnavailableError


class TensorRT(Backend):
    name: ClassVar[str] = "tensorrt"
    format: ClassVar[Format] = "engine"
    native: ClassVar[bool] = True
    parent_format: ClassVar[Format | None] = "onnx"

    def settings(self, options: ExportOptions) -> dict[str, Any]:
        return {
            "opset": options.onnx_opset,
            **options.int8_settings,
            "optimised_for_batch": options.batch,
            "flavour": flavour_for_building(options.flavour).name,
            "compute_capabilities": list(options.compute_capabilities),
        }

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        return (1, options.max_batch) if options.dynamic_batch else (options.batch, options.batch)

    def export(self, job: ExportJob) -> dict[str, Any]:
        from iresnet_export.backends.tensorrt_builder import engine_from_onnx

        if job.parent is None:
            raise ExportError("An engine is built from an ONNX file, and none was given.")
        flavour = flavour_for_building(job.options.flavour)
        plan, details = engine_from_onnx(flavour, job.parent.path.read_bytes(), job.options, job.progress)
        job.path.write_bytes(plan)
        return details

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> EngineSession:
        require_trusted(artifact, trust)
        if not torch.cuda.is_available():
            raise UnavailableError(
                "A TensorRT engine runs on an NVIDIA GPU, and torch finds none here. Verify and measure it on the machine "
                "that it is for."
            )
        name = artifact.descent.details.get("flavour") if artifact.descent else None
        session = EngineSession(artifact.path, flavour_named(name or "tensorrt"), device)
        # The network was strongly typed: what the builder proved of its types is what is computed.
        session.computed_precision = artifact.descent.precision if artifact.descent else "fp32"
        return session


class EngineSession(Session):
    """An engine with its execution context, on a stream of its own."""

    def __init__(self, path: Path, flavour: Flavour, device: torch.device) -> None:
        trt = flavour.module
        self.device = device if device.type == "cuda" else torch.device("cuda")
        flavour.messages.clear()
        with torch.cuda.device(self.device):
            self._runtime = trt.Runtime(flavour.logger)
            self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._engine is None:
                raise ArtifactError(
                    f"{flavour.name} {flavour.version} cannot load {path} on {torch.cuda.get_device_name()}: "
                    f"{flavour.complaints()}. "
                    "Engines are tied to a TensorRT version and a kind of GPU; build it again here."
                )
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise UnavailableError(f"There is not enough GPU memory to run {path}: {flavour.complaints()}.")
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._input = next(name for name in names if modes[name] == trt.TensorIOMode.INPUT)
        self._outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self.takes_pixels = self._engine.get_tensor_dtype(self._input) == trt.uint8
        smallest, _, largest = self._engine.get_tensor_profile_shape(self._input, 0)
        self._smallest, self._largest = smallest[0], largest[0]
        self.batch = (self._smallest, self._largest)
        self._classes = self._engine.get_tensor_shape(self._outputs[0])[1]

    def run(self, batch: Tensor) -> Tensor:
        batch = batch.contiguous()
        outputs = [torch.empty((len(batch), self._classes), device=self.device) for _ in self._outputs]
        if not self._context.set_input_shape(self._input, tuple(batch.shape)):
            raise ArtifactError(
                f"The engine takes batches of {self._smallest} to {self._largest} images of its own size, not {tuple(batch.shape)}."
            )
        self._context.set_tensor_address(self._input, batch.data_ptr())
        for name, values in zip(self._outputs, outputs, strict=True):
            self._context.set_tensor_address(name, values.data_ptr())
        current = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(current)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise UnavailableError("TensorRT could not start the engine; another process may hold the GPU or its memory.")
        current.wait_stream(self._stream)
        for tensor in (batch, *outputs):
            tensor.record_stream(self._stream)
        return outputs[self._outputs.index(OUTPUT) if OUTPUT in self._outputs else 0]

    def close(self) -> None:
        del self._context, self._engine, self._runtime
