"""A flat folder of classes is divided by what its files hold, and everything that opens it takes the same side."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iresnet_data import calibration_set, evaluation_set, spec_for, training_set
from iresnet_data.datasets import LabelledImages, evaluation_pixels, training_pixels
from iresnet_data.splits import content_hash
from iresnet_models.errors import InputError
from iresnet_models.spec import ModelSpec
from iresnet_train import TrainConfig, train

MakeConfig = Callable[..., TrainConfig]
SMALL: dict[str, Any] = {"image_size": 32, "resize": 32}


@pytest.fixture
def photos(digit_folder: Path, tmp_path: Path) -> Path:
    """Three classes of 24, 24 and 10 images."""
    shutil.copytree(digit_folder / "train", tmp_path / "photos")
    for path in sorted((tmp_path / "photos" / "2").iterdir())[10:]:
        path.unlink()
    return tmp_path / "photos"


def spec_of(folder: Path, fraction: float = 0.25) -> ModelSpec:
    return spec_for(str(folder), "resnet", 18, val_split=fraction, **SMALL)


def contents(images: LabelledImages) -> set[str]:
    return {content_hash(str(path)) for path in images.images}


def sides(folder: Path, spec: ModelSpec) -> tuple[set[str], set[str]]:
    return contents(training_set(str(folder), spec)), contents(evaluation_set(str(folder), spec))


def renamed(folder: Path, to: Path, seed: int) -> Path:
    """The same files by other names, so in another order."""
    for path in sorted(folder.rglob("*.png")):
        (to / path.parent.name).mkdir(parents=True, exist_ok=True)
        number = int.from_bytes(random.Random(f"{seed}{path.name}").randbytes(8))
        shutil.copy(path, to / path.parent.name / f"{number}.png")
    return to


def test_of_each_class_its_share_is_held_out(photos: Path) -> None:
    spec = spec_of(photos)
    held_out = evaluation_set(str(photos), spec)
    assert [held_out.labels.count(label) for label in range(3)] == [6, 6, 2]
    training, kept = sides(photos, spec)
    assert len(training) + len(kept) == 58
    assert not training & kept
    assert spec.split is not None
    assert (spec.split.images, spec.split.held_out, spec.split.fraction) == (58, 14, 0.25)
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_names_and_order_make_no_difference(photos: Path, tmp_path: Path) -> None:
    spec = spec_of(photos)
    other = renamed(photos, tmp_path / "others", seed=1)
    assert spec_of(other) == spec
    assert sides(other, spec) == sides(photos, spec)


def test_copies_stay_on_one_side_and_change_nothing(photos: Path) -> None:
    spec = spec_of(photos)
    before = sides(photos, spec)
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        shutil.copy(path, path.with_name(f"{'a' if number % 2 else 'z'}{path.name}"))
    assert sides(photos, spec) == before
    assert len(evaluation_set(str(photos), spec)) == 28
    assert spec_of(photos).split == spec.split


def test_a_photo_of_two_classes_is_on_one_side(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in list((photos / "0").iterdir()):
        shutil.copy(path, photos / "1" / f"copy-{path.name}")
    training, held_out = sides(photos, spec_of(photos))
    assert not training & held_out
    assert "24 photos lie in the folders of several classes" in caplog.text


def test_calibration_and_verification_keep_to_their_sides(photos: Path) -> None:
    spec = spec_of(photos)
    calibrating: Any = calibration_set(str(photos), spec, 1000)
    training, held_out = sides(photos, spec)
    images = calibrating.dataset.images
    assert {content_hash(images[index]) for index in calibrating.indices} == training
    pixels, labels = evaluation_pixels(str(photos), spec, 1000)
    measured, _ = training_pixels(str(photos), spec, 1000)
    assert (len(pixels), len(measured)) == (len(held_out), len(training))
    assert labels is not None
    assert not {image.numpy().tobytes() for image in pixels} & {image.numpy().tobytes() for image in measured}


def test_a_folder_that_was_changed_is_told(photos: Path, tmp_path: Path) -> None:
    spec = spec_of(photos)
    next((photos / "1").iterdir()).unlink()
    for open_part in (training_set, evaluation_set):
        with pytest.raises(
            InputError, match=r"other photos than this resnet18 was trained with \(57; 58 were divided by --val-split"
        ):
            open_part(str(photos), spec)
    shutil.copytree(photos, tmp_path / "new" / "val")  # photos that the network has not seen
    assert len(evaluation_set(str(tmp_path / "new"), spec)) == 57


def test_a_class_of_one_photo_is_refused(photos: Path) -> None:
    first, *others = sorted((photos / "2").iterdir())
    for path in others:
        path.unlink()
    shutil.copy(first, photos / "2" / "copy.png")
    with pytest.raises(InputError, match=r"Of a class with one photo none can be held out, .*: 2\. Add photos"):
        spec_of(photos)


@pytest.mark.parametrize("parts", [("train", "val"), ("val",), ("training", "Test")])
def test_a_folder_that_is_divided_is_not_divided_again(
    parts: tuple[str, ...], photos: Path, tmp_path: Path, tiny_config: MakeConfig
) -> None:
    for part in parts:
        shutil.copytree(photos, tmp_path / "data" / part)
    with pytest.raises(InputError, match=rf"--val-split divides .* holds {parts[0]}/.*divided already"):
        train(tiny_config(data=str(tmp_path / "data"), val_split=0.2))


def test_a_split_of_a_file_is_checked(photos: Path) -> None:
    spec = spec_of(photos)
    assert spec.split is not None
    for name, value in (("fraction", 0), ("fraction", True), ("held_out", 58), ("images", 10**30), ("sha256", "x"), ("more", 1)):
        plain = spec.to_json()
        with pytest.raises(InputError, match="split"):
            ModelSpec.from_json(plain | {"split": plain["split"] | {name: value}})
    assert dataclasses.replace(spec, split=None).to_json()["split"] is None
