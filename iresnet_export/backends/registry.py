"""The formats and runtimes that there are, each imported when it is first used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.backends.base import Format, Runtime
from iresnet_export.errors import InputError

if TYPE_CHECKING:
    import torch

_FORMATS: dict[FormatName, str] = {
    "checkpoint": "eager:Checkpoint",
    "torchscript": "torchscript.format:TorchScript",
    "pt2": "pt2.format:Program",
    "aotinductor": "aotinductor.package:Package",
    "onnx": "onnx.format:Onnx",
    "engine": "tensorrt.tensorrt:Engine",
}
_RUNTIMES: dict[str, tuple[FormatName, str]] = {
    "eager": ("checkpoint", "eager:Eager"),
    "torchscript": ("torchscript", "torchscript.runtime:TorchScriptRuntime"),
    "torch_export": ("pt2", "pt2.runtime:TorchExport"),
    "channels-last": ("pt2", "pt2.compiled:ChannelsLast"),
    "compiled": ("pt2", "pt2.compiled:Compiled"),
    "aotinductor": ("aotinductor", "aotinductor.package:AOTInductor"),
    "onnxruntime": ("onnx", "onnxruntime.runtime:OnnxRuntime"),
    "openvino": ("onnx", "openvino.runtime:OpenVino"),
    "tensorrt": ("engine", "tensorrt.tensorrt:TensorRT"),
}

FORMATS, NAMES = tuple(_FORMATS), tuple(_RUNTIMES)


@cache
def format_named(name: FormatName) -> Format:
    made: Format = _class(_FORMATS[name])()
    return made


def runtime_named(spelled: str) -> Runtime:
    """A runtime by its name; ONNX Runtime's may be followed by how it is to compute on a GPU, as in `onnxruntime[nhwc]`.

    Raises InputError for a name that there is not, or settings where a runtime takes none.
    """
    name, settings = _parted(spelled)
    if name not in _RUNTIMES:
        raise InputError(f"There is no backend called {name}; there are {', '.join(NAMES)}.")
    kind = _class(_RUNTIMES[name][1])
    if settings and name != "onnxruntime":
        raise InputError(f"{name} takes no settings, and {spelled} gives it {settings};", "leave them out.")
    made: Runtime = kind(settings) if settings else kind()
    return made


def runtimes_for(format: FormatName, wanted: Sequence[str] = ()) -> list[Runtime]:
    """The runtimes to run files of a format by: those named, or all that are installed and run unasked.

    Raises InputError for names that there are not, or where none of those named runs the format.
    """
    named = [runtime_named(spelled) for spelled in wanted]
    able = [name for name, (of, _) in _RUNTIMES.items() if of == format]
    if named:
        chosen = [runtime for runtime in named if runtime.format == format]
        if not chosen:
            raise InputError(
                f"{format} files are run by {' and '.join(able)}, and not by {', '.join(wanted)};",
                "leave out --backend, or name one.",
            )
        return chosen
    every = [runtime_named(name) for name in able]
    return [runtime for runtime in every if _runs_unasked(runtime)] or every[:1]


def names_unasked() -> list[str]:
    """The runtimes that are used where none is named."""
    return [name for name in NAMES if _runs_unasked(runtime_named(name))]


def _runs_unasked(runtime: Runtime) -> bool:
    return runtime.is_installed() and runtime.runs_unasked()


def require_settings_used(wanted: Sequence[str], device: torch.device, formats: Iterable[FormatName]) -> None:
    """InputError where a runtime was given settings, and nothing would be run by them: they are for GPUs."""
    for spelled in wanted:
        name, settings = _parted(spelled)
        if settings and device.type != "cuda":
            raise InputError(f"{settings} says how {name} computes on a GPU, and this is --device {device.type};", "leave it out.")
        if settings and runtime_named(spelled).format not in formats:
            raise InputError(f"{settings} is for files that {name} runs, and there are none here;", "leave it out.")


def _parted(spelled: str) -> tuple[str, str]:
    name, _, settings = spelled.partition("[")
    return name, settings.removesuffix("]")


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"iresnet_export.backends.{module}"), name)
