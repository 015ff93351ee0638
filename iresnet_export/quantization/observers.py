"""How far activations reach: from images to the range of every value that is quantized, in bounded memory.

Images go through the graph batch by batch, and every value leaves behind only its extremes and a histogram, whose bins double in
width, two by two, whenever a value lies beyond them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from scipy.special import rel_entr
from torch import Tensor

from iresnet_export.errors import CheckFailedError
from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import Range
from iresnet_export.quantization.schemes import Calibrator
from iresnet_export.system.progress import Progress

_BINS = 4096
_PERCENTILE = 99.999
_ENTROPY_LEVELS = 128
_ENTROPY_STEP = 16


class Watched(Protocol):
    """A graph that shows every value by its name while it is computed."""

    def run(self, batch: Tensor, watch: Callable[[str, Tensor], Tensor | None] | None = None) -> Tensor: ...


class Observer:
    """The extremes and the histogram of one value, over everything that it was shown."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.reach = 0.0
        """The histogram's bins cover -reach to reach."""
        self.counts: Array = np.zeros(_BINS, dtype=np.int64)

    def extend(self, values: Tensor) -> None:
        low, high = (float(extreme) for extreme in torch.aminmax(values))
        self.low, self.high = min(self.low, low), max(self.high, high)

    def count(self, values: Tensor) -> None:
        """Adds values to the histogram; `extend` has seen them."""
        furthest = max(-self.low, self.high)
        if not np.isfinite(furthest):
            return
        if self.reach == 0:
            self.reach = furthest or 1.0
        while self.reach < furthest:
            self._double()
        self.counts += torch.histc(values.float(), _BINS, -self.reach, self.reach).long().numpy()

    def _double(self) -> None:
        quarter = _BINS // 4
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(_BINS, dtype=np.int64)
        self.counts[quarter : 3 * quarter] = merged
        self.reach *= 2


def observed(
    graph: Watched, activations: Sequence[str], batches: Iterable[Tensor], count: int, progress: Progress
) -> dict[str, Observer]:
    """What is known of every activation after `count` batches. Raises CheckFailedError for values that are not finite."""
    observers = {name: Observer() for name in activations}

    def watch(name: str, values: Tensor) -> None:
        observer = observers.get(name)
        if observer is not None:
            observer.extend(values)
            observer.count(values)

    for step, batch in enumerate(batches):
        progress("Calibrating", step / max(count, 1))
        graph.run(batch, watch)
    progress("Calibrating", 1.0)
    for name, observer in observers.items():
        if not (np.isfinite(observer.low) and np.isfinite(observer.high)):
            raise CheckFailedError(f"{name} takes NaN or infinite values on the calibration images; the weights have diverged.")
    return observers


def is_range_of(observer: Observer, recorded: Range, calibrator: Calibrator) -> bool:
    """Whether a range is this observer's, but for what float32 rounds otherwise on another processor or with other threads.

    Ends may lie half a step of 255 codes apart, or one bin of the histogram, into which rounding moves the value that decides.
    """
    own = _near_entropy(observer) if calibrator == "entropy" else [RANGES[calibrator](observer)]
    bin_width = 2 * observer.reach / _BINS
    bounds = [max((high - low) / 510, bin_width) for low, high in own]
    return any(
        abs(low - recorded[0]) <= bound and abs(high - recorded[1]) <= bound for (low, high), bound in zip(own, bounds, strict=True)
    )


def _extremes(observer: Observer) -> Range:
    return observer.low, observer.high


def _percentile(observer: Observer) -> Range:
    """The narrowest range around zero, on each side for itself, that leaves out no more than half of the rest."""
    total, rest = observer.counts.sum(), (1 - _PERCENTILE / 100) / 2
    edges = np.linspace(-observer.reach, observer.reach, _BINS + 1)
    summed = np.cumsum(observer.counts)
    low = edges[int(np.searchsorted(summed, rest * total, side="right"))]
    high = edges[int(np.searchsorted(summed, (1 - rest) * total, side="left")) + 1]
    return max(observer.low, float(low)), min(observer.high, float(high))


def _entropy(observer: Observer) -> Range:
    """The threshold on |x| that TensorRT's and ONNX Runtime's entropy calibrators look for (Migacz, GTC 2017)."""
    return _by_divergence(observer)[0][1]


def _near_entropy(observer: Observer) -> list[Range]:
    """The same, and those of all thresholds that lose a thousandth more at most: which is the best of them, rounding decides."""
    found = _by_divergence(observer)
    return [limits for lost, limits in found if lost <= 1.001 * found[0][0]]


def _by_divergence(observer: Observer) -> list[tuple[float, Range]]:
    """What each threshold loses, and its range; the least first."""
    half = _BINS // 2
    counts = (observer.counts[half:] + observer.counts[:half][::-1]).astype(np.float64)
    counts[0] = 0 if counts[1:].any() else counts[0]  # zeros, of which a ReLU makes many, are exact whatever the threshold
    found = []
    for size in range(_ENTROPY_LEVELS, half + 1, _ENTROPY_STEP):
        threshold = size / half * observer.reach
        found.append((_divergence(counts, size), (max(observer.low, -threshold), min(observer.high, threshold))))
    return sorted(found, key=lambda entry: entry[0])


def _divergence(counts: Array, size: int) -> float:
    """What is lost of a distribution that is cut off after `size` bins and then coded in few levels."""
    kept = counts[:size].copy()
    if not kept.any():
        return np.inf
    seen = kept > 0
    levels = (np.arange(size) * _ENTROPY_LEVELS) // size
    sums, used = np.bincount(levels, kept, _ENTROPY_LEVELS), np.bincount(levels, seen, _ENTROPY_LEVELS)
    coded = np.where(seen, sums[levels] / np.maximum(used[levels], 1), 0)
    kept[-1] += counts[size:].sum()
    coded[-1] = max(coded[-1], 1e-9 * kept.sum()) if kept[-1] > 0 else coded[-1]
    return float(rel_entr(kept / kept.sum(), coded / coded.sum()).sum())


RANGES: dict[str, Callable[[Observer], Range]] = {"minmax": _extremes, "percentile": _percentile, "entropy": _entropy}
"""By calibrator. `minmax`: everything that was seen. `percentile`: 99.999 % of it. `entropy`: what loses least information
(Kullback-Leibler divergence) when it is coded in 8 bits."""
