"""What `bench` found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.text import Text

from iresnet_export.benchmark.clock import Samples
from iresnet_export.benchmark.recommendation import unsteady_baseline
from iresnet_export.benchmark.results import BenchReport, Limit, Result
from iresnet_export.benchmark.server import response_percentile
from iresnet_export.reporting.tables import Cell, ResultTable, status, table
from iresnet_export.reporting.words import megabytes, one_line


def bench_tables(results: Sequence[Result], verified: bool = True) -> list[ResultTable]:
    """One for latency and throughput, one for the server, one for cold starts; those that have something to show."""
    made = []
    if turns := [result for result in results if result.mode in ("latency", "throughput")]:
        made.append(_turns_table(turns, verified))
    if served := [result for result in results if result.mode == "server"]:
        made.append(_server_table(served))
    if started := [result for result in results if result.mode == "cold"]:
        made.append(_cold_table(started))
    return made


def progress_table(samples: Sequence[Samples]) -> ResultTable:
    """What is being measured, and its median so far."""
    made = table("measuring in turns", ">median ms so far", ">turns")
    for sample in samples:
        middle = f"{median(sample.all):.2f}" if sample.rounds else ("failed" if sample.failure else "")
        made.line(sample.name, middle, str(len(sample.rounds)))
    return made


def limits_in_words(limits: Sequence[Limit]) -> list[str]:
    """What the machine can do, a line for each number of threads."""
    lines = []
    for threads in dict.fromkeys(limit.threads for limit in limits):
        own = [limit for limit in limits if limit.threads == threads]
        peaks = ", ".join(f"{limit.precision} {limit.gflops:,.0f}" for limit in own)
        count = "1 thread" if threads == 1 else f"{threads} threads"
        lines.append(
            f"The machine's limit with {count}, in 10⁹ operations a second: {peaks}; memory {own[0].bandwidth_gb_s:.0f} GB/s"
        )
    return lines


def remarks(report: BenchReport) -> list[str]:
    """Warnings, why results have no verdict, and what is to be said of how they ran, each once."""
    lines = [f"Warning: {warning}" for warning in report.warnings]
    for result in report.results:
        if result.reason is not None:
            batch = f" at batch {result.batch}" if result.status in ("oom", "unstable") else ""
            lines.append(f"{result.artifact} by {result.backend}{batch}: {result.status}: {result.reason}")
        elif unsteady := unsteady_baseline(result):
            lines.append(f"Batch {result.batch}: {unsteady}")
        lines += [f"{result.artifact} by {result.backend}: {notice}" for notice in result.notices]
    return list(dict.fromkeys(lines))


def _turns_table(results: Sequence[Result], verified: bool) -> ResultTable:
    threads = len({result.subject.threads for result in results}) > 1
    shown = [
        "artifact",
        "backend",
        *([">threads"] if threads else []),
        ">batch",
        "precision",
        ">median ms",
        ">95 % interval",
        ">speed-up",
        ">95 % of it",
    ]
    shown += ["parity", ">p90", ">p99", ">images/s", ">of limit", ">memory", ">size"]
    keys = 4 if threads else 3
    made = table(*shown, keys=keys)
    for result in results:
        count = [str(result.subject.threads)] if threads else []
        subject = result.subject
        named = [one_line(subject.artifact), subject.backend, *count, str(result.batch)]
        middle, tails = _figures(result)
        made.line(*named, subject.precision, *middle, *_speedup(result), _parity(result, verified), *tails)
        if result.device_ms is not None and result.copy_ms is not None:
            rest = [""] * (len(shown) - keys - 2)
            for what, value in (("on the device alone", result.device_ms), ("copies to and from it", result.copy_ms)):
                made.line(f"  {what}", *named[1:], subject.precision, f"{value:.2f}", *rest)
    return made


def _figures(result: Result) -> tuple[list[str], list[str]]:
    """The median with its interval, and the rest."""
    latency = result.latency
    memory = "" if result.memory_mb is None else f"{result.memory_mb:,.0f} MB"
    if latency is None:
        return ["", ""], ["", "", "", "", memory, megabytes(result.subject.size_bytes)]
    share = "" if result.peak_fraction is None else f"{result.peak_fraction:.0%}"
    interval = f"{latency.p50_ci95[0]:.2f} to {latency.p50_ci95[1]:.2f}"
    tails = ["" if value is None else f"{value:.2f}" for value in (latency.p90, latency.p99)]
    rest = [*tails, f"{result.throughput:.1f}", share, memory, megabytes(result.subject.size_bytes)]
    return [f"{latency.p50:.2f}", interval], rest


def _parity(result: Result, verified: bool) -> Cell:
    parity = result.subject.parity
    if parity is not None:
        return status(parity.status)
    if result.subject.baseline is None:
        return "reference"
    return "" if verified else Text("not verified", "yellow")


def _speedup(result: Result) -> list[Cell]:
    if result.speedup is not None:
        times = f"{result.speedup.p50:.2f} ×" + (" (tie)" if result.speedup.tie else "")
        return [times, f"{result.speedup.ci95[0]:.2f} to {result.speedup.ci95[1]:.2f}"]
    if result.status != "ok":
        return [status(result.status), ""]
    return ["baseline" if result.is_baseline else "no verdict", ""]


def _server_table(results: Sequence[Result]) -> ResultTable:
    made = table(
        "artifact", "backend", "precision", ">threads", ">requests/s", ">answered", ">busy", ">p50 ms", ">p90", ">p99", ">p99.9",
        ">highest rate", "", title="Server: requests at random moments, response times from arrival to logits", keys=2,
    )  # fmt: skip
    for result in results:
        subject, found = result.subject, result.server
        named = [one_line(subject.artifact), subject.backend, subject.precision, str(subject.threads)]
        if found is None:
            made.line(*named, *[""] * 8, status(result.status))
            continue
        tails = [response_percentile(found, percent) for percent in (50, 90, 99, 99.9)]
        limit = "" if found.highest_rate_per_s is None else f"{found.highest_rate_per_s:.1f}/s (p99 ≤ {found.p99_limit_ms:g} ms)"
        answered = f"{found.completed:,} of {found.offered:,}"
        cells = ["" if value is None else f"{value:.2f}" for value in tails]
        made.line(*named, f"{found.rate_per_s:.1f}", answered, f"{found.utilisation:.0%}", *cells, limit, status(result.status))
    return made


def _cold_table(results: Sequence[Result]) -> ResultTable:
    title = "Cold starts, in fresh processes: medians"
    made = table(
        "artifact",
        "backend",
        "precision",
        ">threads",
        ">load ms",
        ">first inference ms",
        ">memory",
        ">starts",
        "",
        title=title,
        keys=2,
    )
    for result in results:
        subject, found = result.subject, result.cold
        named = [one_line(subject.artifact), subject.backend, subject.precision, str(subject.threads)]
        if found is None:
            made.line(*named, "", "", "", "", status(result.status))
            continue
        memory = "" if result.memory_mb is None else f"{result.memory_mb:,.0f} MB"
        times = [f"{median(samples):.1f}" for samples in (found.load_ms, found.first_inference_ms)]
        made.line(*named, *times, memory, str(len(found.load_ms)), status(result.status))
    return made
