from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from iresnet_data import digits_spec, evaluation_set, spec_for, training_set
from iresnet_data.datasets import LabelledImages
from iresnet_models.errors import InputError
from iresnet_train import Loader
from iresnet_train.augmentation import augmented
from iresnet_train.distributed import World
from iresnet_train.loader import Batch, TrainingLoader
from iresnet_train.randomness import seed_image

# Python 3.12 and 3.13 say so where PyTorch forks its workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, torch.device("cpu"))


@pytest.fixture
def images(digit_folder: Path) -> LabelledImages:
    return evaluation_set(str(digit_folder), spec_for(str(digit_folder), "iresnet", 18, image_size=32, resize=32))


@pytest.fixture
def moved(digit_folder: Path) -> LabelledImages:
    """72 images, augmented."""
    spec = spec_for(str(digit_folder), "iresnet", 18, image_size=32, resize=32)
    return training_set(str(digit_folder), spec, augmented("affine", spec, 32))


def tensors(batches: list[Batch]) -> list[tuple[Tensor, Tensor]]:
    return [(batch.images, batch.labels) for batch in batches if batch.images is not None and batch.labels is not None]


def same(one: list[Batch], other: list[Batch]) -> bool:
    pairs = zip(tensors(one), tensors(other), strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


def test_every_image_comes_once_in_order(images: LabelledImages) -> None:
    loader = Loader(images, 7)
    assert len(loader) == 4
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [7, 7, 7, 3]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), torch.stack([images[index][0] for index in range(24)]))
    assert torch.cat([labels for _, labels in batches]).tolist() == images.labels


def test_an_epoch_has_every_image_once_and_follows_seed_and_epoch(moved: LabelledImages) -> None:
    loader = TrainingLoader(moved, 16, world(), seed=5)
    first, second, again = list(loader.epoch(0)), list(loader.epoch(1)), list(loader.epoch(0))
    other = list(TrainingLoader(moved, 16, world(), seed=6).epoch(0))
    assert [len(labels) for _, labels in tensors(first)] == [16, 16, 16, 16, 8]
    assert [loader.planned(step) for step in range(loader.steps)] == [16, 16, 16, 16, 8]
    assert torch.cat([labels for _, labels in tensors(first)]).bincount().tolist() == [24, 24, 24]
    assert same(first, again)
    assert not same(first, other)
    # No image looks twice the same, whatever its place.
    looks = [{image.numpy().tobytes() for images, _ in tensors(epoch) for image in images} for epoch in (first, second)]
    assert len(looks[0] & looks[1]) <= 2


def test_what_a_step_sees_does_not_depend_on_workers_nor_on_what_came_before(moved: LabelledImages) -> None:
    whole = list(TrainingLoader(moved, 16, world(), seed=5).epoch(3))
    torch.manual_seed(99)
    for workers in (1, 2):
        loader = TrainingLoader(moved, 16, world(), seed=5, workers=workers)
        assert same(whole, list(loader.epoch(3)))
        assert same(whole[2:], list(loader.epoch(3, first=2)))
        assert list(loader.epoch(3, first=5)) == []


def test_processes_share_each_step(moved: LabelledImages) -> None:
    whole = tensors(list(TrainingLoader(moved, 10, world(), seed=1).epoch(0)))
    for size in (2, 3, 4):
        parts = [tensors(list(TrainingLoader(moved, 10, world(rank, size), seed=1).epoch(0))) for rank in range(size)]
        for step, (inputs, labels) in enumerate(whole[: len(parts[0])]):
            assert torch.equal(torch.cat([part[step][0] for part in parts]), inputs)
            assert torch.equal(torch.cat([part[step][1] for part in parts]), labels)
    assert len(whole) == 8  # 72 = 7 · 10 + 2
    assert [TrainingLoader(moved, 10, world(0, size)).steps for size in (1, 2)] == [8, 7]  # one image is too few for BatchNorm


def test_augmentation_differs_between_images_and_epochs(moved: LabelledImages) -> None:
    drawn = set()
    for epoch in range(3):
        for index in range(200):
            seed_image(0, epoch, index)
            drawn.add(float(torch.rand(())))
    assert len(drawn) > 595  # of 600, with 24 bits each
    seed_image(1, 0, 0)
    assert float(torch.rand(())) not in drawn


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
    data = evaluation_set(str(tmp_path / "d"), spec)
    with pytest.raises(InputError) as caught:
        list(Loader(data, 8, workers=workers))
    assert str(caught.value).startswith(f"The image {tmp_path / 'd' / 'val' / '1' / 'bad.png'} cannot be read")
    assert "\n" not in str(caught.value)
    told: list[str] = []
    batches = list(Loader(data, 8, workers=workers, on_unreadable=told.append))
    assert told == [str(caught.value)]
    assert sum(len(labels) for _, labels in batches) == 24


ENDS_IN_AN_ERROR = """
import sys
from iresnet_data import digits_spec, training_set
from iresnet_train.distributed import World
from iresnet_train.loader import TrainingLoader
import torch
if __name__ == "__main__":
    images, world = training_set("digits", digits_spec("iresnet", 18)), World(0, 1, torch.device("cpu"))
    batches = TrainingLoader(images, 16, world, workers=2).epoch(0)
    next(batches)
    raise SystemExit(7)
"""


@pytest.mark.slow
def test_loading_processes_end_with_the_one_that_they_load_for() -> None:
    """They do not hear SIGTERM, by which Python would end them, and for whose end it would then wait."""
    done = subprocess.run([sys.executable, "-c", ENDS_IN_AN_ERROR], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (7, "")
