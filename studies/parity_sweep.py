"""No false alarm, no miss: where float32 backends lie, where reduced precision begins, and the limit between them.

Run, one after the other, all into one file:

    python studies/parity_sweep.py --json studies/results/parity_sweep.json
    python studies/parity_sweep.py --json ... --seeds 1 --depths 18,34,50,101 --exports aotinductor --trained ""
    python studies/parity_sweep.py --json ... --seeds 1 --depths 18,34,50 --trained "" \
        --exports torchscript:bf16,onnxruntime:bf16,onnxruntime:int8
    python studies/parity_sweep.py --json ... --seeds 1 --depths 18,50 --archs resnet,iresnet --image-size 224 --trained "" \
        --plot docs/parity.svg

Every official network, untrained, over seeded noise at 32 pixels (three seeds up to depth 101, one beyond), and two networks
trained on the embedded digits. Three kinds of candidates, all in units of the same noise floor:

- unaltered: artifacts of every format as every backend here runs them, and eager PyTorch in other orders of addition (batch sizes that
  the floor was not measured with, one thread and two, channels last, without oneDNN);
- Winograd: eager PyTorch whose 3x3 convolutions are computed by Winograd's F(4x4, 3x3) in float32, as GPU libraries may: the least
  exact algorithm that is still float32;
- TF32: eager PyTorch whose convolutions get inputs and weights of 10 bits of mantissa.

For every depth of iResNet it also finds the smallest change of a single weight that the outputs alone would show.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from simulated import with_winograd
from sweep_plot import plot, summary
from torch import Tensor, nn

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source, source_from_checkpoint, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.registry import format_named, runtime_named
from iresnet_export.exporting import default_output, export_artifact
from iresnet_export.system.environment import environment
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.criteria import Criterion
from iresnet_export.verification.outputs import compare_outputs
from iresnet_export.verification.reference import Reference, onednn_off
from iresnet_export.verification.reference_cache import cached_reference
from iresnet_export.verification.tf32 import with_tf32
from iresnet_export.verification.verify import VerifyOptions, pixels_for, verify
from iresnet_models import ModelSpec, list_models
from iresnet_models.files import write_json
from iresnet_models.spec import FAMILIES

BATCHES = (1, 2, 7, 32)
OTHER_BATCHES = (3, 16)
"""Those that the floor knows nothing of."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", default=",".join(FAMILIES))
    parser.add_argument("--depths", default="18,34,50,101,152,200,302,404,1001")
    parser.add_argument("--seeds", type=int, default=3, help="Up to depth 101; one beyond.")
    parser.add_argument(
        "--exports", default="torchscript,onnxruntime,torch_export", help="Such as torchscript or onnxruntime:int8."
    )
    parser.add_argument("--trained", default="18,50", help="Depths of iResNets to be trained on the digits first; or nothing.")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--json", type=Path, help="Written anew after every network; what it has already is left out.")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    rows, smallest = known.get("results", []), known.get("smallest_single_weight_change", [])
    for source, seed in sources(options):
        started, spec = time.monotonic(), source.spec
        about = {"network": spec.name, "weights": source.weights.kind, "seed": seed, "image_size": spec.image_size}
        known_rows = [row for row in rows if row.items() >= about.items()]
        exported = {(row["exported_by"], row["precision"]) for row in known_rows}
        exports = [name.partition(":")[::2] for name in options.exports.split(",")]
        wanted = [(name, precision or "fp32") for name, precision in exports if (name, precision or "fp32") not in exported]
        found = list(artifacts(source, wanted)) if wanted else []
        if not known_rows:
            found += [*reorderings(source), *simulations(source)]
        found = [{**about, "depth": spec.depth} | row for row in found]
        rows += found
        if spec.arch == "iresnet" and seed == 0 and not any(entry.items() >= about.items() for entry in smallest):
            smallest.append({**about, "depth": spec.depth, "smallest_change": smallest_change(source)})
        if options.json is not None:
            write(options.json, rows, smallest)
        if not found:
            continue
        unaltered = [row for row in found if row["kind"] == "unaltered"]
        verdicts = ", ".join(sorted({row["status"] for row in unaltered}))
        worst = max((row["noise_ratio"] or 0.0 for row in unaltered), default=0.0)
        others = ", ".join(f"{row['kind']} {row['noise_ratio']:.3g}" for row in found if row["kind"] != "unaltered")
        took = f"{time.monotonic() - started:.0f} s"
        print(f"{spec.name}, {source.weights.kind}, seed {seed}: {verdicts}; worst {worst:.2f}; {others}; {took}", flush=True)
    summary(rows, smallest)
    if options.plot is not None:
        plot(rows, options.plot)


def write(path: Path, rows: list[dict[str, Any]], smallest: list[dict[str, Any]]) -> None:
    about = {"batches": BATCHES, "other_batches": OTHER_BATCHES, "images": 32}
    document = {"date": datetime.now(UTC).date().isoformat(), "environment": environment(), "settings": about}
    write_json(path, document | {"results": rows, "smallest_single_weight_change": smallest})


