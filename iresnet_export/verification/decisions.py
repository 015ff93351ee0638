"""What a difference between logits means: which decisions flip, why, and what that can cost in accuracy.

Everything follows from logits in float64: the reference's (exact) and a candidate's. Intervals and tests are SciPy's, which is
imported where they are made: manifests are read by what hardly needs time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from iresnet_export.graph.ir import Array

if TYPE_CHECKING:
    from iresnet_export.reporting.schemas import Flip

TELLING = 1.0
"""Percentage points: a bound of the drop above this says too little to be called an answer, where no limit is given."""

_DEVIATIONS = 3 * math.sqrt(2)
"""Two logits err independently, so their gap errs by √2 as much as one; three standard deviations of that are rounding."""

_MOST_IMAGES = 10_000_000
"""More than any data set has: what takes more cannot be shown."""


@dataclass(frozen=True)
class Proportion:
    """`count` of `total`."""

    count: int
    total: int

    @property
    def share(self) -> float:
        return self.count / self.total

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share, which holds near 0 and 1 too."""
        return _wilson(self.count, self.total)

    @property
    def percent(self) -> float:
        return 100 * self.count / self.total

    @property
    def percent_ci95(self) -> tuple[float, float]:
        low, high = self.ci95
        return 100 * low, 100 * high


