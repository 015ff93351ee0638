"""What samples say: percentiles with confidence intervals, and paired speed-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from iresnet_export.benchmark.clock import Samples
from iresnet_export.reporting.schemas import Latency, Speedup

Values = np.ndarray[Any, np.dtype[np.float64]]
RESAMPLES = 2000
SAMPLES_BEYOND = 10
"""A percentile needs at least so many samples beyond it: p90 needs 100, p99 1,000 and p99.9 10,000."""

_LEVEL = 0.95


def samples_needed(percent: float) -> int:
    """How many samples a percentile takes; the median takes one."""
    return 1 if percent == 50 else round(SAMPLES_BEYOND / (1 - percent / 100))


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The percentile, interpolated as numpy does; None of too few values."""
    return float(np.percentile(values, percent)) if len(values) >= samples_needed(percent) else None


def latency_of(samples: Samples, seed: int = 0) -> Latency:
    """Statistics of all samples; the interval comes from resampling whole rounds, since samples of one turn go together."""
    values = np.array(samples.all)
    rounds = np.array(samples.rounds)
    medians = np.median(rounds[_resampled(len(rounds), seed)].reshape(RESAMPLES, -1), axis=1)
    return Latency(
        p50=float(np.median(values)),
        p90=percentile(samples.all, 90),
        p99=percentile(samples.all, 99),
        mean=float(values.mean()),
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        min=float(values.min()),
        max=float(values.max()),
        p50_ci95=interval(medians, float(np.median(values)), len(rounds), values),
    )


def speedup_of(baseline: Samples, candidate: Samples, seed: int = 0) -> Speedup:
    """The baseline's time over the candidate's, paired round by round; one of them may have gone on for longer."""
    pairs = zip(baseline.rounds, candidate.rounds, strict=False)
    ratios = np.array([np.median(slow) / np.median(fast) for slow, fast in pairs])
    medians = np.median(ratios[_resampled(len(ratios), seed)], axis=1)
    middle = float(np.median(ratios))
    low, high = interval(medians, middle, len(ratios), ratios)
    return Speedup(middle, (low, high), low <= 1 <= high)


def _resampled(count: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def interval(medians: Values, middle: float, count: int, measured: Values) -> tuple[float, float]:
    """The bootstrap's 95 % percentile interval, widened for few rounds: resampling `count` values understates their spread.

    It ends at the smallest and the largest of the `measured` values: no median lies beyond what was ever seen.
    """
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    widen = math.sqrt(count / max(count - 1, 1)) * _student(count) / NormalDist().inv_cdf(1 - tail)
    least, most = min(float(measured.min()), middle), max(float(measured.max()), middle)
    return max(least, middle - float(middle - low) * widen), min(most, middle + float(high - middle) * widen)


def _student(count: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + _LEVEL / 2, max(count - 1, 1)))
