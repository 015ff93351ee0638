"""Whether a backend measured in turn with another is as fast as alone, for every pair of backends.

    python studies/alone_and_in_turn.py --json studies/results/alone_and_in_turn.json \
        --markdown studies/results/alone_and_in_turn.md

"Alone" is a process that has loaded nothing else; "in turn" one that has loaded both, and measures as `bench` does. Each backend is
measured alone before and after the pairs, so that a machine that drifts does not look like a backend that disturbs. The ratio is
the median in turn over the median alone; beside it stands the CPU time that the other backend's threads took meanwhile. About five
minutes on two cores; `--smoke` takes a small network and seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import torch
from thread_watch import ThreadWatch

from iresnet_export.artifacts.artifact import open_artifact
from iresnet_export.artifacts.source import untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.eager import Eager
from iresnet_export.backends.registry import runtime_named
from iresnet_export.benchmark.clock import CLOCK, Timed, measure
from iresnet_export.benchmark.recipe import host_to_host
from iresnet_export.errors import UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.system.environment import environment
from iresnet_export.system.machine import OthersLoad, cpu_state, load_now, load_warnings
from iresnet_export.system.progress import no_progress
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.files import write_json, write_text
from iresnet_models.preprocessing import noise_pixels, normalised

BACKENDS = {
    "eager": "pt",
    "torchscript": "ts",
    "torch_export": "pt2",
    "aotinductor": "aoti.pt2",
    "onnxruntime": "onnx",
    "openvino": "onnx",
}
TORCH = ("eager", "torchscript", "torch_export", "aotinductor")
"""These share PyTorch's one thread pool."""

WATCHED_TURNS = 10
LIMIT = 1.1
"""From here on the ratio says that a backend disturbs another."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="measured time for each backend in each process")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--smoke", action="store_true", help="a small network and two backends, in seconds")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--names", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.depth, options.image_size, options.seconds = 18, 32, 0.05
    if options.child is not None:
        print(json.dumps(measured(options.child, options.names.split(","), options)))
        return
    report(options)


def report(options: argparse.Namespace) -> None:
    """Measures everything and writes what was found."""
    cpu, meter = cpu_state() | {"load_before": load_now()}, OthersLoad()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        names = exported(folder, options)
        alone: dict[str, list[float]] = {name: [] for name in names}
        pairs = list(combinations(names, 2))
        found: dict[tuple[str, str], dict[str, Any]] = {}

        def measure_alone() -> None:
            for name in names:
                alone[name].append(in_child(folder, [name], options)[name]["p50"])

        measure_alone()
        for step, pair in enumerate(pairs):
            print(f"{step + 1} of {len(pairs)}: {' and '.join(pair)}", file=sys.stderr)
            found[pair] = in_child(folder, list(pair), options)
        if not options.smoke:
            measure_alone()
    cpu["load_after"] = load_now()
    rows = [row(pair, name, found[pair][name], median(alone[name])) for pair in pairs for name in pair]
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment() | {"cpu": cpu, "warnings": load_warnings(cpu, None, meter.cores())},
        "settings": {key: getattr(options, key) for key in ("depth", "image_size", "threads", "seconds")},
        "alone_ms": {name: {"p50": median(times), "processes": times} for name, times in alone.items()},
        "pairs": rows,
        "worst_ratio": max(entry["ratio"] for entry in rows),
        "limit": LIMIT,
        "passed": all(entry["ratio"] <= LIMIT for entry in rows),
    }
    text = markdown(document)
    print(text)
    if options.json is not None:
        write_json(options.json, document)
    if options.markdown is not None:
        write_text(options.markdown, text)


def exported(folder: Path, options: argparse.Namespace) -> list[str]:
    """The backends that can be had here; the network is exported for each of them."""
    spec = ModelSpec("iresnet", options.depth).with_image_size(options.image_size)
    source = untrained_source(spec, seed=0)
    made = []
    for name, suffix in BACKENDS.items():
        if options.smoke and name not in ("eager", "onnxruntime"):
            continue
        path = folder / f"network.{suffix}"
        try:
            if isinstance(runtime_named(name), Eager):
                save_checkpoint(path, source.network)
            elif not path.exists():
                export_artifact(runtime_named(name).format, source, ExportOptions(), output=path)
            elif not runtime_named(name).is_installed():
                raise UnavailableError(f"{name} is not installed")
        except UnavailableError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        made.append(name)
    return made


def in_child(folder: Path, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """The same backends in a process that has loaded nothing else."""
    arguments = [f"--{key.replace('_', '-')}={getattr(options, key)}" for key in ("depth", "image_size", "threads", "seconds")]
    command = [sys.executable, __file__, *arguments, f"--child={folder}", f"--names={','.join(names)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measured(folder: Path, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Medians in milliseconds of these backends in turn, and what the others' threads used meanwhile."""
    spec = ModelSpec("iresnet", options.depth).with_image_size(options.image_size)
    images = normalised(noise_pixels(spec, 1, seed=0), spec)
    watch, sessions = ThreadWatch(), {}
    for name in names:

        def start(name: str = name) -> None:
            artifact = open_artifact(folder / f"network.{BACKENDS[name]}")
            sessions[name] = runtime_named(name).load(artifact, torch.device("cpu"), threads=options.threads)
            for _ in range(3):
                host_to_host(sessions[name], images)

        watch.claim(pool(name), start)
    runs = {name: (lambda session=session: host_to_host(session, images)) for name, session in sessions.items()}
    timed = measure(
        [Timed(name, run) for name, run in runs.items()], seconds=options.seconds, warmup_seconds=0.2, seed=0, progress=no_progress
    )
    # Threads are watched in turns of their own: to read their times takes time.
    for _ in range(WATCHED_TURNS):
        for name, run in runs.items():
            CLOCK.settle()
            for _ in range(3):
                watch.watched(name, run, pool(name))()
    return {samples.name: {"p50": median(samples.all), "others_cpu_share": watch.others_share(samples.name)} for samples in timed}


def pool(name: str) -> str:
    return "torch" if name in TORCH else name


def row(pair: tuple[str, str], name: str, found: dict[str, Any], alone: float) -> dict[str, Any]:
    other = pair[1] if name == pair[0] else pair[0]
    share = None if pool(name) == pool(other) else found["others_cpu_share"]
    times = {"alone_ms": alone, "in_turn_ms": found["p50"], "ratio": found["p50"] / alone}
    return {"backend": name, "in_turn_with": other, **times, "others_cpu_share": share}


def markdown(document: dict[str, Any]) -> str:
    settings, cpu = document["settings"], document["environment"]["cpu"]
    verdict = "passed" if document["passed"] else "NOT passed"
    lines = [
        "# Alone and in turn",
        "",
        f"iResNet-{settings['depth']}, {settings['image_size']} pixels, batch 1, {settings['threads']} threads, {cpu['model']} "
        f"({cpu['usable_cores']} cores), {document['date']}. Medians in milliseconds. The worst ratio is "
        f"{document['worst_ratio']:.3f}; up to {document['limit']} counts as equal: {verdict}.",
        *(f"\n{warning}" for warning in document["environment"]["warnings"]),
        "",
        "| backend | in turn with | alone | in turn | ratio | CPU time of the other's threads |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entry in document["pairs"]:
        share = entry["others_cpu_share"]
        rest = "one thread pool" if share is None else f"{share:.2%}"
        times = f"{entry['alone_ms']:.2f} | {entry['in_turn_ms']:.2f} | {entry['ratio']:.3f}"
        lines.append(f"| {entry['backend']} | {entry['in_turn_with']} | {times} | {rest} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
