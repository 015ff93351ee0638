"""Classes of unequal size: what a rare class's images count, and epochs that take each class equally often."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def class_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """What an image of each class counts, (num_classes), so that all classes count alike and an image 1 on average."""
    counts = torch.bincount(torch.tensor(labels), minlength=num_classes)
    return len(labels) / ((counts > 0).sum() * counts.clamp(min=1)).float()


def balanced_order(labels: Sequence[int], generator: torch.Generator) -> list[int]:
    """As many numbers as there are images, each class's equally often but for one, shuffled.

    A number is an image's index, the next time that the image comes its index plus the number of images, and so on: what is drawn
    for it follows from its number. Of a class none comes again before all have come.
    """
    found = torch.tensor(labels)
    members = [one for one in torch.split(torch.argsort(found, stable=True), torch.bincount(found).tolist()) if len(one)]
    count, rest = divmod(len(labels), len(members))
    larger = set(torch.randperm(len(members), generator=generator)[:rest].tolist())
    numbers: list[int] = []
    for place, images in enumerate(members):
        wanted = count + (place in larger)
        rounds = [images[torch.randperm(len(images), generator=generator)] for _ in range(-(-wanted // len(images)))]
        again = [each + number * len(labels) for number, each in enumerate(rounds)]
        numbers += torch.cat(again)[:wanted].tolist() if again else []
    return [numbers[place] for place in torch.randperm(len(numbers), generator=generator).tolist()]
