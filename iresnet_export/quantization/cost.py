"""What quantizing costs, as numbers, and what so many images say of it."""

from __future__ import annotations

import math

import numpy as np

from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import WIDEST_INTERVAL_DB

_DEVIATIONS = 1.96
"""Of a normal distribution, for 95 %."""


def sqnr_db(found: Array, exact: Array) -> float:
    """Signal to quantization noise, in decibels."""
    error, signal = (float(energy.mean()) for energy in _energies(found, exact))
    return 10 * math.log10(signal / max(error, np.finfo(np.float64).tiny)) if signal > 0 else 0.0


def sqnr_interval_db(found: Array, exact: Array) -> float:
    """How far the signal to noise of other images of the same kind may lie off, in decibels either way, at 95 %.

    By the delta method for a ratio of two means over images, and never more than WIDEST_INTERVAL_DB, which one image alone gives.
    """
    error, signal = _energies(found, exact)
    if len(error) < 2:
        return WIDEST_INTERVAL_DB
    if not (error.mean() > 0 and signal.mean() > 0):
        return 0.0
    scatter = float(np.std(error / error.mean() - signal / signal.mean(), ddof=1)) / math.sqrt(len(error))
    return min(WIDEST_INTERVAL_DB, _DEVIATIONS * scatter * 10 / math.log(10))


def chance_of_fewer(seen: int, images: int, foreseen: int, compared: int) -> float:
    """The chance of so few agreements if both samples are of one kind: Fisher's exact test, one-sided."""
    from scipy.stats import hypergeom

    return float(hypergeom.cdf(seen, images + compared, seen + foreseen, images))


def _energies(found: Array, exact: Array) -> tuple[Array, Array]:
    """Mean squares of error and signal, image by image."""
    wanted = exact.astype(np.float64)
    return np.square(found.astype(np.float64) - wanted).mean(axis=1), np.square(wanted).mean(axis=1)
