"""No false alarm: honest artifacts of every network, by every backend that runs here, and the distribution of their noise ratios.

Run: python benchmarks/parity_sweep.py --json benchmarks/results/parity_sweep.json --plot docs/parity.svg

Untrained networks over seeded noise at 32 pixels; three seeds up to depth 101, one beyond. For every depth it also finds the
smallest change of a single weight that the outputs alone would show.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from iresnet_export.backends import backend_named
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.eager import EagerSession
from iresnet_export.environment import environment
from iresnet_export.exporting import default_output, export_artifact
from iresnet_export.progress import no_progress
from iresnet_export.source import Source, untrained_source
from iresnet_export.verification.criteria import NOISE_LIMIT, Criterion
from iresnet_export.verification.outputs import compare_outputs
from iresnet_export.verification.reference import reference_of
from iresnet_export.verification.verify import VerifyOptions, pixels_for, verify
from iresnet_models import ModelSpec, list_models
from iresnet_models.files import write_json

BATCHES = (1, 2, 7, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", default="18,34,50,101,152,200,302,404,1001")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--exports", default="torchscript,onnxruntime,exported")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    depths, rows, smallest = set(map(int, options.depths.split(","))), [], []
    for arch, depth in (entry for entry in list_models() if entry[1] in depths):
        for seed in range(options.seeds if depth <= 101 else 1):
            started = time.monotonic()
            spec = ModelSpec(arch, depth, num_classes=100).with_image_size(options.image_size)
            source = untrained_source(spec, seed)
            found = swept(source, seed, options.exports.split(","))
            rows += found
            if arch == "iresnet" and seed == 0:
                smallest.append({"depth": depth, "smallest_change": smallest_change(source)})
            worst = max((row["noise_ratio"] or 0.0 for row in found), default=0.0)
            verdicts = ", ".join(sorted({row["status"] for row in found}))
            print(f"{spec.name} seed {seed}: {verdicts}; worst {worst:.2f}; {time.monotonic() - started:.0f} s", flush=True)
    summary(rows, smallest)
    if options.plot is not None:
        plot(rows, options.plot)
    if options.json is not None:
        date = datetime.now(UTC).date().isoformat()
        about = {"batches": BATCHES, "images": 32, "image_size": options.image_size}
        document = {"date": date, "environment": environment(), "settings": about}
        write_json(options.json, document | {"results": rows, "smallest_single_weight_change": smallest})


def swept(source: Source, seed: int, exports: list[str]) -> list[dict[str, Any]]:
    """Every export of a network, folded, as every backend here runs it."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name in exports:
            options = ExportOptions()
            output = default_output(backend_named(name), source, options, Path(folder))
            paths.append(export_artifact(name, source, options, output=output).path)
        verification = verify(paths, VerifyOptions(images=32, batch_sizes=BATCHES))
    return [
        {
            "network": source.spec.name,
            "depth": source.spec.depth,
            "seed": seed,
            "backend": candidate.backend,
            "status": candidate.status,
            "reason": candidate.reason,
            "noise_ratio": candidate.outputs.noise_ratio if candidate.outputs else None,
        }
        for candidate in verification.candidates
    ]


def smallest_change(source: Source) -> float | None:
    """The smallest relative change of one middling weight that outputs alone show, in steps of 2; None up to a million."""
    pixels, where = pixels_for(source.spec, VerifyOptions(images=32))[0], "noise"
    reference = reference_of("r", source, pixels, where, (8,), no_progress)
    criterion = Criterion("fp32", 32, noise_floor=reference.noise_floor)
    network = copy.deepcopy(source.network)
    weight = network.layer3[1].conv1.weight.data
    flat = weight.view(-1)
    index = int(flat.abs().kthvalue(flat.numel() // 2).indices)
    original, change = float(flat[index]), 2.0**-10
    while change < 2.0**20:
        flat[index] = original * (1 + change)
        report = compare_outputs(EagerSession(network, torch.device("cpu")), reference, criterion, (8,), no_progress)
        if report.reason is not None:
            return change
        change *= 2
    return None


def summary(rows: list[dict[str, Any]], smallest: list[dict[str, Any]]) -> None:
    by_backend = defaultdict(list)
    for row in rows:
        by_backend[row["backend"]].append(row)
    print("\n| backend | artifacts | passed | failed | skipped | median ratio | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for backend, entries in by_backend.items():
        ratios = sorted(entry["noise_ratio"] for entry in entries if entry["noise_ratio"] is not None)
        counts = [sum(entry["status"] == status for entry in entries) for status in ("pass", "fail", "skipped")]
        middle, largest = (f"{ratios[len(ratios) // 2]:.2f}", f"{ratios[-1]:.2f}") if ratios else ("", "")
        print(f"| {backend} | {len(entries)} | {counts[0]} | {counts[1]} | {counts[2]} | {middle} | {largest} |")
    print("\n| depth | smallest change of one weight that outputs alone show |\n| --- | --- |")
    for entry in smallest:
        change = entry["smallest_change"]
        print(f"| {entry['depth']} | {'none' if change is None else f'{100 * change:.3g} %'} |")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The ratios of honest artifacts, by depth and backend, against the limit."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "parity"  # the same file each time
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.2))
    depths = sorted({row["depth"] for row in rows})
    for offset, backend in enumerate(sorted({row["backend"] for row in rows})):
        found = [
            (depths.index(row["depth"]), row["noise_ratio"]) for row in rows if row["backend"] == backend and row["noise_ratio"]
        ]
        axes.scatter([x + (offset - 1.5) * 0.16 for x, _ in found], [y for _, y in found], s=12, alpha=0.7, label=backend)
    axes.axhline(NOISE_LIMIT, color="tab:red", linewidth=1)
    axes.text(-0.4, NOISE_LIMIT * 1.08, f"limit {NOISE_LIMIT}", color="tab:red")
    axes.axhline(197, color="grey", linewidth=1, linestyle="--")
    axes.text(-0.4, 197 * 1.1, "TF32 begins here (simulated, least seen)", color="grey")
    axes.set(yscale="log", xlabel="depth", ylabel="error in noise floors", ylim=(0.03, 600), xticks=range(len(depths)))
    axes.set_xticklabels([str(depth) for depth in depths])
    axes.legend(loc="lower right", ncols=2, frameon=False)
    axes.set_title("Honest float32 backends against float64")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
