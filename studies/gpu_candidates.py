"""What `gpu.py` measures: its settings, and iResNet in every backend and precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.onnxruntime.cuda import CudaSettings
from iresnet_export.backends.onnxruntime.runtime import OnnxSession
from iresnet_export.backends.pt2.compiled import CompiledSession
from iresnet_export.backends.pt2.reading import load_program
from iresnet_export.backends.registry import format_named, runtime_named
from iresnet_export.backends.tensorrt.options import BuildOptions
from iresnet_export.exporting import export_artifact


@dataclass(frozen=True)
class Plan:
    """`last_start`: seconds after which nothing new is begun, so that the whole stays under eight minutes."""

    device: torch.device
    depth: int = 50
    image_size: int = 224
    batches: tuple[int, ...] = (32, 128, 256)
    training: tuple[tuple[str, int], ...] = (("resnet", 50), ("iresnet", 50), ("iresnet", 101))
    training_batch: int = 128
    seconds: float = 2.0
    throughput_seconds: float = 0.7
    matrix: int = 8192
    last_start: float = 300.0
    calibration_images: int = 64
    floating: tuple[str, ...] = ("fp32", "fp16", "bf16")
    engines: tuple[str, ...] = ("fp16", "fp32", "bf16", "int8", "fp8")
    """An engine that the GPU has no arithmetic for, fp8 before compute capability 8.9, is left out with the reason."""
    onnx: tuple[str, ...] = ("fp32", "fp16")
    packages: tuple[str, ...] = ("fp16", "bf16", "fp32")

    @classmethod
    def smoke(cls) -> Plan:
        return cls(
            device=torch.device("cpu"),
            depth=18,
            image_size=32,
            batches=(2, 4),
            training=(("iresnet", 18),),
            training_batch=2,
            seconds=0.01,
            throughput_seconds=0.01,
            matrix=128,
            last_start=600.0,
            floating=("fp32", "bf16"),
            engines=("fp32",),
            onnx=("fp32",),
            packages=(),  # each takes half a minute to compile
        )


@dataclass(frozen=True)
class Candidate:
    name: str
    backend: str
    precision: str
    open: Callable[[], Session]


def candidates(source: Source, plan: Plan, folder: Path) -> Iterator[Candidate]:
    """What matters most first; what takes longest to build, packages and torch.compile, is left out first where time runs short."""
    made: dict[str, Artifact] = {}

    def export(backend: str, precision: str, **options: Any) -> Artifact:
        key = "-".join([backend, precision, *(f"{value}" for value in options.values())])
        if key not in made:
            format = format_named(runtime_named(backend).format)
            if format.name == "aotinductor":
                options["device"] = str(plan.device)
            chosen = format.options_type(
                precision=precision,  # type: ignore[arg-type]
                max_batch=max(plan.batches),
                calibration_images=plan.calibration_images,
                **options,
            )
            made[key] = export_artifact(format.name, source, chosen, output=folder / f"{len(made)}{format.suffix}")
        return made[key]

    def program(precision: str, compiled: bool) -> Session:
        return CompiledSession(load_program(export("torch_export", precision).path), plan.device, compiled=compiled)

    def script(precision: str) -> Session:
        return runtime_named("torchscript").load(export("torchscript", precision), plan.device)

    def package(precision: str) -> Session:
        return runtime_named("aotinductor").load(export("aotinductor", precision), plan.device)

    def onnx(precision: str, settings: CudaSettings) -> Session:
        path = export("onnxruntime", precision).path
        return OnnxSession(path, plan.device, cuda=settings, ask_precision=precision != "fp32")

    def engine(precision: str) -> Session:
        # One profile for the latency of single images, one for throughput.
        profiles = (1, 1, 1), (2, plan.batches[-2], plan.batches[-1])
        artifact = export("tensorrt", precision, target="tensorrt", build=BuildOptions(profiles=profiles))
        return runtime_named("tensorrt").load(artifact, plan.device)

    yield Candidate("PyTorch, eager", "eager", "fp32", lambda: EagerSession(source.network, plan.device))
    for precision in plan.engines:
        yield Candidate(f"TensorRT, {precision}", "tensorrt", precision, lambda p=precision: engine(p))
    for precision in plan.floating:
        yield Candidate(f"PyTorch, channels-last, {precision}", "torch_export", precision, lambda p=precision: program(p, False))
        yield Candidate(f"TorchScript, {precision}", "torchscript", precision, lambda p=precision: script(p))
    fast = CudaSettings(nhwc=True, cuda_graph=True)
    for precision in plan.onnx:
        yield Candidate(f"ONNX Runtime, {precision}", "onnxruntime", precision, lambda p=precision: onnx(p, CudaSettings()))
        yield Candidate(
            f"ONNX Runtime, NHWC and CUDA graph, {precision}", "onnxruntime", precision, lambda p=precision: onnx(p, fast)
        )
    for precision in plan.packages:
        graphs = " and CUDA graph" if plan.device.type == "cuda" else ""
        yield Candidate(f"AOTInductor{graphs}, {precision}", "aotinductor", precision, lambda p=precision: package(p))
    for precision in ("fp16", "bf16", "fp32") if plan.device.type == "cuda" else ():
        yield Candidate(f"torch.compile, {precision}", "compiled", precision, lambda p=precision: program(p, True))
