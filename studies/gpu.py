"""What the README should say of this project on an NVIDIA GPU: one command, under eight minutes on a data-centre GPU.

Run: python studies/gpu.py --json studies/results/gpu.json --markdown studies/results/gpu.md

Training throughput of ResNet-50, iResNet-50 and iResNet-101; then iResNet-50 in every backend and precision: parity with the
float64 network, throughput at the batch size where it is best, share of the speed that matrix products reach on this GPU, and
latency at batch 1, measured in turns in random order. What cannot be measured here is left out, and the results say why. After
every candidate the JSON is written anew, so that a crash loses one candidate. Untrained weights, seeded noise.

--smoke runs the same on a small network on a CPU, in seconds: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_candidates import Plan, candidates
from rich.console import Console
from torch import Tensor

from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.base import Session
from iresnet_export.benchmark.clock import Timed, measure
from iresnet_export.benchmark.limits import scaled_product
from iresnet_export.benchmark.statistics import latency_of
from iresnet_export.errors import IResNetError
from iresnet_export.system import nvidia
from iresnet_export.system.environment import environment
from iresnet_export.system.progress import no_progress
from iresnet_export.system.torch_settings import without_tf32
from iresnet_models import ModelSpec
from iresnet_models.errors import first_line, named_line
from iresnet_models.files import write_json, write_text
from iresnet_models.network import network_from_spec
from iresnet_models.operations import multiply_accumulates
from iresnet_models.preprocessing import noise_pixels, normalised


@dataclass
class Results:
    """All that was found so far; `left_out` {what: why}."""

    plan: Plan
    path: Path | None
    started: float = field(default_factory=time.perf_counter)
    limits: dict[str, float] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    inference: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def attempting(self, what: str) -> Iterator[None]:
        """Records why something failed and goes on; Ctrl-C ends the run."""
        try:
            yield
        except Exception as error:
            self.left_out[what] = first_line(error) if isinstance(error, IResNetError) else named_line(error)
        self.write()

    def late(self, what: str) -> bool:
        if time.perf_counter() - self.started <= self.plan.last_start:
            return False
        self.left_out[what] = f"it was not begun: {self.plan.last_start:.0f} s had passed"
        return True

    def to_json(self) -> dict[str, Any]:
        plan = {**asdict(self.plan), "device": str(self.plan.device)}
        driver = nvidia.driver()
        return {
            "date": datetime.now(UTC).date().isoformat(),
            "environment": environment() | {"driver": driver.version if driver else None},
            "settings": plan,
            "seconds": time.perf_counter() - self.started,
            "limits_tflops": self.limits,
            "training": self.training,
            "inference": self.inference,
            "left_out": self.left_out,
        }

    def write(self) -> None:
        if self.path is not None:
            write_json(self.path, self.to_json())


def main(arguments: list[str] | None = None) -> Results:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a small network on a CPU, in seconds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    missing = None if options.smoke else nvidia.absence()
    if missing is not None:
        parser.exit(3, f"gpu.py: {missing.reason}; {missing.remedy}; or try the script itself with --smoke.\n")
    results = Results(Plan.smoke() if options.smoke else Plan(torch.device("cuda")), options.json)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        find_limits(results)
        for arch, depth in results.plan.training:
            for precision in ("fp32", "bf16"):
                what = f"training {arch}{depth} in {precision}"
                if not results.late(what):
                    with results.attempting(what):
                        results.training.append(trained(arch, depth, precision, results.plan))
                    if results.plan.device.type == "cuda":
                        torch.cuda.empty_cache()
        measure_inference(results, Path(folder), stack)
    results.write()
    text = markdown(results)
    if options.markdown is not None:
        write_text(options.markdown, text)
    Console(width=200, highlight=False, markup=False).print(text)
    return results


def find_limits(results: Results) -> None:
    """10¹² operations a second of the best of several matrix products, by precision; what "share of the limit" is a share of."""
    plan, types = results.plan, {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
    here = nvidia.gpu()
    if here is not None and here.has_fp8:
        types["fp8"] = torch.float8_e4m3fn
    for name, dtype in types.items():
        with results.attempting(f"limit of {name}"):
            generator = torch.Generator(plan.device).manual_seed(0)
            size = (plan.matrix, plan.matrix)
            if dtype is torch.int8:
                first = torch.randint(-128, 127, size, dtype=dtype, device=plan.device, generator=generator)
            else:
                first = torch.randn(size, device=plan.device, generator=generator).to(dtype)
            multiply: Callable[[Tensor, Tensor], Tensor] = torch._int_mm if dtype is torch.int8 else torch.mm
            run = partial(scaled_product, first, first) if name == "fp8" else partial(multiply, first, first.t())
            seconds = min(timed_runs(run, 1, plan) for _ in range(8))
            results.limits[name] = 2 * plan.matrix**3 / seconds / 1e12


def timed_runs(run: Callable[[], object], count: int, plan: Plan) -> float:
    """Seconds of `count` runs: by events on a GPU, so that the host's part is not counted."""
    if plan.device.type == "cpu":
        begin = time.perf_counter()
        for _ in range(count):
            run()
        return time.perf_counter() - begin
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    for _ in range(count):
        run()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3


def seconds_per_run(run: Callable[[], object], plan: Plan) -> float:
    """After three runs to warm up, over as many as fit into the plan's time."""
    timed_runs(run, 3, plan)
    count = max(3, math.ceil(plan.throughput_seconds / max(timed_runs(run, 3, plan) / 3, 1e-6)))
    return timed_runs(run, count, plan) / count