def sources(options: argparse.Namespace) -> Iterator[tuple[Source, int]]:
    """The networks, each with its seed: the shallow ones first."""
    archs, depths = options.archs.split(","), set(map(int, options.depths.split(",")))
    chosen = [(arch, depth) for arch, depth in list_models() if arch in archs and depth in depths]
    for arch, depth in sorted(chosen, key=lambda entry: entry[1]):
        spec = ModelSpec(arch, depth, num_classes=100).with_image_size(options.image_size)
        for seed in range(options.seeds if depth <= 101 else 1):
            yield untrained_source(spec, seed), seed
    for depth in map(int, filter(None, options.trained.split(","))):
        from iresnet_train import config_for, train

        with tempfile.TemporaryDirectory() as folder:
            result = train(config_for("digits", depth=depth, result_path=Path(folder) / "run"))
            yield source_from_checkpoint(result.best), 0


def artifacts(source: Source, exports: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Every export of a network, folded, as every backend here runs it."""
    trained = source.checkpoint is not None
    settings = VerifyOptions(source.checkpoint, images=32, batch_sizes=BATCHES, data="digits" if trained else None)
    with tempfile.TemporaryDirectory() as folder:
        for name, precision in exports:
            made = _exported(name, precision, source, Path(folder)).path
            for found in verify([made], settings).candidates:
                ratio = found.outputs.noise_ratio if found.outputs else None
                about = {"exported_by": name, "precision": precision}
                yield _row("unaltered", found.backend, found.status, found.reason, ratio) | about


def _exported(name: str, precision: str, source: Source, folder: Path) -> Artifact:
    options = ExportOptions(precision=precision)
    format = format_named(runtime_named(name).format)
    return export_artifact(format.name, source, options, output=default_output(format, source, options, folder))


def _row(kind: str, backend: str, status: str, reason: str | None, ratio: float | None) -> dict[str, Any]:
    return {
        "exported_by": None,
        "precision": "fp32",
        "kind": kind,
        "backend": backend,
        "status": status,
        "reason": reason,
        "noise_ratio": ratio,
    }


def reorderings(source: Source) -> Iterator[dict[str, Any]]:
    """Eager PyTorch itself, in orders of addition that the floor was not measured with."""
    reference = _reference(source, BATCHES)
    for threads in (1, 2):
        for name, layout in (("NCHW", torch.contiguous_format), ("channels last", torch.channels_last)):
            network = _InLayout(copy.deepcopy(source.network).to(memory_format=layout), layout)
            yield _held("unaltered", f"eager, {name}, threads: {threads}", network, reference, OTHER_BATCHES, threads)
    with onednn_off():
        yield _held("unaltered", "eager, oneDNN off", source.network, reference, OTHER_BATCHES)


class _InLayout(nn.Module):
    def __init__(self, network: nn.Module, layout: torch.memory_format) -> None:
        super().__init__()
        self.network, self.layout = network, layout

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.contiguous(memory_format=self.layout))
        return logits


def simulations(source: Source) -> Iterator[dict[str, Any]]:
    """Winograd's convolutions, and those of TF32."""
    reference = _reference(source, BATCHES)
    yield _held("Winograd", "eager", with_winograd(source.network), reference, (32,))
    yield _held("TF32", "eager", with_tf32(source.network, kinds=(nn.Conv2d,)), reference, (32,))


def _reference(source: Source, batch_sizes: tuple[int, ...]) -> Reference:
    data = "digits" if source.checkpoint is not None else None
    pixels, _, where = pixels_for(source.spec, VerifyOptions(images=32, data=data))
    return cached_reference("sweep", source, pixels, where, batch_sizes, no_progress)


def _held(
    kind: str, backend: str, network: nn.Module, reference: Reference, batch_sizes: tuple[int, ...], threads: int | None = None
) -> dict[str, Any]:
    criterion = Criterion("fp32", len(reference.pixels), noise_floor=reference.noise_floor)
    session = EagerSession(network, torch.device("cpu"), threads)
    found = compare_outputs(session, reference, criterion, batch_sizes, no_progress)
    return _row(kind, backend, "fail" if found.reason else "pass", found.reason, found.noise_ratio)


def smallest_change(source: Source) -> dict[str, float | None]:
    """The smallest relative change of one weight of middling size that outputs alone show, for an early, a midway and a late layer.

    In powers of 2, found by bisection, in whichever direction shows first (a ReLU that shuts hides the other); None beyond 1,000.
    """
    reference = _reference(source, BATCHES)
    criterion = Criterion("fp32", len(reference.pixels), noise_floor=reference.noise_floor)
    network = copy.deepcopy(source.network)
    session = EagerSession(network, torch.device("cpu"))

    def least(flat: Tensor, index: int, direction: int) -> float:
        original = float(flat[index])

        def shows(exponent: int) -> bool:
            flat[index] = original * (1 + direction * 2.0**exponent)
            found = compare_outputs(session, reference, criterion, (32,), no_progress)
            flat[index] = original
            return found.reason is not None

        exponents = range(-12, 11)
        place = bisect_left(exponents, True, key=shows)
        return 2.0 ** exponents[place] if place < len(exponents) else math.inf

    found = {}
    for name in ("layer1.1.conv1", "layer3.1.conv1", "layer4.1.conv2"):
        flat, index = _middling(network.get_submodule(name).weight.data)
        change = min(least(flat, index, direction) for direction in (1, -1))
        found[name] = change if math.isfinite(change) else None
    return found


def _middling(weight: Tensor) -> tuple[Tensor, int]:
    """All weights in a row, and where the one of median size is."""
    flat = weight.view(-1)
    return flat, int(flat.abs().kthvalue(flat.numel() // 2).indices)


if __name__ == "__main__":
    main()
