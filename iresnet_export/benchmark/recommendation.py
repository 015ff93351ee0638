"""The fastest artifact and backend that pass, in one sentence with its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from iresnet_export.benchmark.results import Recommendation, Result
from iresnet_export.benchmark.stability import NOT_STEADY
from iresnet_export.benchmark.statistics import speedup_of


def recommendation(
    results: Sequence[Result], max_accuracy_drop: float | None, seed: int = 0, *, loaded: bool = False
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


def qualifies(result: Result) -> bool:
    """Whether a result is of an artifact that passed verification, with a steady measurement of it and of its baseline."""
    subject = result.subject
    deployed = subject.baseline is not None and not subject.peer
    passed = deployed and result.status == "ok" and getattr(subject.parity, "status", None) == "pass"
    return passed and result.latency is not None and not unsteady_baseline(result)


def unsteady_baseline(result: Result) -> str | None:
    """Why there is no verdict on a result that is steady itself, where that is its baseline's fault."""
    why = result.missing.get("speedup", "")
    return why if why.startswith(NOT_STEADY) else None


def _median(result: Result) -> float:
    return result.latency.p50 if result.latency else float("inf")


def _said(ranked: Sequence[Result], max_accuracy_drop: float | None, seed: int, loaded: bool) -> Recommendation:
    best, subject, speedup = ranked[0], ranked[0].subject, ranked[0].speedup
    threads = "1 thread" if subject.threads == 1 else f"{subject.threads} threads"
    where = "Measured while the machine was loaded, so in doubt: on this machine" if loaded else "On this machine"
    text = f"{where} {subject.artifact} by {subject.backend} ({subject.precision}, {threads}) is the fastest that passes: "
    assert best.latency is not None
    if best.mode == "latency":
        low, high = best.latency.p50_ci95
        images = "an image" if best.batch == 1 else f"for {best.batch} images"
        text += f"{best.latency.p50:.2f} ms {images} (median; 95 % interval {low:.2f} to {high:.2f})"
    else:
        text += f"{best.throughput:,.0f} images a second at batch {best.batch}"
    if speedup is not None:
        low, high = speedup.ci95
        text += f", {speedup.p50:.2f} times as fast as eager PyTorch ({low:.2f} to {high:.2f})"
    text += _parity_in_words(best, max_accuracy_drop)
    for other in ranked[1:]:
        if _as_fast(best, other, seed):
            text += f"; {other.artifact} by {other.backend} is as fast within the noise"
    drop = subject.parity.accuracy_drop if subject.parity else None
    common = (subject.artifact, subject.backend, subject.precision, best.batch, subject.threads)
    return Recommendation(*common, speedup.p50 if speedup else None, drop, f"{text}.")


def _parity_in_words(best: Result, max_accuracy_drop: float | None) -> str:
    parity = best.subject.parity
    if parity is None:
        return ""
    text = ""
    if parity.noise_ratio is not None:
        text = f", with an error of {parity.noise_ratio:.2f} noise floors"
    elif parity.sqnr_db is not None:
        text = f", with a signal to noise of {parity.sqnr_db:.1f} dB"
    if parity.accuracy_drop is not None:
        gate = "" if max_accuracy_drop is None else f" ({max_accuracy_drop:g} are allowed)"
        text += f" and an accuracy that drops by {parity.accuracy_drop:.2f} points{gate}"
    return text


def _as_fast(best: Result, other: Result, seed: int) -> bool:
    same = (best.mode, best.batch, best.subject.threads) == (other.mode, other.batch, other.subject.threads)
    if not same or best.samples is None or other.samples is None:
        return False
    return speedup_of(other.samples, best.samples, seed).tie
