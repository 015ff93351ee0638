"""TensorRT engines at work: device tensors by address, a stream of their own, and a CUDA graph for each batch size in use."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.metadata import layers_in_float
from iresnet_export.backends.base import Session
from iresnet_export.backends.onnx.writing import OUTPUT
from iresnet_export.backends.tensorrt.checks import explained_validity
from iresnet_export.backends.tensorrt.flavours import Flavour
from iresnet_export.backends.tensorrt.plan import engine_details
from iresnet_export.errors import ArtifactError, UnavailableError
from iresnet_export.graph.precision import computed
from iresnet_export.system.cuda_graphs import Capturing, on_stream, readable

_MULTIPLYING = ("Convolution", "FullyConnected", "Gemm", "MatrixMultiply")
_TYPES = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "BF16": "bf16", "Int8": "int8", "FP8": "fp8"}


@dataclass
class _Slot:
    """What one batch size runs in: buffers at fixed addresses, the context that knows them, and its captured graph."""

    images: Tensor
    outputs: list[Tensor]
    context: Any
    graph: torch.cuda.CUDAGraph | None


class EngineSession(Session):
    """`notices` says what was fallen back from. A session may be used by several threads, one after the other."""

    def __init__(self, artifact: Artifact, flavour: Flavour, device: torch.device, *, cuda_graphs: bool = True) -> None:
        trt, plan = flavour.module, artifact.path.read_bytes()
        self.device = torch.device(device.type, device.index or 0) if device.type == "cuda" else device
        self.notices: list[str] = []
        self._flavour, self._artifact = flavour, artifact
        self._lock, self._slots = threading.Lock(), dict[int, _Slot]()
        self._contexts: dict[int, Any] = {}
        flavour.messages.clear()
        with torch.cuda.device(self.device):
            self._runtime = trt.Runtime(flavour.logger)
            explained_validity(flavour, self._runtime, plan, artifact)
            # Plans that were built to outlive their version carry a lean runtime, which is code of its own.
            if engine_details(artifact).settings.version_compatible:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise (ArtifactError if artifact.manifest is None else UnavailableError)(
                    f"{flavour.name} {flavour.version} cannot load {artifact.path} on {torch.cuda.get_device_name()}: "
                    f"{flavour.errors()}.",
                    "Engines are tied to a TensorRT version and a kind of GPU; build it again here.",
                )
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graphs = Capturing(artifact.path.name, self._stream, self.notices, enabled=cuda_graphs)
        self._find_ends()
        self.computed_precision = self._computed_precision()

    def _find_ends(self) -> None:
        trt, engine = self._flavour.module, self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self.outputs: list[str] = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        if len(inputs) != 1 or not self.outputs:
            raise ArtifactError(
                f"{self._artifact.path} takes {len(inputs)} inputs ({', '.join(inputs)}); a classifier takes one, the images."
            )
        self._input = inputs[0]
        types = {trt.float32: torch.float32, trt.float16: torch.float16, trt.bfloat16: torch.bfloat16, trt.uint8: torch.uint8}
        self._types = {name: types.get(engine.get_tensor_dtype(name)) for name in names}
        strange = [name for name in names if self._types[name] is None]
        if strange:
            raise ArtifactError(
                f"{self._artifact.path} has inputs or outputs of a type that is not run here: {', '.join(strange)}."
            )
        self.with_preprocessing = self._types[self._input] is torch.uint8
        shapes = [engine.get_tensor_profile_shape(self._input, index) for index in range(engine.num_optimization_profiles)]
        self._profiles = [(smallest[0], largest[0]) for smallest, _, largest in shapes]
        self.batch = (min(low for low, _ in self._profiles), max(high for _, high in self._profiles))
        self._image = tuple(engine.get_tensor_shape(self._input))[1:]

    def run(self, batch: Tensor) -> Tensor:
        return self.run_all(batch)[OUTPUT if OUTPUT in self.outputs else self.outputs[0]]

    def run_all(self, batch: Tensor) -> dict[str, Tensor]:
        """Every output by its name. The results are the caller's own: the next run leaves them as they are."""
        self.require_fitting(batch, self._image, self._types[self._input])
        with self._lock, torch.cuda.device(self.device), on_stream(self._stream, batch) as found:
            slot = self._slot(len(batch))
            found += self._enqueue_plain(batch) if slot is None else self._enqueue_slot(slot, batch)
        return dict(zip(self.outputs, found, strict=True))

    def all_outputs(self, batch: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.run_all(batch).values())

    def close(self) -> None:
        torch.cuda.synchronize(self.device)
        self._slots.clear()
        self._contexts.clear()
        self._engine = self._runtime = None

    def _slot(self, count: int) -> _Slot | None:
        """The graph of a batch size; None where it is new, where there are too many, or where capturing failed."""
        if count in self._slots:
            return self._slots[count]
        if not self._graphs.is_due(count, len(self._slots)):
            return None
        images = torch.zeros((count, *self._image), dtype=self._types[self._input], device=self.device)
        # A context keeps the addresses that its graph was captured with: each graph has one of its own.
        context = self._new_context(count)
        outputs = self._set_addresses(context, images)
        slot = _Slot(images, outputs, context, None)
        if not hasattr(self._flavour.module, "CudaGraphStrategy"):  # else its context captures by itself
            captured = self._graphs.captured(lambda: self._start(context))
            if captured is None:
                return None
            slot.graph = captured[0]
        self._slots[count] = slot
        return slot

    def _enqueue_slot(self, slot: _Slot, batch: Tensor) -> list[Tensor]:
        slot.images.copy_(batch, non_blocking=True)
        if slot.graph is None:
            self._start(slot.context)
        else:
            slot.graph.replay()
        return [values.float() if values.dtype != torch.float32 else values.clone() for values in slot.outputs]

    def _enqueue_plain(self, batch: Tensor) -> list[Tensor]:
        batch = readable(batch)
        profile = self._profile(len(batch))
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(len(batch))
        outputs = self._set_addresses(self._contexts[profile], batch)
        self._start(self._contexts[profile])
        batch.record_stream(self._stream)
        return [values.float() for values in outputs]

    def _profile(self, count: int) -> int:
        """The narrowest of those that hold the batch: it is the one that was optimised nearest to it."""
        fitting = [index for index, (low, high) in enumerate(self._profiles) if low <= count <= high]
        if not fitting:
            raise ArtifactError(f"None of the engine's profiles takes {count} images; they take {self._profiles}.")
        return min(fitting, key=lambda index: self._profiles[index][1] - self._profiles[index][0])

    def _new_context(self, count: int) -> Any:
        trt, engine = self._flavour.module, self._engine
        if hasattr(trt, "CudaGraphStrategy"):
            config = engine.create_runtime_config()
            strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if self._graphs.enabled else trt.CudaGraphStrategy.DISABLED
            config.cuda_graph_strategy = strategy
            # Else kernels of the batch's own size appear some runs later, while something is measured.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise UnavailableError(
                f"{self._artifact.path} cannot run: {self._flavour.errors()}.",
                "Often the GPU's memory is full; nvidia-smi says by what.",
            )
        if len(self._profiles) > 1 and not context.set_optimization_profile_async(self._profile(count), self._stream.cuda_stream):
            raise UnavailableError(f"TensorRT refused the profile for {count} images: {self._flavour.errors()}.")
        return context

    def _set_addresses(self, context: Any, images: Tensor) -> list[Tensor]:
        """Tells a context where its input lies, and makes room for what it gives."""
        if not context.set_input_shape(self._input, tuple(images.shape)):
            raise ArtifactError(f"The engine refused a batch of shape {tuple(images.shape)}: {self._flavour.errors()}.")
        context.set_tensor_address(self._input, images.data_ptr())
        outputs = []
        for name in self.outputs:
            shape = tuple(context.get_tensor_shape(name))
            outputs.append(torch.empty(shape, dtype=self._types[name], device=self.device))
            context.set_tensor_address(name, outputs[-1].data_ptr())
        return outputs

    def _start(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.cuda_stream):
            raise UnavailableError(f"TensorRT could not start the engine: {self._flavour.errors()}.")

    def _computed_precision(self) -> str:
        """What the engine's own layers say; where they say nothing, what the builder proved of the strongly typed network."""
        trt = self._flavour.module
        inspector = self._engine.create_engine_inspector()
        told = inspector.get_engine_information(trt.LayerInformationFormat.JSON) if inspector is not None else ""
        found = precisions_of_layers(told or "")
        if not found:
            return self._artifact.precision
        return computed(found, min(layers_in_float(self._artifact), found.count("fp32")))  # the inspector does not tell of all


def precisions_of_layers(told: str) -> list[str]:
    """The precision of every layer with weights in an engine inspector's JSON, by their type; empty if it tells of none."""
    try:
        layers = json.loads(told)["Layers"]
    except (ValueError, KeyError, TypeError):
        return []
    weighted = (told for told in layers if isinstance(told, dict) and told.get("ParameterType", "Convolution") in _MULTIPLYING)
    entries = [told["Weights"] for told in weighted if isinstance(told.get("Weights"), dict)]
    return [_TYPES.get(str(entry.get("Type")), str(entry.get("Type"))) for entry in entries if entry.get("Count", 0)]
