"""The figures that this project promises for CPUs, measured in one interleaved run: batch 1, 224 pixels, untrained weights.

Run: python studies/cpu_inference.py --json studies/results/cpu_inference.json

Candidates take turns in random order (iresnet_export.benchmark.clock), speed-ups are paired, with 95 % intervals. `plain` is what a
user gets without this project: torch.onnx.export of the network as it is, and for int8 onnxruntime.quantization (U8S8, QDQ, per
channel) on it, with the same images. Needs the extras dev and openvino.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.registry import runtime_named
from iresnet_export.benchmark.clock import Samples, Timed, measure
from iresnet_export.benchmark.quantizers import by_onnxruntime
from iresnet_export.benchmark.stability import halves_agree
from iresnet_export.benchmark.statistics import latency_of, speedup_of
from iresnet_export.exporting import export_artifact
from iresnet_export.system.environment import environment
from iresnet_export.system.progress import no_progress
from iresnet_models import ModelSpec
from iresnet_models.files import write_json
from iresnet_models.operations import multiply_accumulates
from iresnet_models.preprocessing import noise_pixels, normalised

CPU = torch.device("cpu")
Measured = dict[str, Samples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="measured time for each candidate")
    parser.add_argument("--depths", default="18,34,50,101,152,200", help="depths of the comparison of folded and unfolded")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    logging.getLogger().setLevel(logging.ERROR)  # onnxruntime.quantization remarks on every BatchNorm
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        maker = Maker(Path(folder), options.image_size, options.threads, stack)
        runtimes = maker.runtimes()
        found = timed(runtimes, options.seconds)
        claims = claims_of(found, ModelSpec("iresnet", 50), ModelSpec("resnet", 50))
    depths = []
    for depth in map(int, options.depths.split(",")):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            maker = Maker(Path(folder), options.image_size, options.threads, stack)
            pair = timed(maker.folded_and_unfolded(depth), options.seconds)
            depths.append(claim(f"iresnet{depth}: folded float32 over unfolded", pair["unfolded"], pair["folded"], 0.98, "lower"))
    show(found, [*claims, *depths])
    if options.json is not None:
        latencies = {name: latency_of(samples).__dict__ for name, samples in found.items()}
        about = {"batch": 1, "image_size": options.image_size, "threads": options.threads, "seconds": options.seconds}
        date = datetime.now(UTC).date().isoformat()
        document = {"date": date, "environment": environment(), "settings": about, "latency_ms": latencies}
        write_json(options.json, document | {"claims": [*claims, *depths]})


class Maker:
    """Makes candidates: artifacts in a folder, and sessions that live as long as the stack."""

    def __init__(self, folder: Path, image_size: int, threads: int, stack: ExitStack) -> None:
        self._folder, self._size, self._threads, self._stack = folder, image_size, threads, stack

    def runtimes(self) -> dict[str, Callable[[], object]]:
        """iResNet-50 in every runtime and precision, and ResNet-50 to compare it with."""
        found: dict[str, Callable[[], object]] = {}
        for arch in ("iresnet", "resnet"):
            source = self._source(arch, 50)
            float32, int8 = self._onnx(source), self._onnx(source, precision="int8")
            found[f"{arch}50 fp32 onnxruntime"] = self._run("onnxruntime", float32)
            found[f"{arch}50 int8 onnxruntime"] = self._run("onnxruntime", int8)
            found[f"{arch}50 int8 openvino"] = self._run("openvino", int8)
            if arch == "iresnet":
                plain = self._plain(source)
                found["iresnet50 fp32 onnxruntime, plain"] = self._run("onnxruntime", plain)
                found["iresnet50 int8 onnxruntime, plain"] = self._run("onnxruntime", self._plain_int8(source, plain))
                found["iresnet50 fp32 openvino"] = self._run("openvino", float32)
                found["iresnet50 bf16 openvino"] = self._run("openvino", self._onnx(source, precision="bf16"))
                script = export_artifact("torchscript", source, ExportOptions(), output=self._folder / "script.ts")
                found["iresnet50 fp32 torchscript"] = self._run("torchscript", script)
                found["iresnet50 fp32 eager"] = self._session(EagerSession(source.network, CPU, self._threads))
        return found

    def folded_and_unfolded(self, depth: int) -> dict[str, Callable[[], object]]:
        source = self._source("iresnet", depth)
        return {name: self._run("onnxruntime", self._onnx(source, fold=name == "folded")) for name in ("folded", "unfolded")}

    def _source(self, arch: str, depth: int) -> Source:
        return untrained_source(ModelSpec(arch, depth).with_image_size(self._size), seed=0)

    def _onnx(self, source: Source, **options: Any) -> Artifact:
        name = "-".join([source.spec.name, *(f"{key}{value}" for key, value in options.items())])
        return export_artifact("onnx", source, ExportOptions(**options), output=self._folder / f"{name}.onnx")

    def _plain(self, source: Source) -> Artifact:
        path = self._folder / "plain.onnx"
        program = torch.onnx.export(source.network, (self._image(),), dynamo=True, verbose=False)
        assert program is not None
        program.save(path)
        return Artifact(path, "onnx", None)

    def _plain_int8(self, source: Source, plain: Artifact) -> Artifact:
        images = normalised(noise_pixels(source.spec, 32, seed=0), source.spec).numpy()
        path = self._folder / "plain-int8.onnx"
        by_onnxruntime(plain.path, path, [image[None] for image in images])
        return Artifact(path, "onnx", None)

    def _image(self) -> torch.Tensor:
        spec = ModelSpec("iresnet", 50).with_image_size(self._size)
        return normalised(noise_pixels(spec, 1, seed=1), spec)

    def _run(self, backend: str, artifact: Artifact) -> Callable[[], object]:
        return self._session(runtime_named(backend).load(artifact, CPU, threads=self._threads))

    def _session(self, session: Any) -> Callable[[], object]:
        self._stack.enter_context(session)
        image = self._image()
        return lambda: session.run(image)


def timed(candidates: dict[str, Callable[[], object]], seconds: float) -> Measured:
    samples = measure(
        [Timed(name, run) for name, run in candidates.items()], seconds=seconds, warmup_seconds=1.0, seed=0, progress=no_progress
    )
    for one in samples:
        if one.failure is not None:
            raise one.failure
    return dict(zip(candidates, samples, strict=True))


def claims_of(found: Measured, iresnet: ModelSpec, resnet: ModelSpec) -> list[dict[str, Any]]:
    """What is promised, and what was measured of it."""
    float32, int8 = found["iresnet50 fp32 onnxruntime"], found["iresnet50 int8 onnxruntime"]
    fastest = min((name for name in found if name.startswith("iresnet")), key=lambda name: median(found[name].all))
    work = multiply_accumulates(iresnet) / multiply_accumulates(resnet)
    claims = [
        claim("int8 over float32, both folded, in ONNX Runtime", float32, int8, 2.6),
        claim("folded int8 over plain int8, in ONNX Runtime", found["iresnet50 int8 onnxruntime, plain"], int8, 1.4),
        claim(f"the fastest ({fastest}) over ONNX Runtime in float32", float32, found[fastest], 3.2),
    ]
    for precision, least in (("fp32", 1 / 1.03), ("int8", 1 / 1.05)):
        ours, other = (found[f"{arch}50 {precision} onnxruntime"] for arch in ("iresnet", "resnet"))
        name = f"iResNet-50 over ResNet-50 per multiply-accumulate, {precision}, in ONNX Runtime"
        claims.append(claim(name, other, ours, least, factor=work))
    name = "iResNet-50 over ResNet-50 per multiply-accumulate, int8, in OpenVINO"
    return [*claims, claim(name, found["resnet50 int8 openvino"], found["iresnet50 int8 openvino"], 1 / 1.05, factor=work)]


def claim(
    name: str, baseline: Samples, candidate: Samples, least: float, bound: str = "median", factor: float = 1.0
) -> dict[str, Any]:
    """A paired speed-up against what was promised: stable, and its median or the interval's lower end (`bound`) reaches that."""
    speedup = speedup_of(baseline, candidate)
    low, high = (factor * end for end in speedup.ci95)
    middle = factor * speedup.p50
    stable = halves_agree(baseline.rounds) and halves_agree(candidate.rounds)
    met = stable and bool((middle if bound == "median" else low) >= least)
    return {"claim": name, "speedup": middle, "ci95": [low, high], "promised": least, "bound": bound, "stable": stable, "met": met}


def show(found: Measured, claims: list[dict[str, Any]]) -> None:
    out = Console(width=200, highlight=False)
    slowest = found["iresnet50 fp32 onnxruntime"]
    out.print("| candidate | median ms | speed-up over ONNX Runtime float32, folded |\n| --- | --- | --- |")
    for name, samples in sorted(found.items(), key=lambda item: median(item[1].all)):
        speedup = speedup_of(slowest, samples)
        out.print(f"| {name} | {median(samples.all):.2f} | {speedup.p50:.2f} ({speedup.ci95[0]:.2f} to {speedup.ci95[1]:.2f}) |")
    out.print("\n| claim | promised | measured | met |\n| --- | --- | --- | --- |")
    for entry in claims:
        low, high = entry["ci95"]
        measured = f"{entry['speedup']:.3f} ({low:.3f} to {high:.3f})"
        out.print(f"| {entry['claim']} | {entry['promised']:.3g} | {measured} | {'yes' if entry['met'] else 'NO'} |")


if __name__ == "__main__":
    main()
