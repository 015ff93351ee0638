"""Accuracy and loss over a data set, counted as whole images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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

    @classmethod
    def of(cls, tally: Iterable[float]) -> Evaluation:
        """Of the four numbers that `tally` counts."""
        images, top1, top5, loss = tally
        return cls(int(images), int(top1), int(top5), loss)

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


def evaluate(
    predict: Callable[[Tensor], Tensor],
    loader: Iterable[tuple[Tensor, Tensor]],
    combined: Callable[[Tensor], Tensor] = lambda tally: tally,
) -> Evaluation:
    """Counts over all batches of `loader` (images, labels); `predict` makes logits (n, classes) of images (n, 3, s, s).

    `combined` adds what other processes counted over their images.
    """
    return evaluate_each([predict], loader, combined)[0]


def evaluate_each(
    predictions: Sequence[Callable[[Tensor], Tensor]],
    loader: Iterable[tuple[Tensor, Tensor]],
    combined: Callable[[Tensor], Tensor] = lambda tallies: tallies,
) -> list[Evaluation]:
    """`evaluate` for each of `predictions`, with one pass over `loader` and one sum over the processes."""
    total = None
    with torch.no_grad():
        for images, labels in loader:
            counted = torch.stack([tally(predict(images), labels) for predict in predictions])
            total = counted if total is None else total + counted
    total = torch.zeros(len(predictions), 4, dtype=torch.float64) if total is None else total
    found = [Evaluation.of(row) for row in combined(total).tolist()]
    if not all(evaluation.images for evaluation in found):
        raise InputError("There are no images to evaluate on.")
    return found


def tally(logits: Tensor, labels: Tensor) -> Tensor:
    """Images, those right at first, those right among the first five, and the sum of losses: four float64 on the logits' device.

    Of equal logits the first class wins, as in argmax, so that the count does not depend on how a device sorts. An
    image with a logit that is NaN is wrong.
    """
    if logits.ndim != 2 or len(logits) != len(labels) or int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"Logits of shape {tuple(logits.shape)} do not fit {len(labels)} labels up to {int(labels.max())};",
            "evaluate on the data that the network was trained on.",
        )
    logits, labels = logits.detach().double(), labels.to(logits.device, non_blocking=True)
    return torch.stack([*correct(logits, labels), cross_entropy(logits, labels, reduction="sum")])


def correct(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first three of `tally`, of labels on the logits' device."""
    own = logits.gather(1, labels[:, None])
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(1)
    rank = rank.masked_fill(logits.isnan().any(1), logits.shape[1] + 5)
    images = torch.full((), len(labels), dtype=torch.float64, device=logits.device)
    return images, (rank < 1).sum().double(), (rank < 5).sum().double()
