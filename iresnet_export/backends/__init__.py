"""The backends, each imported when it is first used."""

from __future__ import annotations

from importlib import import_module

from iresnet_export.artifact import Format
from iresnet_export.backends.base import Backend

_BACKENDS = {
    "eager": "eager:Eager",
    "torchscript": "torchscript:TorchScript",
    "onnxruntime": "onnxruntime:OnnxRuntime",
    "tensorrt": "tensorrt:TensorRT",
}
_RUN_BY: dict[Format, tuple[str, ...]] = {
    "checkpoint": ("eager",),
    "torchscript": ("torchscript",),
    "onnx": ("onnxruntime",),
    "engine": ("tensorrt",),
}

NAMES = tuple(_BACKENDS)


def backend_named(name: str) -> Backend:
    module, _, attribute = _BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(f"{__name__}.{module}"), attribute)()
    return backend


def backends_for(format: Format) -> list[Backend]:
    """Those that run artifacts of a format; the first one also exports it."""
    return [backend_named(name) for name in _RUN_BY[format]]
