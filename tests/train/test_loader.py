from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iresnet_models.errors import InputError
from iresnet_train import Loader, digits_spec, evaluation_set, spec_for, training_set
from iresnet_train.augmentation import augmented
from iresnet_train.data import LabelledImages

# Python 3.12 and 3.13 say so where PyTorch forks its workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture
def images(digit_folder: Path) -> LabelledImages:
    return evaluation_set(str(digit_folder), spec_for(str(digit_folder), "iresnet", 18, image_size=32, resize=32))


def passes(loader: Loader, count: int = 2) -> list[list[tuple[Tensor, Tensor]]]:
    return [list(loader) for _ in range(count)]


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True))


def test_every_image_comes_once_in_order(images: LabelledImages) -> None:
    loader = Loader(images, 7)
    assert len(loader) == 4
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [7, 7, 7, 3]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), torch.stack([images[index][0] for index in range(24)]))
    assert torch.cat([labels for _, labels in batches]).tolist() == images.labels


def test_shuffling_follows_the_seed_and_differs_from_pass_to_pass(images: LabelledImages) -> None:
    first, second = passes(Loader(images, 8, shuffle=True, seed=5))
    again = passes(Loader(images, 8, shuffle=True, seed=5))
    other = passes(Loader(images, 8, shuffle=True, seed=6))
    assert not same(first, second)
    assert same(first, again[0])
    assert same(second, again[1])
    assert not same(first, other[0])
    assert torch.cat([labels for _, labels in first]).bincount().tolist() == [8, 8, 8]


def test_workers_give_the_same_batches(images: LabelledImages) -> None:
    alone, helped = Loader(images, 8, shuffle=True, seed=5), Loader(images, 8, shuffle=True, seed=5, workers=2)
    assert same(next(iter(passes(alone))), next(iter(passes(helped))))


def test_data_travel_to_workers_that_are_not_forked() -> None:
    spec = digits_spec()
    digits = training_set("digits", spec, augmented("affine", spec, 32))
    again = pickle.loads(pickle.dumps(digits))
    torch.manual_seed(0)
    expected = digits[5]
    torch.manual_seed(0)
    assert torch.equal(again[5][0], expected[0])
    assert again[5][1] == expected[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_paragraph(digit_folder: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(digit_folder, tmp_path / "d")
    (tmp_path / "d" / "val" / "1" / "bad.png").write_bytes(b"not an image")
    spec = spec_for(str(digit_folder), "iresnet", 18, image_size=32, resize=32)
    with pytest.raises(InputError) as caught:
        list(Loader(evaluation_set(str(tmp_path / "d"), spec), 8, workers=workers))
    assert str(caught.value).startswith(f"The image {tmp_path / 'd' / 'val' / '1' / 'bad.png'} cannot be read")
    assert "\n" not in str(caught.value)
