"""Whether a measurement is one figure at all: its first and its last half agree, or nothing is concluded from it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

TOLERANCE = 0.05


def halves_agree(rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the medians of the first and of the last half of the rounds differ by at most 5 % of the smaller."""
    half = len(rounds) // 2
    if half == 0:
        return False
    first, last = (median(sample for turn in part for sample in turn) for part in (rounds[:half], rounds[-half:]))
    return abs(first - last) <= TOLERANCE * min(first, last)
