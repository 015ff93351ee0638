"""Why figures of a measurement are null, said where each one is."""

from __future__ import annotations

import dataclasses

from iresnet_export.benchmark.measuring import FIGURES
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.statistics import samples_needed
from iresnet_export.reporting.schemas import BenchResult


def with_reasons(result: BenchResult, options: BenchOptions) -> BenchResult:
    """The result with a reason for each of its figures that is null."""
    reasons = _usual(result, options) | result.null_reasons
    kept = {key: why for key, why in reasons.items() if "." in key or getattr(result, key) is None}
    return dataclasses.replace(result, null_reasons=kept)


def _usual(result: BenchResult, options: BenchOptions) -> dict[str, str]:
    reason = result.reason or "not measured"
    found = dict.fromkeys((*FIGURES, "memory_mb"), reason)
    found |= dict.fromkeys(("bytes", "arithmetic_intensity"), "counted for what is measured in mode latency or throughput")
    one_clock = "on a CPU nothing is copied, and there is one clock"
    found |= dict.fromkeys(("device_ms", "copy_ms"), one_clock if result.device == "cpu" else reason)
    for mode in ("server", "cold"):
        found[mode] = reason if result.mode == mode else f"this is mode {result.mode}"
    if result.baseline is None:
        found |= dict.fromkeys(("baseline", "speedup"), "this is a baseline")
    found |= {
        "size_bytes": "it is no file of its own",
        "macs": "there is no such network",
        "parity": _why_no_parity(result, options),
    }
    for key, percent in (("p90", 90.0), ("p99", 99.0)):
        if result.latency_ms is not None and getattr(result.latency_ms, key) is None:
            found[f"latency_ms.{key}"] = f"it takes {samples_needed(percent):,} samples"
    if result.status != "failed_parity":
        found["reason"] = "nothing is wrong"
    return found


def _why_no_parity(result: BenchResult, options: BenchOptions) -> str:
    if not options.verify:
        return "verification was skipped"
    if result.baseline is None:
        return "it is what the others are made from"
    return "it is another network" if result.peer and result.latency_ms is not None else result.reason or "it was not verified"
