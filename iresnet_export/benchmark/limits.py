"""What this machine does at most: operations a second in each precision, and bytes a second from memory.

A limit is what the fastest of several kernels reached at its best: large matrix products and 3x3 convolutions, by every library
here. Each is measured as the candidates are, host to host, with the same number of threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iresnet_export.backends.base import HostSession
from iresnet_export.backends.onnxruntime.runtime import OnnxHostSession
from iresnet_export.backends.openvino.runtime import OpenVino, OpenVinoSession
from iresnet_export.benchmark.clock import CLOCK, Clock
from iresnet_export.errors import IResNetError
from iresnet_export.reporting.schemas import BenchResult, Limit
from iresnet_export.system.progress import Progress
from iresnet_export.system.torch_settings import torch_threads

SECONDS, LEAST_RUNS = 0.25, 4
SIZE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices: large enough to keep every core or multiprocessor busy."""

CHANNELS, PIXELS, BATCH, LAYERS = 256, 28, 2, 3
"""Of the chain of 3x3 convolutions, which keeps the library's own layout from one to the next, as a network does."""

_TYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}
_STREAM = {"cpu": 2**24, "cuda": 2**28}
"""Numbers in each array of the bandwidth's: four bytes each, far more than caches hold."""

Kernel = tuple[str, float, Callable[[], object]]
"""How it is called, its operations, and one run of it."""


def measured_limits(precisions: Sequence[str], threads: int, device: torch.device, folder: Path, progress: Progress) -> list[Limit]:
    """One for each precision in which any kernel runs here; `folder` takes small files."""
    progress("Measuring what the machine can do", 0.0)
    try:
        bandwidth = measured_bandwidth(threads, device)
    except RuntimeError:  # not enough memory beside what is loaded
        return []
    found = []
    for step, precision in enumerate(precisions):
        progress(f"Measuring what the machine can do in {precision}", step / len(precisions))
        speeds = [(rate / 1e9, name) for name, rate in _rates(precision, threads, device, folder)]
        if speeds:
            gflops, name = max(speeds)
            found.append(Limit(precision, threads, gflops, name, bandwidth))
    return found


def raised(limits: Sequence[Limit], results: Sequence[BenchResult]) -> list[Limit]:
    """The limits, and where a network itself was faster than every kernel that was tried, what it reached."""
    found = []
    for limit in limits:
        own = [r for r in results if r.gflops and (r.precision, r.threads) == (limit.precision, limit.threads)]
        best = max(own, key=lambda result: result.gflops or 0.0, default=None)
        if best is not None and best.gflops is not None and best.gflops > limit.gflops:
            kernel = f"{best.artifact} by {best.backend} at batch {best.batch}, faster than every kernel that was tried"
            limit = dataclasses.replace(limit, gflops=best.gflops, kernel=kernel)
        found.append(limit)
    return found


def better(limits: Sequence[Limit]) -> list[Limit]:
    """Of several measurements of the same limits the highest of each."""
    groups: dict[tuple[str, int], list[Limit]] = {}
    for limit in limits:
        groups.setdefault((limit.precision, limit.threads), []).append(limit)
    found = []
    for group in groups.values():
        bandwidth = max(limit.bandwidth_gb_s or 0.0 for limit in group)
        found.append(dataclasses.replace(max(group, key=lambda limit: limit.gflops), bandwidth_gb_s=bandwidth))
    return found


def with_fractions(results: Sequence[BenchResult], limits: Sequence[Limit]) -> list[BenchResult]:
    """The results with the share of the limit that each one reached."""
    known = {(limit.precision, limit.threads): limit.gflops for limit in limits}
    found = []
    for result in results:
        limit = known.get((result.precision, result.threads))
        if result.gflops is not None and limit is not None:
            result = dataclasses.replace(result, peak_fraction=result.gflops / limit)
        elif result.gflops is not None:
            why = f"what this machine can do in {result.precision} was not measured"
            result = dataclasses.replace(result, null_reasons=result.null_reasons | {"peak_fraction": why})
        found.append(result)
    return found


def measured_bandwidth(threads: int, device: torch.device, clock: Clock = CLOCK) -> float:
    """10⁹ bytes a second of a sum of two arrays into a third, at its best; what is read and written counts once each."""
    count = _STREAM[device.type]
    first, second, out = (torch.ones(count, device=device) for _ in range(3))
    with torch_threads(threads), torch.inference_mode():
        seconds = best_time(_synchronised(lambda: torch.add(first, second, out=out), device), clock)
    return 3 * 4 * count / seconds / 1e9


def best_time(run: Callable[[], object], clock: Clock = CLOCK) -> float:
    """The shortest of several runs, in seconds: a limit is what can be reached."""
    clock.settle()
    run()
    shortest, runs, start = float("inf"), 0, clock.now()
    while runs < LEAST_RUNS or clock.now() - start < SECONDS:
        begin = clock.now()
        run()
        shortest = min(shortest, clock.now() - begin)
        runs += 1
    return shortest


def _rates(precision: str, threads: int, device: torch.device, folder: Path) -> Iterator[tuple[str, float]]:
    """Operations a second of each kernel that runs here."""
    for kernel in (_matrix_product, _convolution, _onnxruntime_chain, _openvino_chain):
        try:
            with kernel(precision, threads, device, folder) as found, torch_threads(threads), torch.inference_mode():
                if found is not None:
                    name, operations, run = found
                    yield name, operations / best_time(run)
        except (RuntimeError, NotImplementedError, IResNetError):
            continue  # this library has no such kernel for this processor, or no memory for it; another may