@cache
def _wilson(count: int, total: int) -> tuple[float, float]:
    """Of a thousand classes most have the same few."""
    interval = _binomial(count, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class AccuracyDrop:
    """Top-1 accuracy of reference and candidate over the same labelled images, and what separates them.

    `only_reference`, `only_candidate`: images that only the one gets right; all others cannot tell the two apart.
    """

    reference: Proportion
    candidate: Proportion
    only_reference: int
    only_candidate: int

    @property
    def images(self) -> int:
        return self.reference.total

    @property
    def mcnemar_p(self) -> float:
        """McNemar's exact test: how likely so uneven a split is if both are equally good."""
        discordant = self.only_reference + self.only_candidate
        return float(_binomial(self.only_reference, discordant).pvalue) if discordant else 1.0

    @property
    def points(self) -> float:
        """The drop that was seen, in percentage points; negative where the candidate is better."""
        return 100 * (self.only_reference - self.only_candidate) / self.images

    @property
    def bound(self) -> float:
        """The drop is no more than these percentage points, at 95 %."""
        return 100 * drop_bound(self.only_reference, self.only_candidate, self.images)

    def reason(self, limit: float = TELLING) -> str | None:
        """Why it is not shown, at 95 %, that the drop is within `limit` points: it is worse, or it cannot be told."""
        if self.bound <= limit:
            return None
        if (worse := self._worse(limit)) is not None:
            return worse
        needed = images_needed(self.only_reference, self.only_candidate, self.images, limit / 100)
        if needed is None:
            return (
                f"the accuracy drops by {self.points:.3g} points over {self.images:,} images; at that rate no number of images "
                f"shows it within {limit:g}"
            )
        return (
            f"cannot tell with so few images: use {needed:,} to show {limit:g} (these {self.images:,} show: no worse than "
            f"{_rounded_up(self.bound)} points, at 95 %)"
        )

    def verdict(self, limit: float | None = None) -> str:
        """In words, what may be said of the drop; how many images it would take only where a limit was asked for."""
        against = self._worse(TELLING) if limit is None else self.reason(limit or TELLING)
        return against or f"no worse than {_rounded_up(self.bound)} points, at 95 %"

    def _worse(self, limit: float) -> str | None:
        """Whether it is shown to be worse by more than that; the least drop is the other way round the largest gain."""
        if -100 * _upper_difference(self.only_candidate, self.only_reference, self.images) > limit:
            return f"it is worse: the accuracy drops by {self.points:.3g} points, by more than {limit:g} at 95 %"
        return None


@dataclass(frozen=True)
class Decisions:
    """A candidate's decisions beside the reference's.

    `top1`: images with the same first class; `top5`: those with the same five (or all, if fewer) likeliest classes, in any order.
    `kl_divergence`: mean Kullback-Leibler divergence from the reference's to the candidate's probabilities, in nats.
    `accuracy` is None without labels.
    """

    top1: Proportion
    top5: Proportion
    flips: tuple[Flip, ...]
    kl_divergence: float
    accuracy: AccuracyDrop | None = None

    @property
    def explained(self) -> int:
        """How many flips rounding explains."""
        return sum(flip.explained for flip in self.flips)

    @property
    def unexplained(self) -> int:
        return len(self.flips) - self.explained


def compare_decisions(candidate: Array, reference: Array, rounding: float, labels: Array | None = None) -> Decisions:
    """Decisions by `candidate` and `reference`, both logits (n, classes).

    `rounding` is the root-mean-square error of a logit that passes as the precision's own. A flip's margin never exceeds the
    candidate's error in the two logits, or it would not be a flip; so that error explains nothing, and `rounding` has to.
    Of equal logits the first class wins, as in argmax.
    """
    from scipy.special import log_softmax

    from iresnet_export.reporting.schemas import Flip

    candidate, reference = candidate.astype(np.float64), reference.astype(np.float64)
    mine, exact, total = candidate.argmax(1), reference.argmax(1), len(reference)
    flips = []
    for image in np.flatnonzero(mine != exact):
        own, other = int(exact[image]), int(mine[image])
        margin = float(reference[image, own] - reference[image, other])
        error = float(candidate[image, other] - candidate[image, own]) + margin
        flips.append(Flip(int(image), own, other, margin, error, margin <= _DEVIATIONS * rounding))
    log_exact, log_mine = log_softmax(reference, axis=1), log_softmax(candidate, axis=1)
    divergence = np.sum(np.exp(log_exact) * (log_exact - log_mine), axis=1)
    return Decisions(
        top1=Proportion(total - len(flips), total),
        top5=Proportion(int(np.sum((_first_five(candidate) == _first_five(reference)).all(1))), total),
        flips=tuple(flips),
        kl_divergence=max(0.0, float(divergence.mean())),  # of equal logits the sum may round to less than zero
        accuracy=None if labels is None else _accuracy_drop(mine == labels, exact == labels),
    )


def drop_bound(only_reference: int, only_candidate: int, images: int) -> float:
    """Upper 95 % bound of the drop in accuracy, as a share: the truth exceeds it in at most one experiment of twenty.

    The drop is the difference of two rates: of images that only the reference gets right, and of those that only the candidate
    does. Each has its one-sided Clopper-Pearson limit, and the two distances to these are added as what they are, standard
    deviations of correlated estimates (MOVER: Zou and Donner 2008). Scaling the split of the discordant pairs by their number,
    (2 p - 1)(b + c)/n, would not do: it takes that number as known, and covers as little as half of the time.
    Never below what no discordant pair at all would give, 1 - 0.05^(1/n), though more luck can make it so.
    """
    return max(_upper_difference(only_reference, only_candidate, images), 1 - math.pow(0.05, 1 / images))


def images_needed(only_reference: int, only_candidate: int, images: int, limit: float) -> int | None:
    """How many images would show a drop within `limit` (a share) at these rates; None if no number does, the drop being larger."""

    def show(count: int) -> bool:
        # Whole images, rounded to the candidate's disadvantage.
        lost, won = -(-only_reference * count // images), only_candidate * count // images
        return drop_bound(lost, won, count) <= limit

    low, high = 1, images
    while not show(high):
        low, high = high, 2 * high
        if high > _MOST_IMAGES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if show(middle) else (middle, high)
    return high


def _upper_difference(first: int, second: int, total: int) -> float:
    """One-sided upper 95 % limit of the difference of two rates that exclude each other."""
    one, two = first / total, second / total
    above = float(_binomial(first, total, alternative="less").proportion_ci(0.95, method="exact").high) - one
    below = two - float(_binomial(second, total, alternative="greater").proportion_ci(0.95, method="exact").low)
    correlation = -math.sqrt(one * two / ((1 - one) * (1 - two))) if max(one, two) < 1 else 0.0
    return one - two + math.sqrt(above**2 - 2 * correlation * above * below + below**2)


def _binomial(count: int, total: int, **options: Any) -> Any:
    from scipy.stats import binomtest

    return binomtest(count, total, **options)


def drop_of(images: int, right: int, lost: int, gained: int) -> AccuracyDrop:
    """Of so many images that the reference gets `right`, the candidate has `lost` some and `gained` others."""
    return AccuracyDrop(Proportion(right, images), Proportion(right - lost + gained, images), lost, gained)


def _accuracy_drop(mine: Array, exact: Array) -> AccuracyDrop:
    """From which images each gets right."""
    return drop_of(len(exact), int(exact.sum()), int((exact & ~mine).sum()), int((mine & ~exact).sum()))


def _first_five(logits: Array) -> Array:
    """The five likeliest classes, in the order of their numbers."""
    return np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :5], axis=1)


def _rounded_up(points: float) -> str:
    """Two decimals, and still a bound."""
    return f"{math.ceil(points * 100) / 100:g}"