def trained(arch: str, depth: int, precision: str, plan: Plan) -> dict[str, Any]:
    """Images a second of forward, backward and SGD in channels-last order, images already on the device."""
    spec = ModelSpec(arch, depth).with_image_size(plan.image_size)
    network = network_from_spec(spec).to(plan.device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(plan.training_batch, 3, plan.image_size, plan.image_size, device=plan.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(plan.training_batch, device=plan.device) % spec.num_classes

    def step() -> None:
        with torch.autocast(plan.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    with without_tf32():
        seconds = seconds_per_run(step, plan)
    rate = plan.training_batch / seconds
    return {"network": spec.name, "precision": precision, "batch": plan.training_batch, "images_per_second": rate}


def measure_inference(results: Results, folder: Path, stack: ExitStack) -> None:
    plan = results.plan
    source = untrained_source(ModelSpec("iresnet", plan.depth).with_image_size(plan.image_size), seed=0)
    reference = Reference(source, plan)
    opened: list[tuple[dict[str, Any], Session]] = []
    for candidate in candidates(source, plan, folder):
        if results.late(candidate.name):
            continue
        with results.attempting(candidate.name):
            session = stack.enter_context(candidate.open())
            row = {"candidate": candidate.name, "backend": candidate.backend, "precision": candidate.precision}
            if session.computed_precision != candidate.precision:
                raise RuntimeError(f"it is computed in {session.computed_precision} here")
            row |= reference.parity(session) | throughput(session, source, plan, results.limits.get(candidate.precision))
            row["notices"] = list(getattr(session, "notices", []))
            results.inference.append(row)
            opened.append((row, session))
    with results.attempting("latency"):
        images = normalised(noise_pixels(source.spec, 1, seed=1), source.spec)
        images = images.pin_memory() if plan.device.type == "cuda" else images
        runs = [
            Timed(row["candidate"], lambda session=session: session.run(images.to(plan.device, non_blocking=True)).cpu())
            for row, session in opened
        ]
        samples = measure(runs, seconds=plan.seconds, warmup_seconds=min(0.3, plan.seconds), seed=0, progress=no_progress)
        for (row, session), found in zip(opened, samples, strict=True):
            row["latency_ms"] = asdict(latency_of(found))
            there = images.to(plan.device)
            row["device_ms"] = 1e3 * seconds_per_run(lambda session=session, there=there: session.run(there), plan)


class Reference:
    """Logits of the float64 network, on the plan's device."""

    def __init__(self, source: Source, plan: Plan) -> None:
        self._inputs = normalised(noise_pixels(source.spec, 16, seed=2), source.spec)
        network = network_from_spec(source.spec)
        network.load_state_dict(source.network.state_dict())
        network = network.double().eval().to(plan.device)
        with torch.inference_mode():
            self._logits = network(self._inputs.double().to(plan.device)).cpu()

    def parity(self, session: Session) -> dict[str, Any]:
        """Signal to noise in decibels, and the share of images of the same first class."""
        found = session.run(self._inputs.to(session.device)).double().cpu()
        noise = float((found - self._logits).square().sum())
        ratio = 10 * math.log10(float(self._logits.square().sum()) / noise) if noise else None
        agreement = float((found.argmax(1) == self._logits.argmax(1)).double().mean())
        if not torch.isfinite(found).all():
            raise RuntimeError("its logits are not numbers")
        return {"sqnr_db": ratio, "top1_agreement": agreement}


def throughput(session: Session, source: Source, plan: Plan, limit: float | None) -> dict[str, Any]:
    """Images a second at each batch size, with images already on the device, and the best of them."""
    rates: dict[int, float] = {}
    for batch in plan.batches:
        if session.batch is None or session.batch[0] <= batch <= session.batch[1]:
            images = torch.randn(batch, 3, plan.image_size, plan.image_size, device=plan.device)
            rates[batch] = batch / seconds_per_run(lambda images=images: session.run(images), plan)
    best = max(rates, key=lambda batch: rates[batch])
    teraflops = 2 * multiply_accumulates(source.spec) * rates[best] / 1e12
    return {
        "images_per_second": {str(batch): rate for batch, rate in rates.items()},
        "best_batch": best,
        "tflops": teraflops,
        "limit_share": teraflops / limit if limit else None,
    }


def markdown(results: Results) -> str:
    """The tables as the README has them, and what was left out."""
    found = results.to_json()
    gpus = found["environment"]["hardware"]["gpus"]
    where = gpus[0]["name"] if gpus else "a CPU: a smoke test, whose figures mean nothing"
    versions = ", ".join(f"{name} {version}" for name, version in found["environment"]["versions"].items())
    lines = [f"Measured on {where}, driver {found['environment']['driver'] or 'none'}, {found['date']}: {versions}.", ""]
    lines += ["| training | precision | batch | images/s |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {row['network']} | {row['precision']} | {row['batch']} | {row['images_per_second']:,.0f} |" for row in results.training
    ]
    lines += [
        "",
        "| candidate | signal to noise, dB | latency ms, batch 1 (on the device) | images/s (batch) | share of the limit |",
    ]
    lines += ["| --- | --- | --- | --- | --- |"]
    for row in results.inference:
        latency = f"{row['latency_ms']['p50']:.3f} ({row['device_ms']:.3f})" if "latency_ms" in row else ""
        rate = f"{row['images_per_second'][str(row['best_batch'])]:,.0f} ({row['best_batch']})"
        share = "" if row["limit_share"] is None else f"{row['limit_share']:.0%}"
        noise = "exact" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        lines.append(f"| {row['candidate']} | {noise} | {latency} | {rate} | {share} |")
    limits = ", ".join(f"{name} {value:.3g}" for name, value in results.limits.items())
    lines += ["", f"Limits, 10¹² operations a second of matrix products of {results.plan.matrix} rows: {limits}."]
    lines += ["", "Left out:", *(f"- {what}: {why}" for what, why in results.left_out.items())] if results.left_out else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
