"""What a network does to each class, held against scikit-learn, torch, and counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from iresnet_export.verification.classes import (
    Predictions,
    calibration,
    class_changes,
    confusions,
    counts_by_class,
    first_classes,
    holm,
    least_images,
    worst_mistakes,
)
from iresnet_train.metrics import tally


def predictions(labels: list[int], predicted: list[int], confidence: list[float] | None = None) -> Predictions:
    sure = [0.9] * len(labels) if confidence is None else confidence
    return Predictions(np.array(labels, np.int32), np.array(predicted, np.int32), np.array(sure, np.float32))


@pytest.fixture
def found() -> Predictions:
    """2,000 images of 9 classes, of which one has no images and one is never predicted."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 8, 2000)
    predicted = np.where(generator.random(2000) < 0.7, labels, generator.integers(0, 9, 2000))
    predicted[predicted == 3] = 4
    return Predictions(labels.astype(np.int32), predicted.astype(np.int32), generator.random(2000).astype(np.float32))


def test_classes_and_confidences_are_those_of_softmax() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 4
    first, confidence = first_classes(logits)
    assert first.tolist() == logits.argmax(1).tolist()
    assert confidence == pytest.approx(logits.double().softmax(1).max(1).values.numpy(), rel=1e-6)


def test_ties_infinities_and_nan_are_counted_as_accuracy_counts_them() -> None:
    infinite, nan = float("inf"), float("nan")
    rows = [[1.0, 1.0, 0.0], [0.0, infinite, 1.0], [nan, 5.0, 0.0], [-infinite, -infinite, 2.0], [nan, nan, nan]]
    logits, labels = torch.tensor(rows), torch.tensor([0, 1, 1, 2, 0])
    first, confidence = first_classes(logits)
    assert first.tolist() == [0, 1, -1, 2, -1]
    assert confidence == pytest.approx([1 / (2 + np.exp(-1)), 1, 0, 1, 0])
    found = Predictions(labels.int().numpy(), first, confidence)
    assert found.right.sum() == tally(logits, labels)[1] == 3
    assert found.without_class == 2
    assert worst_mistakes(found, 5) == []
    assert confusions(found) == []


def test_counts_are_scikit_learns(found: Predictions) -> None:
    precision, recall, _, support = precision_recall_fscore_support(found.labels, found.predicted, zero_division=np.nan)
    counted = {one.number: one for one in counts_by_class(found)}
    assert list(counted) == list(range(9))
    for number, one in counted.items():
        assert one.images == support[number]
        assert (one.recall is None) == bool(np.isnan(recall[number])) == (number == 8)
        assert (one.precision is None) == bool(np.isnan(precision[number])) == (number == 3)
        assert one.recall is None or one.recall.share == pytest.approx(recall[number])
        assert one.precision is None or one.precision.share == pytest.approx(precision[number])
    matrix = confusion_matrix(found.labels, found.predicted)
    pairs = confusions(found)
    assert {(actual, predicted): number for actual, predicted, number in pairs} == {
        (row, column): matrix[row, column] for row in range(9) for column in range(9) if row != column and matrix[row, column]
    }
    assert [number for _, _, number in pairs] == sorted((number for _, _, number in pairs), reverse=True)


def test_the_calibration_error_is_that_of_fifteen_equal_bins(found: Predictions) -> None:
    measured = calibration(found)
    assert measured is not None
    error, bins = measured
    expected = 0.0
    for low in range(15):
        inside = (found.confidence > low / 15) & (found.confidence <= (low + 1) / 15)
        expected += abs(found.right[inside].sum() - found.confidence[inside].astype(np.float64).sum()) / 2000
    assert error == pytest.approx(expected)
    assert sum(one.accuracy.total for one in bins) == 2000


def test_the_ends_of_bins_and_empty_ones() -> None:
    measured = calibration(predictions([0, 0, 0, 0], [0, 1, 0, -1], [1.0, 1.0, 0.05, 0.0]))
    assert measured is not None
    error, bins = measured
    assert [(one.low, one.high, one.accuracy.count, one.accuracy.total) for one in bins] == [(0, 1 / 15, 1, 1), (14 / 15, 1, 1, 2)]
    assert error == pytest.approx(0.95 / 3 + 0.5 * 2 / 3)
    assert calibration(predictions([0], [-1], [0.0])) is None


def test_the_worst_mistakes_are_the_most_confident() -> None:
    found = predictions([0, 0, 1, 1, 1], [1, 0, 0, 0, 2], [0.5, 0.99, 0.9, 0.5, 0.7])
    assert worst_mistakes(found, 3) == [2, 4, 0]
    assert worst_mistakes(found, 0) == []


def test_holms_correction_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])) == pytest.approx([1, 1])


def test_each_class_is_compared_image_by_image() -> None:
    labels = [0] * 20 + [1] * 20 + [2] * 5
    before = predictions(labels, [0] * 20 + [1] * 18 + [0, 0] + [2] * 5)
    after = predictions(labels, [1] * 12 + [0] * 8 + [1] * 17 + [0, 1, 0] + [2] * 5)
    changes = {one.number: one for one in class_changes(after, before)}
    assert list(changes) == [0, 1, 2], "the least likely by chance first"
    hurt = changes[0]
    assert (hurt.drop.reference.percent, hurt.drop.candidate.percent) == (100, 40)
    assert (hurt.drop.only_reference, hurt.drop.only_candidate) == (12, 0)
    assert hurt.p_holm == pytest.approx(3 * binomtest(12, 12).pvalue)
    assert (changes[1].drop.only_reference, changes[1].drop.only_candidate, changes[1].p_holm) == (1, 1, 1)
    assert changes[2].p_holm == 1


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_no_fewer_images_would_be_told_from_chance(classes: int) -> None:
    enough = least_images(classes)
    assert binomtest(enough, enough).pvalue * classes <= 0.05
    assert binomtest(enough - 1, enough - 1).pvalue * classes > 0.05


def test_chance_names_a_class_in_no_more_than_one_run_of_twenty() -> None:
    generator = np.random.default_rng(1)
    labels = np.repeat(np.arange(10, dtype=np.int32), 50)
    told = 0
    for _ in range(100):
        runs = [np.where(generator.random(500) < 0.8, labels, (labels + 1) % 10).astype(np.int32) for _ in range(2)]
        first, second = (Predictions(labels, each, np.ones(500, np.float32)) for each in runs)
        told += class_changes(second, first)[0].p_holm <= 0.05
    assert told <= 5
