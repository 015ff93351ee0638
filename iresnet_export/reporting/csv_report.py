"""Reports as CSV: a line for each measurement, for each candidate that was verified or evaluated only, and for each class."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from typing import Any

from iresnet_export.reporting.collection import Collection, Measured
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.schemas import Evaluated, VerifyCandidate

COLUMNS = (
    "kind", "artifact", "arch", "depth", "image_size", "backend", "precision", "device", "mode", "batch", "threads", "peer",
    "status", "reason", "p50_ms", "p50_ci95_low_ms", "p50_ci95_high_ms", "p90_ms", "p99_ms", "device_ms", "copy_ms",
    "throughput_per_s", "memory_mb", "size_bytes", "gflops", "peak_fraction", "speedup", "speedup_ci95_low", "speedup_ci95_high",
    "tie", "rate_per_s", "highest_rate_per_s", "load_ms", "first_inference_ms", "parity", "noise_ratio", "sqnr_db",
    "top1_percent", "change", "time_ratio", "time_ratio_ci95_low", "time_ratio_ci95_high", "file", "calibration_error", "class",
    "label", "images", "predicted", "right", "recall_percent", "recall_ci95_low", "recall_ci95_high", "precision_percent",
    "precision_ci95_low", "precision_ci95_high",
)  # fmt: skip
"""Stable: columns are added at the end only (docs/report.md)."""

_PLAIN = (*COLUMNS[1:14], "device_ms", "copy_ms", "memory_mb", "size_bytes", "gflops", "peak_fraction")
"""Columns that are keys of a measurement too."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def csv_report(collection: Collection, comparison: Comparison | None) -> str:
    """Comma-separated UTF-8 with a header; a figure that was not measured is an empty cell."""
    buffer = StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for row in _rows(collection, comparison):
        writer.writerow({key: cell(value) for key, value in row.items()})
    return buffer.getvalue()


def _rows(collection: Collection, comparison: Comparison | None) -> list[dict[str, Any]]:
    measured = [(file.name, result) for file, report in collection.benchmarks for result in report.results]
    rows = [
        {**_measured(one), **_change(one, comparison), "file": name}
        for one, (name, _) in zip(collection.measurements, measured, strict=True)
    ]
    known = {(one.result.artifact, one.result.backend) for one in collection.measurements}
    for file, report in collection.verifications:
        rows += [_verified(one) | {"file": file.name} for one in report.candidates if (one.artifact, one.backend) not in known]
        known |= {(one.artifact, one.backend) for one in report.candidates}
    for file, evaluation in collection.evaluation_reports:
        rows += [_evaluated(one) | {"file": file.name} for one in evaluation.results if (one.artifact, one.backend) not in known]
    for file, evaluation in collection.evaluation_reports:
        rows += [row | {"file": file.name} for one in evaluation.results for row in _classes(one)]
    return rows


def _measured(measured: Measured) -> dict[str, Any]:
    one, parity = measured.result, measured.parity
    latency, speedup = one.latency_ms, one.speedup
    row: dict[str, Any] = {"kind": "bench", **{key: getattr(one, key) for key in _PLAIN}, "throughput_per_s": one.throughput}
    if latency is not None:
        low, high = latency.interval or (None, None)
        row |= {
            "p50_ms": latency.p50,
            "p90_ms": latency.p90,
            "p99_ms": latency.p99,
            "p50_ci95_low_ms": low,
            "p50_ci95_high_ms": high,
        }
    if speedup is not None:
        row |= {
            "speedup": speedup.p50,
            "speedup_ci95_low": speedup.ci95[0],
            "speedup_ci95_high": speedup.ci95[1],
            "tie": speedup.is_tie,
        }
    if one.server is not None:
        response = one.server.response_ms
        row |= {"rate_per_s": one.server.rate_per_s, "highest_rate_per_s": one.server.highest_rate_per_s}
        row |= {"p50_ms": response.p50, "p90_ms": response.p90, "p99_ms": response.p99}
    if one.cold is not None:
        row |= {"load_ms": one.cold.load_ms.p50, "first_inference_ms": one.cold.first_inference_ms.p50}
    if parity is not None:
        row |= {"parity": parity.status, "noise_ratio": parity.noise_ratio, "sqnr_db": parity.sqnr_db}
    if measured.accuracy is not None:
        row["top1_percent"] = measured.accuracy.top1
    return row


def _change(measured: Measured, comparison: Comparison | None) -> dict[str, Any]:
    found = None if comparison is None else next((one for one in comparison.candidates if one.new is measured.result), None)
    if found is None:
        return {}
    low, high = found.ci95 or (None, None)
    return {"change": found.change, "time_ratio": found.ratio, "time_ratio_ci95_low": low, "time_ratio_ci95_high": high}


def _verified(one: VerifyCandidate) -> dict[str, Any]:
    accuracy = one.decisions.accuracy if one.decisions else None
    return {
        "kind": "verify",
        **{key: getattr(one, key) for key in ("artifact", "backend", "precision", "status", "reason", "noise_ratio", "sqnr_db")},
        "parity": one.status,
        "top1_percent": accuracy.candidate.percent if accuracy else None,
    }


def _evaluated(one: Evaluated) -> dict[str, Any]:
    return {
        "kind": "eval",
        "artifact": one.artifact,
        "backend": one.backend,
        "status": one.status,
        "reason": one.reason,
        "top1_percent": one.top1,
        "images": one.images,
        "calibration_error": one.calibration and one.calibration.ece,
    }


def _classes(one: Evaluated) -> Iterator[dict[str, Any]]:
    for each in one.classes or ():
        row = {"kind": "class", "artifact": one.artifact, "backend": one.backend, "class": each.number, "label": each.label}
        row |= {"images": each.images, "predicted": each.predicted, "right": each.right}
        for name, value, bounds in (
            ("recall", each.recall, each.recall_ci95),
            ("precision", each.precision, each.precision_ci95),
        ):
            low, high = bounds or (None, None)
            row |= {f"{name}_percent": value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}
        yield row


def cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front; height and width are one text."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
