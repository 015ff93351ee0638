"""The report of `bench` as JSON; its keys are a contract with people's scripts (docs/reports.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import median
from typing import Any

from iresnet_export.benchmark.measuring import FIGURES
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.results import BenchReport, ColdRun, Limit, Parity, Result, ServerRun
from iresnet_export.benchmark.server import response_percentile
from iresnet_export.benchmark.statistics import samples_needed
from iresnet_export.reporting.documents import document

_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


def bench_document(report: BenchReport, options: BenchOptions) -> dict[str, Any]:
    """Everything that was measured, raw samples included."""
    return document(
        "bench",
        {"cpu": report.cpu, "gpu": report.gpu, "warnings": report.warnings},
        settings={
            "modes": list(options.modes),
            "batch_sizes": list(options.batch_sizes),
            "device": options.device.type,
            "backends": list(options.backends) or None,
            "threads": list(options.thread_counts),
            "seconds": options.seconds,
            "warmup_seconds": options.warmup_seconds,
            "seed": options.seed,
            "clock": "host to host",
            "verified": options.verify,
            "peers": options.peers,
            "p99_limit_ms": options.p99_limit_ms,
            "rates": list(options.rates),
            "repeats": options.repeats,
            "max_accuracy_drop": options.max_accuracy_drop,
        },
        limits=[_limit(limit) for limit in report.limits],
        results=[_result(result, options) for result in report.results],
        recommendation=dataclasses.asdict(report.recommendation) if report.recommendation else None,
        null_reasons=_reasons(report, options),
    )


def _reasons(report: BenchReport, options: BenchOptions) -> dict[str, str]:
    found = {}
    if report.recommendation is None:
        found["recommendation"] = "nothing passed" if options.recommend else "none was asked for"
    if report.gpu is None:
        found["environment.gpu"] = "torch finds no GPU here"
    return found


def _limit(limit: Limit) -> dict[str, Any]:
    return dataclasses.asdict(limit)


def _result(result: Result, options: BenchOptions) -> dict[str, Any]:
    subject, latency = result.subject, result.latency
    moved = result.moved_bytes
    found = {
        "artifact": subject.artifact,
        "arch": subject.arch,
        "depth": subject.depth,
        "image_size": subject.image_size,
        "backend": subject.backend,
        "precision": subject.precision,
        "peer": subject.peer,
        "baseline": subject.baseline,
        "device": subject.device,
        "mode": result.mode,
        "batch": result.batch,
        "threads": subject.threads,
        "status": result.status,
        "reason": result.reason,
        "notices": list(result.notices),
        "parity": _parity(subject.parity),
        "samples": _samples(result),
        "latency_ms": dataclasses.asdict(latency) if latency else None,
        "device_ms": result.device_ms,
        "copy_ms": result.copy_ms,
        "throughput": result.throughput,
        "memory_mb": result.memory_mb,
        "size_bytes": subject.size_bytes,
        "gflops": result.gflops,
        "peak_fraction": result.peak_fraction,
        "speedup": dataclasses.asdict(result.speedup) | {"tie": result.speedup.tie} if result.speedup else None,
        "stable": result.stable,
        "macs": subject.macs,
        "bytes": moved,
        "arithmetic_intensity": 2 * subject.macs * result.batch / moved if moved and subject.macs else None,
        "server": _server(result.server) if result.server else None,
        "cold": _cold(result.cold) if result.cold else None,
    }
    reasons = _null_reasons(result, options)
    return found | {"null_reasons": {key: why for key, why in reasons.items() if "." in key or found.get(key) is None}}


def _null_reasons(result: Result, options: BenchOptions) -> dict[str, str]:
    """Why each figure that is null is null."""
    subject, reason = result.subject, result.reason or "not measured"
    found = dict.fromkeys((*FIGURES, "memory_mb"), reason)
    found |= dict.fromkeys(("bytes", "arithmetic_intensity"), "counted for what is measured in mode latency or throughput")
    if subject.device == "cpu":
        found |= dict.fromkeys(("device_ms", "copy_ms"), "on a CPU nothing is copied, and there is one clock")
    else:
        found |= dict.fromkeys(("device_ms", "copy_ms"), reason)
    for mode in ("server", "cold"):
        found[mode] = reason if result.mode == mode else f"this is mode {result.mode}"
    if subject.baseline is None:
        found |= {"baseline": "this is a baseline", "speedup": "this is a baseline"}
    if subject.size_bytes is None:
        found["size_bytes"] = "it is no file of its own"
    if subject.macs is None:
        found["macs"] = "there is no such network"
    if subject.parity is None:
        found["parity"] = _why_no_parity(result, options)
    for key, percent in (("p90", 90.0), ("p99", 99.0)):
        if result.latency is not None and getattr(result.latency, key) is None:
            found[f"latency_ms.{key}"] = f"it takes {samples_needed(percent):,} samples"
    if result.status != "failed_parity":
        found["reason"] = "nothing is wrong"
    return found | result.missing


def _why_no_parity(result: Result, options: BenchOptions) -> str:
    if not options.verify:
        return "verification was skipped"
    if result.subject.baseline is None:
        return "it is what the others are made from"
    return "it is another network" if result.subject.peer and result.latency is not None else result.reason or "it was not verified"


def _samples(result: Result) -> list[Any] | None:
    """Turns of latencies; of a server the response times, of cold starts the whole of each."""
    if result.server is not None:
        return list(result.server.responses)
    if result.cold is not None:
        return [sum(both) for both in zip(result.cold.load_ms, result.cold.first_inference_ms, strict=True)]
    return [list(turn) for turn in result.samples.rounds] if result.samples else None


def _parity(parity: Parity | None) -> dict[str, Any] | None:
    if parity is None:
        return None
    found = dataclasses.asdict(parity)
    return {("accuracy_drop_points" if key == "accuracy_drop" else key): value for key, value in found.items()}


def _server(found: ServerRun) -> dict[str, Any]:
    response = {key: response_percentile(found, percent) for key, percent in _PERCENTILES.items()}
    return {
        "rate_per_s": found.rate_per_s,
        "offered": found.offered,
        "completed": found.completed,
        "utilisation": found.utilisation,
        "response_ms": response,
        "highest_rate_per_s": found.highest_rate_per_s,
        "p99_limit_ms": found.p99_limit_ms,
        "trials": [dataclasses.asdict(trial) for trial in found.trials],
        "null_reasons": _server_reasons(found, response),
    }


def _server_reasons(found: ServerRun, response: dict[str, float | None]) -> dict[str, str]:
    reasons = {}
    for key, percent in _PERCENTILES.items():
        if response[key] is None:
            few = f"it takes {samples_needed(percent):,} requests"
            reasons[f"response_ms.{key}"] = few if found.completed == found.offered else "not all requests were answered"
    if found.p99_limit_ms is None:
        reasons |= dict.fromkeys(("highest_rate_per_s", "p99_limit_ms"), "no limit was given")
    return reasons


def _cold(found: ColdRun) -> dict[str, Any]:
    def summary(samples: Sequence[float]) -> dict[str, Any]:
        return {"p50": median(samples), "samples": list(samples)}

    return {"load_ms": summary(found.load_ms), "first_inference_ms": summary(found.first_inference_ms)}
