"""Whether `bench` agrees with itself: twenty runs, each a process of its own.

    python studies/bench_repeats.py --json studies/results/bench_repeats.json --markdown studies/results/bench_repeats.md

For each candidate: how many of the runs have an interval of the speed-up that overlaps that of the middle run (19 of 20 are
promised), and how far a run's median is from the median of all of them (3 % on a quiet machine are promised). A run in which
`bench` itself warned that the machine was loaded says nothing about that: it is counted apart, and another one is made, up to half
as many again. Some fifteen minutes; `--smoke` takes three runs of a small network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from iresnet_export.artifacts.source import untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.exporting import export_artifact
from iresnet_export.system.environment import environment
from iresnet_export.system.machine import OthersLoad, cpu_state, load_now, load_warnings
from iresnet_models import ModelSpec
from iresnet_models.files import read_json, write_json, write_text

NEEDED_OVERLAP, NEEDED_MEDIANS = 0.95, 0.03


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time for each candidate in each run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--smoke", action="store_true", help="three runs of a small network, in seconds")
    options = parser.parse_args()
    if options.smoke:
        options.runs, options.depth, options.image_size, options.seconds = 3, 18, 32, 0.05
    cpu, meter = cpu_state() | {"load_before": load_now()}, OthersLoad()
    with tempfile.TemporaryDirectory() as folder:
        paths = exported(Path(folder), options)
        found = list[dict[str, Any]]()
        while len(quiet(found)) < options.runs and len(found) < 1.5 * options.runs:
            found.append(one_run(paths, Path(folder), options, len(found)))
    cpu["load_after"] = load_now()
    candidates = summarised([run["results"] for run in quiet(found)])
    document = {
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment() | {"cpu": cpu, "warnings": load_warnings(cpu, None, meter.cores())},
        "settings": {key: getattr(options, key) for key in ("runs", "depth", "image_size", "seconds")},
        "runs": [{"warnings": run["environment"]["warnings"], "cpu": run["environment"]["cpu"]} for run in found],
        "quiet_runs": len(quiet(found)),
        "candidates": candidates,
        "passed": len(quiet(found)) >= options.runs and all(entry["passed"] for entry in candidates),
    }
    text = markdown(document)
    print(text)
    if options.json is not None:
        write_json(options.json, document)
    if options.markdown is not None:
        write_text(options.markdown, text)


def exported(folder: Path, options: argparse.Namespace) -> list[Path]:
    source = untrained_source(ModelSpec("iresnet", options.depth).with_image_size(options.image_size), seed=0)
    precisions = ("fp32",) if options.smoke else ("fp32", "int8")
    return [
        export_artifact("onnx", source, ExportOptions(precision=precision), output=folder / f"{precision}.onnx").path
        for precision in precisions
    ]


def quiet(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those in which `bench` saw no other load."""
    return [run for run in runs if not run["environment"]["warnings"]]


def one_run(paths: list[Path], folder: Path, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """The report of one `bench`."""
    print(f"run {number + 1}", file=sys.stderr)
    answer = folder / "bench.json"
    # What is measured before and after the turns says nothing about them, and would only take its time.
    left_out = ("--skip-verify", "--no-memory", "--no-limits")
    program = [sys.executable, "-m", "iresnet_export", "bench", *map(str, paths), "--device", "cpu"]
    done = subprocess.run(
        [*program, *left_out, "--seconds", str(options.seconds), "--seed", str(number), "--json", str(answer)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.stderr)
    report: dict[str, Any] = read_json(answer, "The report")
    for warning in report["environment"]["warnings"]:
        print(f"  {warning}", file=sys.stderr)
    return report


def summarised(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each candidate over all runs."""
    by_name: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for results in runs:
        for result in results:
            by_name[result["artifact"], result["backend"]].append(result)
    return [one_candidate(*name, results) for name, results in by_name.items()]


def one_candidate(artifact: str, backend: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    medians = [result["latency_ms"]["p50"] for result in results]
    middle = median(medians)
    deviation = max(abs(value / middle - 1) for value in medians)
    found: dict[str, Any] = {
        "artifact": artifact,
        "backend": backend,
        "medians_ms": medians,
        "worst_median_deviation": deviation,
        "statuses": {status: sum(r["status"] == status for r in results) for status in sorted({r["status"] for r in results})},
    }
    speedups = [result["speedup"] for result in results if result["speedup"] is not None]
    found |= {"speedups": [entry["p50"] for entry in speedups], "intervals": [entry["ci95"] for entry in speedups]}
    if not speedups:
        return found | {"overlapping": None, "pairs_overlapping": None, "passed": deviation <= NEEDED_MEDIANS}
    central = sorted(speedups, key=lambda entry: float(entry["p50"]))[len(speedups) // 2]["ci95"]
    pairs = list(combinations([entry["ci95"] for entry in speedups], 2))
    overlapping = sum(overlap(entry["ci95"], central) for entry in speedups)
    together = sum(overlap(*pair) for pair in pairs) / len(pairs) if pairs else None
    passed = overlapping >= NEEDED_OVERLAP * len(results) and deviation <= NEEDED_MEDIANS
    return found | {"overlapping": overlapping, "pairs_overlapping": together, "passed": passed}


def overlap(first: list[float], second: list[float]) -> bool:
    return first[0] <= second[1] and second[0] <= first[1]


def markdown(document: dict[str, Any]) -> str:
    settings, cpu = document["settings"], document["environment"]["cpu"]
    verdict = "passed" if document["passed"] else "NOT passed"
    lines = [
        "# The benchmark, repeated",
        "",
        f"{document['quiet_runs']} runs of `iresnet-export bench`, iResNet-{settings['depth']}, {settings['image_size']} pixels, "
        f"batch 1, {settings['seconds']:g} s for each candidate, {cpu['model']} ({cpu['usable_cores']} cores), {document['date']}: "
        f"{verdict}. Left out, since `bench` warned of other load: {len(document['runs']) - document['quiet_runs']}.",
        *(f"\n{warning}" for warning in document["environment"]["warnings"]),
        "",
        "| artifact | backend | median | farthest median | speed-ups | overlap the middle run | pairs overlapping | verdicts |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in document["candidates"]:
        speedups, count = entry["speedups"], len(entry["medians_ms"])
        spread = f"{min(speedups):.3f} to {max(speedups):.3f}" if speedups else "baseline"
        within = "" if entry["overlapping"] is None else f"{entry['overlapping']} of {count}"
        pairs = "" if entry["pairs_overlapping"] is None else f"{entry['pairs_overlapping']:.1%}"
        statuses = ", ".join(f"{number} {status}" for status, number in entry["statuses"].items())
        times = f"{median(entry['medians_ms']):.2f} ms | {entry['worst_median_deviation']:.1%}"
        lines.append(f"| {entry['artifact']} | {entry['backend']} | {times} | {spread} | {within} | {pairs} | {statuses} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
