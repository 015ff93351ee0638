"""The backends, each imported when it is first used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from iresnet_export.artifact import Format
from iresnet_export.backends.base import Backend
from iresnet_export.backends.onnxruntime_cuda import CudaSettings
from iresnet_export.errors import InputError

_BACKENDS = {
    "eager": "eager:Eager",
    "torchscript": "torchscript:TorchScript",
    "exported": "exported:Exported",
    "channels-last": "compiled:ChannelsLast",
    "compiled": "compiled:Compiled",
    "aotinductor": "aotinductor:AOTInductor",
    "onnxruntime": "onnxruntime:OnnxRuntime",
    "openvino": "openvino:OpenVino",
    "tensorrt": "tensorrt:TensorRT",
}
_RUN_BY: dict[Format, tuple[str, ...]] = {
    "checkpoint": ("eager",),
    "torchscript": ("torchscript",),
    "pt2": ("exported", "channels-last", "compiled"),
    "aoti": ("aotinductor",),
    "onnx": ("onnxruntime", "openvino"),
    "engine": ("tensorrt",),
}

NAMES = tuple(_BACKENDS)


def backend_named(name: str, ort_cuda: CudaSettings | None = None) -> Backend:
    """`ort_cuda`: how ONNX Runtime is to compute on a GPU; it is the only one that takes that."""
    module, _, attribute = _BACKENDS[name].partition(":")
    kind = getattr(import_module(f"{__name__}.{module}"), attribute)
    backend: Backend = kind(ort_cuda) if name == "onnxruntime" else kind()
    return backend


def backends_for(format: Format, ort_cuda: CudaSettings | None = None) -> list[Backend]:
    """Those that run artifacts of a format; the first one also exports it, and reads it back."""
    return [backend_named(name, ort_cuda) for name in _RUN_BY[format]]


def runners(format: Format, wanted: Sequence[str] = (), ort_cuda: CudaSettings | None = None) -> list[Backend]:
    """The backends to run artifacts of a format by: those named, or all that are installed.

    Raises InputError for names that there are not, or where none of those named runs the format.
    """
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise InputError(f"There is no backend called {', '.join(unknown)}; there are {', '.join(NAMES)}.")
    candidates = backends_for(format, ort_cuda)
    chosen = [backend for backend in candidates if (backend.name in wanted if wanted else backend.is_installed())]
    if not chosen and wanted:
        able = " and ".join(backend.name for backend in candidates)
        raise InputError(f"{format} files are run by {able}, and not by {', '.join(wanted)}; leave out --backend, or name one.")
    return chosen or candidates[:1]
