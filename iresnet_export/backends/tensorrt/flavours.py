"""The two TensorRTs: `tensorrt`, which builds on the GPU at hand, and `tensorrt_rtx`, which builds without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from iresnet_export.errors import InputError, MissingPackageError, UnavailableError
from iresnet_export.system import nvidia

NAMES = ("tensorrt", "tensorrt_rtx")

Listener = Callable[[str, str], None]
"""Is given a severity, such as `warning`, and a message."""


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT and its one logger, which collects what TensorRT says.

    `messages`: errors since the last call of `errors`; `listeners` are told everything, with its severity.
    """

    name: str
    module: Any
    logger: Any
    messages: list[str] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)

    @property
    def builds_without_gpu(self) -> bool:
        return hasattr(self.module, "ComputeCapability")

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @contextmanager
    def listening(self, listener: Listener | None) -> Iterator[None]:
        """Tells the listener everything for a while; None is nobody."""
        if listener is None:
            yield
            return
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    def errors(self) -> str:
        """What the logger heard since the last call, as one sentence."""
        heard = "; ".join(dict.fromkeys(self.messages)) or "TensorRT gave no reason"
        self.messages.clear()
        return heard


_loaded: dict[str, Flavour] = {}


def flavour_named(name: str) -> Flavour:
    """An installed TensorRT by its module's name. There is one logger in a process, so it is loaded once."""
    if name not in NAMES:
        raise InputError(f"There is no TensorRT called {name!r}; there are {' and '.join(NAMES)}.")
    if name not in _loaded:
        try:
            module = import_module(name)
        except (ImportError, OSError) as error:
            extra = name.replace("_", "-")
            raise MissingPackageError(extra, "Building or running a TensorRT engine", f"iresnet-export[{extra}]") from error
        messages: list[str] = []
        listeners: list[Listener] = []
        _loaded[name] = Flavour(name, module, _logger(module, messages, listeners), messages, listeners)
    return _loaded[name]


def flavour_for_building(name: str | None) -> Flavour:
    """`tensorrt` where it and a GPU are here, else `tensorrt_rtx`; or the one that is asked for."""
    if name is None:
        name = "tensorrt" if find_spec("tensorrt") is not None and torch.cuda.is_available() else "tensorrt_rtx"
    flavour = flavour_named(name)
    missing = nvidia.absence()
    if not flavour.builds_without_gpu and missing is not None:
        raise UnavailableError(
            f"TensorRT builds engines only where there is an NVIDIA GPU, and none can be used here ({missing.reason}).",
            "Run this on the machine that the engine is for, or build with TensorRT-RTX, which needs no GPU: "
            "pip install 'iresnet-export[tensorrt-rtx]'",
        )
    return flavour


def _logger(module: Any, messages: list[str], listeners: list[Listener]) -> Any:
    serious = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in serious:
                messages.append(message.strip())
            for listener in listeners:
                listener(severity.name.lower().replace("_", " "), message.strip())

    return Collector()
