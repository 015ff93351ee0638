"""The fastest artifact and backend that pass, in one sentence with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from iresnet_export.benchmark.clock import Samples
from iresnet_export.benchmark.stability import NOT_STEADY
from iresnet_export.benchmark.statistics import speedup_of
from iresnet_export.reporting.schemas import BenchResult, Recommendation


def recommendation(
    results: Sequence[BenchResult], max_accuracy_drop: float | None, seed: int = 0, *, loaded: bool = False
) -> Recommendation | None:
    """Of what passed verification and is stable: the shortest latency at the smallest batch, else the highest throughput.

    None where nothing qualifies. Baselines and peers are not deployed from here, so none of them is recommended. `loaded`: whether
    something else held the machine meanwhile, which the sentence then says first.
    """
    fit = [result for result in results if qualifies(result)]
    timed = [result for result in fit if result.mode == "latency"]
    if timed:
        smallest = min(result.batch for result in timed)
        ranked = sorted((result for result in timed if result.batch == smallest), key=_median)
    else:
        ranked = sorted((result for result in fit if result.mode == "throughput"), key=lambda result: -(result.throughput or 0.0))
    return _said(ranked, max_accuracy_drop, seed, loaded) if ranked else None


def qualifies(result: BenchResult) -> bool:
    """Whether a result is of an artifact that passed verification, with a steady measurement of it and of its baseline."""
    deployed = result.baseline is not None and not result.peer
    passed = deployed and result.status == "ok" and result.parity is not None and result.parity.status == "pass"
    return passed and result.latency_ms is not None and not unsteady_baseline(result)


def unsteady_baseline(result: BenchResult) -> str | None:
    """Why there is no verdict on a result that is steady itself, where that is its baseline's fault."""
    why = result.null_reasons.get("speedup", "")
    return why if why.startswith(NOT_STEADY) else None


def _median(result: BenchResult) -> float:
    return result.latency_ms.p50 if result.latency_ms else float("inf")


def _said(ranked: Sequence[BenchResult], max_accuracy_drop: float | None, seed: int, loaded: bool) -> Recommendation:
    best, speedup = ranked[0], ranked[0].speedup
    threads = "1 thread" if best.threads == 1 else f"{best.threads} threads"
    where = "Measured while the machine was loaded, so in doubt: on this machine" if loaded else "On this machine"
    text = f"{where} {best.artifact} by {best.backend} ({best.precision}, {threads}) is the fastest that passes: "
    assert best.latency_ms is not None
    if best.mode == "latency":
        images = "an image" if best.batch == 1 else f"for {best.batch} images"
        text += f"{best.latency_ms.p50:.2f} ms {images} ({best.latency_ms.in_words()})"
    else:
        text += f"{best.throughput:,.0f} images a second at batch {best.batch}"
    if speedup is not None:
        low, high = speedup.ci95
        text += f", {speedup.p50:.2f} times as fast as eager PyTorch ({low:.2f} to {high:.2f})"
    text += _parity_in_words(best, max_accuracy_drop)
    for other in ranked[1:]:
        if _as_fast(best, other, seed):
            text += f"; {other.artifact} by {other.backend} is as fast within the noise"
    drop = best.parity.accuracy_drop_points if best.parity else None
    common = (best.artifact, best.backend, best.precision, best.batch, best.threads)
    return Recommendation(*common, f"{text}.", speedup.p50 if speedup else None, drop)


def _parity_in_words(best: BenchResult, max_accuracy_drop: float | None) -> str:
    parity = best.parity
    if parity is None:
        return ""
    text = ""
    if parity.noise_ratio is not None:
        text = f", with an error of {parity.noise_ratio:.2f} noise floors"
    elif parity.sqnr_db is not None:
        text = f", with a signal to noise of {parity.sqnr_db:.1f} dB"
    if parity.accuracy_drop_points is not None:
        gate = "" if max_accuracy_drop is None else f" ({max_accuracy_drop:g} are allowed)"
        text += f" and an accuracy that drops by {parity.accuracy_drop_points:.2f} points{gate}"
    return text


def _as_fast(best: BenchResult, other: BenchResult, seed: int) -> bool:
    same = (best.mode, best.batch, best.threads) == (other.mode, other.batch, other.threads)
    mine, others = (Samples(one.artifact, one.turns) for one in (best, other))
    return same and bool(best.turns and other.turns) and speedup_of(others, mine, seed).is_tie
