"""ONNX files, run by OpenVINO on CPUs."""

from __future__ import annotations

import importlib
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.metadata import layers_in_float, stored_precision
from iresnet_export.artifacts.soundness import require_sound
from iresnet_export.backends.base import HostSession, Runtime, TensorsForHost
from iresnet_export.errors import ArtifactError, MissingPackageError, UnavailableError
from iresnet_export.graph.ir import Array
from iresnet_export.graph.precision import computed
from iresnet_export.system.machine import products_of_codes_overflow

if TYPE_CHECKING:
    import torch

    from iresnet_export.backends.openvino.probing import OpenVinoProbe

HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "f32", "fp8": "f32"}
"""The floating-point precision asked for; codes are in the graph itself, and what is left of float there is float32."""
_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8", "f8e4m3": "fp8"}

_OVERFLOWS = (
    "This processor has no VNNI: OpenVINO cuts off sums of int8 products on it, and no setting of OpenVINO changes that. Run the "
    "file by ONNX Runtime here, which has one, or export it in fp32 for OpenVINO."
)


class OpenVino(Runtime):
    name: ClassVar[str] = "openvino"
    format: ClassVar[FormatName] = "onnx"

    def is_installed(self) -> bool:
        return find_spec("openvino") is not None

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> TensorsForHost:
        return TensorsForHost(self._loaded(artifact, device.type, threads))

    def load_for_arrays(
        self, artifact: Artifact, device: str = "cpu", *, streams: int = 1, threads: int | None = None, trust: bool = False
    ) -> OpenVinoSession:
        return self._loaded(artifact, device, threads, streams)

    def _loaded(self, artifact: Artifact, device: str, threads: int | None = None, streams: int = 1) -> OpenVinoSession:
        if device != "cpu":
            raise UnavailableError("OpenVINO runs on the CPU here;", "add --device cpu.")
        require_sound(artifact)
        session = OpenVinoSession(artifact.path, stored_precision(artifact), threads, layers_in_float(artifact), streams)
        if session.computed_precision == "int8" and products_of_codes_overflow():
            session.close()
            raise UnavailableError(_OVERFLOWS)
        return session

    def probe(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> OpenVinoProbe:
        from iresnet_export.backends.openvino.probing import OpenVinoProbe

        return OpenVinoProbe(artifact)


class OpenVinoSession(HostSession):
    """A compiled graph and a request for each stream, on the CPU. Several streams have a thread each, but for the first run."""

    def __init__(self, path: Path, precision: str, threads: int | None, in_float: int = 0, streams: int = 1) -> None:
        try:
            openvino = imported()
        except ImportError as error:
            raise MissingPackageError("openvino", "Running ONNX files by OpenVINO", "iresnet-export[openvino]") from error
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": HINTS[precision]}
        if streams > 1:
            settings |= {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
        elif threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.streams, self._idle, self._waiting = streams, SimpleQueue[Any](), list[Any]()
        try:
            model = openvino.Core().read_model(path)
            self._compiled = openvino.Core().compile_model(model, "CPU", settings)
            self._idle.put(self._compiled.create_infer_request())
            # OpenVINO makes tables when it first runs, and hangs for ever where two threads do that at once.
            self._waiting = [self._compiled.create_infer_request() for _ in range(streams - 1)]
            (taken,) = self._compiled.inputs
            batch = taken.partial_shape[0]
            self.batch = None if batch.is_dynamic else (batch.get_length(), batch.get_length())
            self.image = tuple(None if extent.is_dynamic else extent.get_length() for extent in list(taken.partial_shape)[1:])
            self.with_preprocessing = taken.element_type == openvino.Type.u8
            self.outputs = [output.any_name for output in self._compiled.outputs]
            self.computed_precision = computed(_computed_precisions(self._compiled), in_float)
        except (RuntimeError, ValueError, TypeError, LookupError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            if (foreign := _operators_of_onnxruntime(path)) is not None:
                raise UnavailableError(
                    f"{path.name} was optimised by ONNX Runtime for itself: it holds {foreign}, which OpenVINO does not know.",
                    "Give the file that it was made from.",
                ) from error
            if "No conversion rule found" in str(error):
                raise UnavailableError(f"OpenVINO cannot compute {path.name} here: {lines[-1]}") from error
            if "precision" in str(error).lower() and HINTS[precision] in str(error):
                raise UnavailableError(f"OpenVINO cannot compute in {precision} on this processor: {lines[-1]}") from error
            raise ArtifactError(
                f"OpenVINO cannot load {path}: {lines[-1]}.", "Export it again, or check that the file is whole."
            ) from error

    def run(self, batch: Array) -> Array:
        return self.all_outputs(batch)[0]

    def all_outputs(self, batch: Array) -> tuple[Array, ...]:
        request = self._idle.get()
        try:
            found = request.infer({0: batch}, share_inputs=True)
            return tuple(found[output].copy() for output in self._compiled.outputs)
        finally:
            waiting, self._waiting = self._waiting, []
            for one in (*waiting, request):
                self._idle.put(one)

    def close(self) -> None:
        del self._idle, self._waiting, self._compiled


def _operators_of_onnxruntime(path: Path) -> str | None:
    """Those in a file that only ONNX Runtime computes."""
    from iresnet_export.artifacts.onnx_files import read_onnx

    nodes = read_onnx(path, external=False).graph.node
    own = sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain.startswith("com.microsoft")})
    return ", ".join(own[:3]) or None


def imported() -> Any:
    """The package. Its telemetry looks for a home when it is imported; where this user has none it is lent an empty folder."""
    try:
        Path.home()
    except RuntimeError:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HOME"] = folder
            try:
                return importlib.import_module("openvino")
            finally:
                del os.environ["HOME"]
    return importlib.import_module("openvino")


def _computed_precisions(compiled: Any) -> list[str]:
    """The precision of every convolution, as the graph that OpenVINO runs says."""
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        if about["layerType"].astype(str) == "Convolution":
            kind = about["runtimePrecision"].astype(str)
            found.append(_PRECISIONS.get(kind, kind))
    return found