@contextmanager
def _matrix_product(precision: str, threads: int, device: torch.device, folder: Path) -> Iterator[Kernel | None]:
    del threads, folder
    size = SIZE[device.type]
    products: dict[str, tuple[str, Callable[[Tensor], object]]] = {
        "int8": ("torch._int_mm", lambda matrix: torch._int_mm(matrix, matrix)),
        "fp8": ("torch._scaled_mm", lambda matrix: scaled_product(matrix, matrix)),
    }
    library, product = products.get(precision, ("torch.mm", lambda matrix: matrix @ matrix))
    if _in_torch(precision, device) or precision == "int8" or (precision == "fp8" and device.type != "cpu"):
        matrix = torch.ones(size, size, device=device).to(_TYPES[precision])
        yield f"{library} of {size}x{size}", 2.0 * size**3, _synchronised(lambda: product(matrix), device)
    else:
        yield None


@contextmanager
def _convolution(precision: str, threads: int, device: torch.device, folder: Path) -> Iterator[Kernel | None]:
    del threads, folder
    if not _in_torch(precision, device):
        yield None
        return
    images, weights = (
        torch.ones(count, CHANNELS, rows, rows, dtype=_TYPES[precision], device=device).to(memory_format=torch.channels_last)
        for count, rows in ((BATCH, PIXELS), (CHANNELS, 3))
    )
    convolve = _synchronised(lambda: torch.nn.functional.conv2d(images, weights, padding=1), device)
    yield f"torch conv2d, 3x3, {CHANNELS} channels", _chain_operations(1), convolve


def _in_torch(precision: str, device: torch.device) -> bool:
    """Whether PyTorch computes in it; on most processors it emulates float16, for minutes."""
    return precision in ("fp32", "bf16") or (precision == "fp16" and device.type != "cpu")


def scaled_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right.T of two matrices in fp8, in bfloat16, as PyTorch has it for GPUs of compute capability 8.9 or more."""
    scale = torch.ones((), device=left.device)
    return torch._scaled_mm(left, right.t(), scale, scale, out_dtype=torch.bfloat16)


@contextmanager
def _onnxruntime_chain(precision: str, threads: int, device: torch.device, folder: Path) -> Iterator[Kernel | None]:
    if device.type != "cpu" or precision not in ("fp32", "int8"):
        yield None
        return
    with OnnxHostSession(_chain_file(precision, folder), threads=threads) as session:
        yield _chain_kernel("ONNX Runtime", session, precision)


@contextmanager
def _openvino_chain(precision: str, threads: int, device: torch.device, folder: Path) -> Iterator[Kernel | None]:
    if device.type != "cpu" or precision not in ("fp32", "bf16", "int8") or not OpenVino().is_installed():
        yield None
        return
    with OpenVinoSession(_chain_file(precision, folder), precision, threads) as session:
        yield _chain_kernel("OpenVINO", session, precision) if session.computed_precision == precision else None


def _chain_file(precision: str, folder: Path) -> Path:
    path = folder / f"chain-{precision}.onnx"
    if not path.exists():
        path.write_bytes(convolution_chain(precision == "int8"))
    return path


def _chain_kernel(library: str, session: HostSession, precision: str) -> Kernel:
    images = np.ones((BATCH, CHANNELS, PIXELS, PIXELS), np.uint8 if precision == "int8" else np.float32)
    name = f"{library}, {LAYERS} convolutions, 3x3, {CHANNELS} channels"
    return name, _chain_operations(LAYERS), lambda: session.run(images)


def _chain_operations(layers: int) -> float:
    return 2.0 * layers * BATCH * CHANNELS * PIXELS**2 * CHANNELS * 9


def convolution_chain(int8: bool) -> bytes:
    """An ONNX graph of 3x3 convolutions, in float32 or with every value between them quantized."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    values: list[Any] = []
    generator = np.random.default_rng(0)

    def constant(name: str, value: Any) -> str:
        values.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    shape, current = (BATCH, CHANNELS, PIXELS, PIXELS), "images"
    scale, zero = constant("scale", np.float32(0.02)), constant("zero", np.uint8(0))
    for layer in range(LAYERS):
        codes = generator.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3))
        if int8:
            weights = constant(f"codes{layer}", codes.astype(np.int8))
            coding = constant(f"scale{layer}", np.float32(0.001)), constant(f"zero{layer}", np.int8(0))
            nodes.append(helper.make_node("DequantizeLinear", [weights, *coding], [f"weights{layer}"]))
            nodes.append(helper.make_node("DequantizeLinear", [current, scale, zero], [f"input{layer}"]))
            current = f"input{layer}"
        else:
            constant(f"weights{layer}", (codes * 0.001).astype(np.float32))
        nodes.append(helper.make_node("Conv", [current, f"weights{layer}"], [f"conv{layer}"], pads=[1, 1, 1, 1]))
        current = f"conv{layer}"
        if int8:
            nodes.append(helper.make_node("QuantizeLinear", [current, scale, zero], [f"output{layer}"]))
            current = f"output{layer}"
    kind = TensorProto.UINT8 if int8 else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info(current, kind, shape)]
    graph = helper.make_graph(nodes, "chain", [helper.make_tensor_value_info("images", kind, shape)], outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _synchronised(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        return run

    def waiting() -> None:
        run()
        torch.cuda.synchronize(device)

    return waiting
