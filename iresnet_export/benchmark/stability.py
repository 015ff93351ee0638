"""Whether a measurement is one figure at all, and a baseline one that others can be held against; else nothing is concluded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import median, quantiles

from iresnet_export.reporting.schemas import BenchResult

TOLERANCE = 0.05
DISPERSION = 0.5
"""The middle half of the turns may span this much of their median: a machine that is let alone stays below 0.1."""

CONTRADICTION = 1.1
"""A smaller batch may take so many times as long as a larger one; kernels for odd sizes are a little slower at times."""

NOT_STEADY = "no verdict: the baseline was not steady"


def halves_agree(rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the medians of the first and of the last half of the rounds differ by at most 5 % of the smaller."""
    half = len(rounds) // 2
    if half == 0:
        return False
    first, last = (median(sample for turn in part for sample in turn) for part in (rounds[:half], rounds[-half:]))
    return abs(first - last) <= TOLERANCE * min(first, last)


def unsteadiness(rounds: Sequence[Sequence[float]]) -> str | None:
    """Why no figure describes these rounds: its halves disagree, or its turns lie far apart; None where one does."""
    if not halves_agree(rounds):
        return "the medians of its first and last half differ by more than 5 %, however long it was measured"
    turns = [median(turn) for turn in rounds]
    low, middle, high = quantiles(turns, n=4, method="inclusive") if len(turns) > 1 else (turns[0],) * 3
    if high - low > DISPERSION * middle:
        return f"its turns lie far apart: half of them took {_figure(low)} to {_figure(high)} ms, and the others less or more"
    return None


def contradictions(medians: Mapping[int, float]) -> dict[int, str]:
    """Batch sizes that took longer than a larger batch, and those larger ones, each with that in words.

    `medians`: milliseconds of one candidate by batch size. More images take no less work, so one of the two was disturbed, and
    nobody knows which.
    """
    found: dict[int, str] = {}
    for small in sorted(medians):
        for large in sorted(medians):
            if large > small and medians[small] > CONTRADICTION * medians[large]:
                text = f"it took {_figure(medians[small])} ms at batch {small} and {_figure(medians[large])} ms at batch {large}"
                found.setdefault(small, text)
                found.setdefault(large, text)
    return found


def without_contradictions(results: Sequence[BenchResult]) -> list[BenchResult]:
    """The results, those baselines that contradict themselves "unstable", and what was compared with them without a verdict.

    A baseline does where it takes longer for a small batch than for a large one; earlier versions gave speed-ups over such.
    """
    medians: dict[tuple[str, int, str], dict[int, float]] = {}
    for one in results:
        if one.is_baseline and one.latency_ms is not None:
            medians.setdefault((one.artifact, one.threads, one.mode), {})[one.batch] = one.latency_ms.p50
    doubts = {(*key, batch): why for key, own in medians.items() for batch, why in contradictions(own).items()}
    found = []
    for one in results:
        of = one.artifact if one.is_baseline else one.baseline or ""
        why = doubts.get((of, one.threads, one.mode, one.batch))
        if why is not None and one.is_baseline and one.latency_ms is not None:
            one = dataclasses.replace(one, status="unstable", reason=why, stable=False)
        elif why is not None and one.speedup is not None:
            reasons = one.null_reasons | {"speedup": f"{NOT_STEADY}: {why}"}
            one = dataclasses.replace(one, speedup=None, null_reasons=reasons)
        found.append(one)
    return found


def _figure(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
