"""The tables of a report as cells of text, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iresnet_export.reporting.collection import Collection, Measured
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.schemas import Environment
from iresnet_export.reporting.summary import TONES, Tone
from iresnet_export.reporting.words import STATUS, backend_name, figures, interval, megabytes, parity_figure, percent, share, times


@dataclass(frozen=True)
class Column:
    """`right`: figures, which line up at the right."""

    name: str
    right: bool = False


@dataclass(frozen=True)
class Cell:
    """`tone` gives it a sign beside its text; `strong` makes it stand out."""

    text: str
    tone: Tone | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """The first column names the row. Columns that hold nothing at all are left out."""

    identifier: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


_LEFT_OUT = ""
_TONES_OF_CHANGE: dict[str, Tone] = {"slower": "bad", "faster": "good", "within noise": "quiet", "not compared": "warn"}


def bench_table(collection: Collection) -> Table:
    """Every measurement but those of servers and cold starts, which have tables of their own. What all share is said above."""
    columns = [
        "artifact", "by", "precision", "mode", "device", ">batch", ">threads", "parity", ">median ms", ">95 % interval",
        ">speed-up", ">95 % of it", "status", ">p90", ">p99", ">device ms", ">copies ms", ">images/s", ">GFLOP/s", ">of the limit",
        ">memory", ">size", "file",
    ]  # fmt: skip
    shown = [one for one in collection.measurements if not (one.result.server or one.result.cold)]
    results = [one.result for one in shown]
    shared = []
    for key, words in (("mode", "{}"), ("device", "on {}"), ("threads", "with {} threads")):
        found = {getattr(result, key) for result in results}
        if len(found) == 1:
            shared.append(words.format(found.pop()))
            columns[[column.removeprefix(">") for column in columns].index(key)] = _LEFT_OUT
    caption = ", ".join(["Every measurement", *shared])
    rows = map(_measured, sorted(shown, key=_order))
    return _table("measurements", caption, columns, rows)


def _order(one: Measured) -> tuple[str, int, int, bool, float]:
    """By setting; then the fastest first, and what was not measured last."""
    result, latency = one.result, one.result.latency_ms
    return result.mode, result.threads, result.batch, not result.measured, latency.p50 if latency else 0.0


def _measured(one: Measured) -> list[Cell | str]:
    result, latency, speedup = one.result, one.result.latency_ms, one.result.speedup
    tie = " (tie)" if speedup is not None and speedup.is_tie else ""
    return [
        Cell(result.artifact + (" (peer)" if result.peer else "")),
        backend_name(result.backend),
        result.precision,
        result.mode,
        result.device,
        str(result.batch),
        str(result.threads),
        _parity(one, one.parity.status if one.parity else None),
        Cell(figures(latency.p50 if latency else None), strong=True),
        interval(latency.interval) if latency else "",
        "baseline" if result.is_baseline else Cell(times(speedup.p50) + tie, strong=True) if speedup else "",
        interval(speedup.ci95) if speedup else "",
        Cell(STATUS[result.status], None if result.status == "ok" else TONES[result.status]),
        figures(latency.p90 if latency else None),
        figures(latency.p99 if latency else None),
        figures(result.device_ms),
        figures(result.copy_ms),
        figures(result.throughput),
        figures(result.gflops),
        share(result.peak_fraction),
        "" if result.memory_mb is None else f"{result.memory_mb:,.0f} MB",
        megabytes(result.size_bytes),
        one.file,
    ]


def _parity(one: Measured, status: str | None) -> Cell:
    if status is None:
        return Cell("reference" if one.result.is_baseline else "not checked")
    return Cell(STATUS[status], TONES[status])


def verify_table(collection: Collection) -> Table:
    columns = ["artifact", "by", "precision", "verdict", ">error", ">largest error", ">top-1 agrees", ">flips", "departs at"]
    rows = [
        [
            Cell(one.artifact),
            backend_name(one.backend),
            one.precision,
            Cell(STATUS[one.status], TONES[one.status]),
            Cell(parity_figure(one.noise_ratio, one.sqnr_db), strong=True),
            figures(one.max_abs),
            share(one.top1_agreement),
            "" if one.decisions is None or one.decisions.flips is None else str(one.decisions.flips.total),
            one.first_divergence or "",
        ]
        for one in collection.candidates
    ]
    return _table("parity-table", "Parity of every candidate with the float64 network", columns, rows)


def eval_table(collection: Collection) -> Table:
    columns = ["file", "by", ">images", ">top-1", ">95 % interval", ">top-5", ">loss", "status"]
    rows = [
        [
            Cell(one.artifact),
            backend_name(one.backend),
            "" if one.images is None else f"{one.images:,}",
            Cell(percent(one.top1), strong=True),
            interval(one.top1_ci95),
            percent(one.top5),
            figures(one.loss),
            Cell(STATUS[one.status], None if one.status == "ok" else TONES[one.status]),
        ]
        for one in collection.evaluations
    ]
    return _table("accuracies", "Accuracy over the held-out images", columns, rows)


def comparison_table(comparison: Comparison) -> Table:
    columns = ["measurement", "verdict", ">before, ms", ">now, ms", ">change of time", ">95 % interval", "remark"]
    rows = []
    for one in comparison.in_order:
        change = "" if one.ratio is None else f"{100 * (one.ratio - 1):+.1f} %"
        bounds = "" if one.ci95 is None else " to ".join(f"{100 * (bound - 1):+.1f}" for bound in one.ci95)
        name = [Cell(one.name), Cell(one.change, _TONES_OF_CHANGE[one.change])]
        rows.append([*name, figures(one.old_ms), figures(one.new_ms), Cell(change, strong=True), bounds, one.reason or ""])
    return _table("comparison-table", f"{comparison.new.name} against {comparison.old.name}", columns, rows)


def server_table(group: Sequence[Measured]) -> Table:
    columns = [
        "artifact",
        "by",
        "precision",
        ">arrivals/s",
        ">offered",
        ">completed",
        ">p50 ms",
        ">p90",
        ">p99",
        ">p99.9",
        ">limit of p99",
        ">highest rate within it",
    ]
    rows = []
    for one in group:
        server = one.result.server
        if server is None:
            continue
        found = server.response_ms
        counts = ["" if number is None else f"{number:,}" for number in (server.offered, server.completed)]
        percentiles = [figures(value) for value in (found.p50, found.p90, found.p99, found.p999)]
        limit = "" if server.p99_limit_ms is None else f"{figures(server.p99_limit_ms)} ms"
        highest = "" if server.highest_rate_per_s is None else f"{figures(server.highest_rate_per_s)}/s"
        name = [Cell(one.result.artifact), backend_name(one.result.backend), one.result.precision]
        rows.append([*name, figures(server.rate_per_s), *counts, *percentiles, limit, Cell(highest, strong=True)])
    return _table("server-table", "Response times under load", columns, rows)


def cold_table(group: Sequence[Measured]) -> Table:
    columns = ["artifact", "by", "precision", ">loading ms", ">first inference ms", ">fresh processes"]
    rows = []
    for one in group:
        if (cold := one.result.cold) is not None:
            name = [Cell(one.result.artifact), backend_name(one.result.backend), one.result.precision]
            times_of = [Cell(figures(found.p50), strong=True) for found in (cold.load_ms, cold.first_inference_ms)]
            rows.append([*name, *times_of, str(len(cold.load_ms.samples) or "")])
    return _table("cold-table", "Cold starts", columns, rows)


def limits_table(collection: Collection) -> Table:
    columns = ["precision", ">threads", ">GFLOP/s", ">bandwidth GB/s", "measured by"]
    rows = [
        [
            Cell(limit.precision),
            "" if limit.threads is None else str(limit.threads),
            figures(limit.gflops),
            figures(limit.bandwidth_gb_s),
            limit.kernel or "",
        ]
        for _, report in collection.benchmarks
        for limit in report.limits or ()
    ]
    return _table("limits-table", "What this machine reaches at most, measured", columns, rows)


def environment_rows(collection: Collection) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What every file was made on; files of the same machine share one entry."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    commands: dict[str, str] = {}
    for file, environment in collection.environments:
        found.setdefault(tuple(_environment(environment)), []).append(file.name)
        commands[file.name] = environment.command or ""
    for rows, names in found.items():
        said = [("Command" + (f" of {name}" if len(names) > 1 else ""), commands[name]) for name in names if commands[name]]
        yield ", ".join(names), [*rows, *said]


def _environment(environment: Environment) -> Iterator[tuple[str, str]]:
    hardware = environment.hardware
    plain = {
        "Processor": hardware.cpu,
        "Usable cores": hardware.cores,
        "Memory": None if hardware.memory_bytes is None else f"{hardware.memory_bytes / 2**30:.1f} GiB",
        "System": hardware.system,
        "GPUs": ", ".join(str(gpu.get("name", gpu)) for gpu in hardware.gpus) or "none",
    }
    yield from ((key, str(value)) for key, value in plain.items() if value is not None)
    for what, found in (("CPU", environment.cpu), ("GPU", environment.gpu)):
        for key, value in (found or {}).items():
            if value is not None and key != "model":
                yield f"{what}: {key.replace('_', ' ')}", _plain(value)
    if environment.versions:
        yield "Versions", ", ".join(f"{package} {version}" for package, version in environment.versions.items())
    if environment.commit:
        changed = " with changes" if environment.commit.endswith("+") else ""
        yield "Commit", environment.commit.rstrip("+")[:12] + changed


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return figures(value) if isinstance(value, float) else str(value)


def _table(identifier: str, caption: str, columns: Sequence[str], rows: Any) -> Table:
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    kept = [index for index in range(len(columns)) if columns[index] and any(row[index].text for row in cells)]
    return Table(
        identifier,
        caption,
        tuple(Column(columns[index].removeprefix(">"), columns[index].startswith(">")) for index in kept),
        tuple(tuple(row[index] for index in kept) for row in cells),
    )
