"""What this machine does at most: operations a second in each precision, and bytes a second from memory.

A limit is what the fastest of several kernels reached at its best: large matrix products and 3x3
convolutions, by every library here. Each is
measured as the candidates are, host to host, with the same number of threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iresnet_export.backends.eager import torch_threads
from iresnet_export.backends.onnxruntime import OnnxSession
from iresnet_export.backends.openvino import OpenVino, OpenVinoSession
from iresnet_export.benchmark.clock import CLOCK, Clock
from iresnet_export.benchmark.results import Limit, Result
from iresnet_export.errors import IResNetError
from iresnet_export.progress import Progress

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
    bandwidth = measured_bandwidth(threads, device)
    found = []
    for step, precision in enumerate(precisions):
        progress(f"Measuring what the machine can do in {precision}", step / len(precisions))
        speeds = [(rate / 1e9, name) for name, rate in _rates(precision, threads, device, folder)]
        if speeds:
            gflops, name = max(speeds)
            found.append(Limit(precision, threads, gflops, name, bandwidth))
    return found


def raised(limits: Sequence[Limit], results: Sequence[Result]) -> list[Limit]:
    """The limits, and where a network itself was faster than every kernel that was tried, what it reached."""
    found = []
    for limit in limits:
        own = [r for r in results if r.gflops and (r.precision, r.subject.threads) == (limit.precision, limit.threads)]
        best = max(own, key=lambda result: result.gflops or 0.0, default=None)
        if best is not None and best.gflops is not None and best.gflops > limit.gflops:
            kernel = f"{best.artifact} by {best.backend} at batch {best.batch}, faster than every kernel that was tried"
            limit = dataclasses.replace(limit, gflops=best.gflops, kernel=kernel)
        found.append(limit)
    return found


def better(first: Sequence[Limit], second: Sequence[Limit]) -> list[Limit]:
    """Of two measurements of the same limits the higher of each."""
    pairs = zip(first, second, strict=True)
    return [
        dataclasses.replace(max(pair, key=lambda limit: limit.gflops), bandwidth_gb_s=max(limit.bandwidth_gb_s for limit in pair))
        for pair in pairs
    ]


def with_fractions(results: Sequence[Result], limits: Sequence[Limit]) -> list[Result]:
    """The results with the share of the limit that each one reached."""
    known = {(limit.precision, limit.threads): limit.gflops for limit in limits}
    found = []
    for result in results:
        limit = known.get((result.precision, result.subject.threads))
        if result.gflops is not None and limit is not None:
            result = dataclasses.replace(result, peak_fraction=result.gflops / limit)
        elif result.gflops is not None:
            why = f"what this machine can do in {result.precision} was not measured"
            result = dataclasses.replace(result, missing=result.missing | {"peak_fraction": why})
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
    for kernels in (_torch_kernels, _runtime_kernels):
        pending = kernels(precision, threads, device, folder)
        while True:
            try:
                name, operations, run = next(pending)
                with torch_threads(threads), torch.inference_mode():
                    yield name, operations / best_time(run)
            except StopIteration:
                break
            except (RuntimeError, NotImplementedError, IResNetError):
                # This library has no such kernel for this processor; another may.
                continue


def _torch_kernels(precision: str, threads: int, device: torch.device, folder: Path) -> Iterator[Kernel]:
    del threads, folder
    size, kind = SIZE[device.type], _TYPES[precision]
    operations = 2.0 * size**3
    library = "cuBLAS" if device.type == "cuda" else "oneDNN or MKL"
    if precision == "int8":
        left, right = (torch.ones(size, size, dtype=kind, device=device) for _ in range(2))
        yield f"torch._int_mm of {size}x{size}", operations, _synchronised(lambda: torch._int_mm(left, right), device)
        return
    if precision in ("fp16", "fp8") and device.type == "cpu":
        return  # PyTorch emulates it on most processors, for minutes
    if precision == "fp8":
        left = torch.ones(size, size, device=device).to(kind)
        yield f"torch._scaled_mm of {size}x{size}", operations, _synchronised(lambda: scaled_product(left, left), device)
        return
    left, right = (torch.ones(size, size, dtype=kind, device=device) for _ in range(2))
    yield f"torch.mm of {size}x{size} ({library})", operations, _synchronised(lambda: left @ right, device)
    images = torch.ones(BATCH, CHANNELS, PIXELS, PIXELS, dtype=kind, device=device).to(memory_format=torch.channels_last)
    weights = torch.ones(CHANNELS, CHANNELS, 3, 3, dtype=kind, device=device).to(memory_format=torch.channels_last)
    convolve = _synchronised(lambda: torch.nn.functional.conv2d(images, weights, padding=1), device)
    yield f"torch conv2d, 3x3, {CHANNELS} channels", _chain_operations(1), convolve


def scaled_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right.T of two matrices in fp8, in bfloat16, as PyTorch has it for GPUs of compute capability 8.9 or more."""
    scale = torch.ones((), device=left.device)
    return torch._scaled_mm(left, right.t(), scale, scale, out_dtype=torch.bfloat16)


def _runtime_kernels(precision: str, threads: int, device: torch.device, folder: Path) -> Iterator[Kernel]:
    """The same chain of convolutions by ONNX Runtime and OpenVINO, on CPUs."""
    if device.type != "cpu" or precision in ("fp16", "fp8"):
        return
    path = folder / f"chain-{precision}.onnx"
    path.write_bytes(convolution_chain(precision == "int8"))
    kind = torch.uint8 if precision == "int8" else torch.float32
    images = torch.ones(BATCH, CHANNELS, PIXELS, PIXELS, dtype=kind)
    text = f"{LAYERS} convolutions, 3x3, {CHANNELS} channels"
    if precision != "bf16":  # ONNX Runtime has no such convolution on CPUs
        with OnnxSession(path, device, threads) as session:
            yield f"ONNX Runtime, {text}", _chain_operations(LAYERS), lambda: session.run(images)
    if OpenVino().is_installed():
        with OpenVinoSession(path, precision, threads) as compiled:
            if compiled.computed_precision == precision:
                yield f"OpenVINO, {text}", _chain_operations(LAYERS), lambda: compiled.run(images)


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
    weight_scale, weight_zero = constant("weight_scale", np.float32(0.001)), constant("weight_zero", np.int8(0))
    for layer in range(LAYERS):
        codes = generator.integers(-127, 128, (CHANNELS, CHANNELS, 3, 3))
        if int8:
            weights = constant(f"codes{layer}", codes.astype(np.int8))
            nodes.append(helper.make_node("DequantizeLinear", [weights, weight_scale, weight_zero], [f"weights{layer}"]))
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
