"""Accuracy and loss over a data set, counted as whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from iresnet_models.errors import InputError


@dataclass(frozen=True)
class Evaluation:
    """What was counted over some images; parts add up exactly."""

    images: int
    top1_correct: int
    top5_correct: int
    loss_sum: float

    @property
    def loss(self) -> float:
        """Mean cross-entropy of an image."""
        return self.loss_sum / self.images

    @property
    def top1(self) -> float:
        """Percent of the images whose class came first."""
        return 100 * self.top1_correct / self.images

    @property
    def top5(self) -> float:
        """Percent of the images whose class was among the first five."""
        return 100 * self.top5_correct / self.images

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(
            self.images + other.images,
            self.top1_correct + other.top1_correct,
            self.top5_correct + other.top5_correct,
            self.loss_sum + other.loss_sum,
        )


NOTHING = Evaluation(0, 0, 0, 0.0)


def evaluate(predict: Callable[[Tensor], Tensor], loader: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Counts over all batches of `loader` (images, labels); `predict` makes logits (n, classes) of images (n, 3, s, s)."""
    total = NOTHING
    with torch.no_grad():
        for images, labels in loader:
            total += count(predict(images), labels)
    if not total.images:
        raise InputError("There are no images to evaluate on.")
    return total


def count(logits: Tensor, labels: Tensor) -> Evaluation:
    """Counts of one batch.

    Of equal logits the first class wins, as in argmax, so that the count does not depend on how a device sorts. An
    image with a logit that is NaN is wrong.
    """
    logits, labels = logits.detach().double(), labels.to(logits.device)
    if logits.ndim != 2 or len(logits) != len(labels) or int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"Logits of shape {tuple(logits.shape)} do not fit {len(labels)} labels up to {int(labels.max())}; "
            "evaluate on the data that the network was trained on."
        )
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    rank = rank.masked_fill(logits.isnan().any(1), logits.shape[1] + 5)
    loss = cross_entropy(logits, labels, reduction="sum")
    return Evaluation(len(labels), int((rank < 1).sum()), int((rank < 5).sum()), float(loss))
