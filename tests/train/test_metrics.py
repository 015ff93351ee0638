from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.metrics import top_k_accuracy_score
from torch import Tensor

from iresnet_models.errors import InputError
from iresnet_train import evaluate
from iresnet_train.metrics import Evaluation, evaluate_each, tally


def count(logits: Tensor, labels: Tensor) -> Evaluation:
    return Evaluation.of(tally(logits, labels).tolist())


def random_logits(images: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(images + classes)
    return torch.randn(images, classes, generator=generator), torch.randint(classes, (images,), generator=generator)


@pytest.mark.parametrize("classes", [6, 10, 1000])
def test_counts_equal_those_of_scikit_learn(classes: int) -> None:
    logits, labels = random_logits(1234, classes)
    found = count(logits, labels)
    for k, correct in ((1, found.top1_correct), (5, found.top5_correct)):
        expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k, labels=range(classes), normalize=False)
        assert correct == expected
    rows = logits.double().numpy()
    assert found.loss == pytest.approx(float(np.mean(logsumexp(rows, axis=1) - rows[np.arange(1234), labels])), rel=1e-12)


def test_batches_add_up_exactly() -> None:
    logits, labels = random_logits(103, 10)
    whole = count(logits, labels)
    seen: list[int] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images

    parts = evaluate(predict, zip(logits.split(10), labels.split(10), strict=True))
    assert seen == [10] * 10 + [3]
    assert (parts.images, parts.top1_correct, parts.top5_correct) == (103, whole.top1_correct, whole.top5_correct)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)


def test_percentages_are_of_all_images() -> None:
    evaluation = Evaluation(images=8, top1_correct=3, top5_correct=7, loss_sum=4.0)
    assert (evaluation.top1, evaluation.top5, evaluation.loss) == (37.5, 87.5, 0.5)


def test_of_equal_logits_the_first_class_wins() -> None:
    logits = torch.zeros(8, 8)
    found = count(logits, torch.arange(8))
    assert (found.top1_correct, found.top5_correct) == (1, 5)
    assert int(logits[0].argmax()) == 0


def test_with_few_classes_all_are_among_the_first_five() -> None:
    logits, labels = random_logits(50, 3)
    assert count(logits, labels).top5_correct == 50


def test_logits_that_are_not_numbers_are_wrong() -> None:
    logits = torch.eye(4)
    logits[0, 0] = torch.nan  # its own class
    logits[1, 3] = torch.nan  # another
    logits[2] = torch.nan
    assert count(logits, torch.arange(4)).top1_correct == 1
    assert count(logits, torch.arange(4)).top5_correct == 1


@pytest.mark.parametrize("shape", [(4, 3), (5, 10), (4, 10, 1)])
def test_logits_that_do_not_fit_the_labels_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not fit 4 labels up to 3"):
        count(torch.zeros(shape), torch.arange(4))


def test_no_images_are_no_evaluation() -> None:
    with pytest.raises(InputError, match="no images"):
        evaluate(lambda images: images, [])


def test_several_predictions_share_one_pass() -> None:
    logits, labels = random_logits(103, 10)
    batches = zip(logits.split(10), labels.split(10), strict=True)  # can be gone through once
    summed: list[tuple[int, ...]] = []

    def combined(tallies: Tensor) -> Tensor:
        summed.append(tuple(tallies.shape))
        return 2 * tallies

    found = evaluate_each([lambda images: images, lambda images: -images], batches, combined)
    assert summed == [(2, 4)]
    for evaluation, own in zip(found, (logits, -logits), strict=True):
        expected = count(own, labels)
        assert (evaluation.images, evaluation.top1_correct) == (206, 2 * expected.top1_correct)
        assert evaluation.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found[0].top5_correct != found[1].top5_correct
