"""What a network does to each class: confusions, calibration, mistakes, and the classes that another precision hurts.

Everything follows from one class and one probability an image. Intervals and tests are SciPy's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iresnet_export.reporting.schemas import SIGNIFICANT
from iresnet_export.verification.decisions import AccuracyDrop, Proportion, drop_of

BINS = 15
"""Of equal width, as in Guo et al., On Calibration of Modern Neural Networks (2017)."""

Integers = NDArray[np.int32]


@dataclass(frozen=True)
class Predictions:
    """Of every image (n) its class, the class that came first with its probability; -1 and 0 where a logit is NaN.

    `images` says which images these are: those of two runs can be paired where it is the same.
    """

    labels: Integers
    predicted: Integers
    confidence: NDArray[np.float32]
    images: str = ""

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.equal(self.labels, self.predicted)

    @property
    def without_class(self) -> int:
        """Images with a logit that is NaN."""
        return int((self.predicted < 0).sum())


def first_classes(logits: Tensor) -> tuple[Integers, NDArray[np.float32]]:
    """The first class of each image and its probability, of logits (n, classes): -1 and 0 where one is NaN.

    Of equal logits the first class wins. Infinite logits count as the largest numbers there are.
    """
    logits = logits.detach().cpu().double()
    numbers = ~logits.isnan().any(1)
    logits = logits.nan_to_num(0.0)
    largest, first = logits.max(1).values, logits.argmax(1)
    probability = 1 / (logits - largest[:, None]).exp().sum(1)
    return torch.where(numbers, first, -1).int().numpy(), torch.where(numbers, probability, 0.0).float().numpy()


@dataclass(frozen=True)
class ClassCounts:
    """`recall`: of the images of the class, those that were recognised; `precision`: of those taken for it, those that are of it.

    Each is None where there are no such images.
    """

    number: int
    images: int
    predicted: int
    right: int

    @property
    def recall(self) -> Proportion | None:
        return Proportion(self.right, self.images) if self.images else None

    @property
    def precision(self) -> Proportion | None:
        return Proportion(self.right, self.predicted) if self.predicted else None


def counts_by_class(found: Predictions) -> Iterator[ClassCounts]:
    """Of every class that has images or was predicted."""
    told = found.predicted[found.predicted >= 0]
    size = int(max(found.labels.max(), told.max(initial=0))) + 1
    images, predicted, right = (np.bincount(each, minlength=size) for each in (found.labels, told, found.labels[found.right]))
    for number in np.flatnonzero(images + predicted):
        yield ClassCounts(int(number), int(images[number]), int(predicted[number]), int(right[number]))


def confusions(found: Predictions) -> list[tuple[int, int, int]]:
    """Pairs of different classes, the image's and the predicted one, with how many images; the most frequent first."""
    wrong = ~found.right & (found.predicted >= 0)
    pairs, counts = np.unique(np.stack([found.labels[wrong], found.predicted[wrong]], 1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        (int(actual), int(predicted), int(number)) for (actual, predicted), number in zip(pairs[order], counts[order], strict=True)
    ]


@dataclass(frozen=True)
class Bin:
    """Images whose confidence lies above `low` and up to `high`; `confidence` is their mean."""

    low: float
    high: float
    confidence: float
    accuracy: Proportion


def calibration(found: Predictions) -> tuple[float, list[Bin]] | None:
    """The expected calibration error, and the bins that hold images; None where no image has a class.

    The error is the mean over all images of |accuracy - mean confidence| of the image's bin, from 0 to 1.
    """
    told = found.predicted >= 0
    confidence, right = found.confidence[told].astype(np.float64), found.right[told]
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = [
        Bin(number / BINS, (number + 1) / BINS, float(confidence[own].mean()), Proportion(int(right[own].sum()), int(own.sum())))
        for number in range(BINS)
        if (own := place == number).any()
    ]
    total = int(told.sum())
    if not total:
        return None
    return sum(one.accuracy.total / total * abs(one.accuracy.share - one.confidence) for one in bins), bins


def worst_mistakes(found: Predictions, most: int) -> list[int]:
    """The images that are taken for another class with the greatest confidence, by their index."""
    wrong = np.flatnonzero(~found.right & (found.predicted >= 0))
    return [int(index) for index in wrong[np.argsort(-found.confidence[wrong], kind="stable")[:most]]]


@dataclass(frozen=True)
class ClassChange:
    """A class in two runs over the same images; `p_holm` is McNemar's exact p, corrected for the number of classes."""

    number: int
    drop: AccuracyDrop
    p_holm: float


def class_changes(candidate: Predictions, reference: Predictions) -> list[ClassChange]:
    """What each class loses or gains from reference to candidate, the least likely by chance first; of the same images.

    McNemar's exact test over the images that only one of the two tells, for every class with images, and Holm's correction: the
    chance that any class is named wrongly stays below `SIGNIFICANT`.
    """
    labels = reference.labels
    size = int(labels.max()) + 1

    def counted(which: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(labels[which], minlength=size)

    before, after = reference.right, candidate.right
    images, lost, won = counted(np.ones_like(before)), counted(before & ~after), counted(after & ~before)
    told = counted(before)
    classes = [int(number) for number in np.flatnonzero(images)]
    drops = [drop_of(*(int(counts[number]) for counts in (images, told, lost, won))) for number in classes]
    corrected = holm(np.array([drop.mcnemar_p for drop in drops]))
    changes = [ClassChange(*one) for one in zip(classes, drops, corrected.tolist(), strict=True)]
    return sorted(changes, key=lambda one: (one.p_holm, one.drop.mcnemar_p))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p values corrected for their number by Holm's step-down method (1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    corrected = np.empty_like(stepped)
    corrected[order] = stepped
    return corrected


def least_images(classes: int) -> int:
    """The fewest images of one class, all lost or all won, that are told from chance among so many classes."""
    return math.ceil(math.log2(2 * classes / SIGNIFICANT))
