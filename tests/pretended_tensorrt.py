"""A TensorRT that needs no GPU: it reads and writes the addresses that it is given, and keeps rules that the real one states.

A context must have a shape, addresses and, with several profiles, a profile that takes its batch. What is captured into a graph
runs when the graph is replayed, with the addresses of the capture. Its network gives for every image the mean of its numbers, each
times its place, times 1, 2, 3, and so on.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

CLASSES = 5


class Mode(Enum):
    INPUT = 0
    OUTPUT = 1


class Graph:
    """torch.cuda.CUDAGraph, as far as it goes."""

    recording: Graph | None = None

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        for call in self.calls:
            call()


class Context:
    def __init__(self, engine: Engine, strategy: str | None) -> None:
        self.engine, self.strategy = engine, strategy
        self.profile = 0 if len(engine.profiles) == 1 else None
        self.shape: tuple[int, ...] | None = None
        self.addresses: dict[str, int] = {}
        self.enqueued = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream == 7
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "input"
        assert self.profile is not None, "no profile was chosen"
        low, high = self.engine.profiles[self.profile]
        if not low <= shape[0] <= high:
            return False
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self.shape is not None
        return (self.shape[0], CLASSES)

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name == "input":
            assert address % 256 == 0 or not self.engine.strict, "TensorRT wants aligned addresses"
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7, "not on the session's own stream"
        shape, addresses = self.shape, dict(self.addresses)
        assert shape is not None
        if Graph.recording is not None:
            if self.engine.capture_fails:
                raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
            assert self.enqueued, "the first run cannot be captured"
            Graph.recording.calls.append(lambda: compute(shape, addresses))
            return True
        self.enqueued += 1
        if not self.engine.fails:
            compute(shape, addresses)
        return not self.engine.fails


def compute(shape: tuple[int, ...], addresses: dict[str, int]) -> None:
    images = numbers_at(addresses["input"], int(np.prod(shape))).reshape(shape)
    flat = images.reshape(len(images), -1)
    means = (flat * np.linspace(0, 1, flat.shape[1])).mean(axis=1)
    numbers_at(addresses["logits"], shape[0] * CLASSES)[:] = np.outer(means, np.arange(1, CLASSES + 1)).ravel()


def numbers_at(address: int, count: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


class Engine:
    num_io_tensors = 2

    def __init__(self, profiles: list[tuple[int, int]]) -> None:
        self.profiles, self.contexts = profiles, list[Context]()
        self.capture_fails = self.fails = self.full = False
        self.strict = True
        self.told = json.dumps({"Layers": [{"Weights": {"Type": "Half", "Count": 3}}]})
        self.num_optimization_profiles = len(profiles)

    def get_tensor_name(self, index: int) -> str:
        return ("input", "logits")[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.INPUT if name == "input" else Mode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3, 8, 8) if name == "input" else (-1, CLASSES)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        low, high = self.profiles[index]
        return [(low, 3, 8, 8), (low, 3, 8, 8), (high, 3, 8, 8)]

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy=None, dynamic_shapes_kernel_specialization_strategy=None)

    def create_execution_context(self, config: Any = None) -> Context | None:
        if self.full:
            return None
        self.contexts.append(Context(self, getattr(config, "cuda_graph_strategy", None)))
        return self.contexts[-1]

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _form: self.told)


def module(engine: Engine | None, *, rtx: bool = False) -> Any:
    """What `import tensorrt` gives, with a runtime that loads this engine, or none."""
    runtime = lambda _logger: SimpleNamespace(deserialize_cuda_engine=lambda _plan: engine)  # noqa: E731
    made = SimpleNamespace(
        __version__="11.4.0.1",
        Runtime=runtime,
        TensorIOMode=Mode,
        LayerInformationFormat=SimpleNamespace(JSON=0),
        float32="float32",
        float16="float16",
        bfloat16="bfloat16",
        uint8="uint8",
    )
    if rtx:
        made.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole", DISABLED="disabled")
        made.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    return made


def pretend_cuda(patch: pytest.MonkeyPatch) -> None:
    """Lets the session's calls to torch.cuda work on a CPU."""
    stream = SimpleNamespace(cuda_stream=7, wait_stream=lambda _other: None, synchronize=lambda: None)

    @contextmanager
    def capturing(graph: Graph, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert stream.cuda_stream == 7
        assert capture_error_mode == "thread_local"
        Graph.recording = graph
        try:
            yield
        finally:
            Graph.recording = None

    for name, value in {
        "device": lambda _device: nullcontext(),
        "Stream": lambda: stream,
        "stream": lambda _stream: nullcontext(),
        "current_stream": lambda *_device: stream,
        "synchronize": lambda *_device: None,
        "get_device_name": lambda: "Pretended GPU",
        "CUDAGraph": Graph,
        "graph": capturing,
    }.items():
        patch.setattr(torch.cuda, name, value)
    patch.setattr(torch.Tensor, "record_stream", lambda _tensor, _stream: None, raising=False)
