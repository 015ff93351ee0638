"""Image folders made of the embedded digits, and short training runs on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from iresnet_train import TrainConfig


def write_digits(folder: Path, classes: range, first: int, count: int) -> None:
    """PNG files of `count` images of each digit, from its `first` one on, in a folder of each digit's name."""
    bunch = load_digits()
    for digit in classes:
        (folder / str(digit)).mkdir(parents=True)
        for index in np.flatnonzero(bunch.target == digit)[first : first + count]:
            pixels = np.round(bunch.images[index] * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(digit) / f"{index:04}.png")


@pytest.fixture(scope="session")
def digit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ with 24 images of each of 3 classes, val/ with 8."""
    folder = tmp_path_factory.mktemp("data") / "digits-as-files"
    write_digits(folder / "train", range(3), 0, 24)
    write_digits(folder / "val", range(3), 24, 8)
    return folder


@pytest.fixture
def tiny_config(digit_folder: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A configuration of a run of a second or two; arguments replace its values."""

    def make(**values: Any) -> TrainConfig:
        defaults: dict[str, Any] = {
            "data": str(digit_folder),
            "depth": 18,
            "result_path": tmp_path / "run",
            "epochs": 2,
            "batch_size": 18,
            "lr": 0.01,
            "lr_steps": (1,),
            "train_crop_size": 32,
            "val_resize": 32,
            "val_crop_size": 32,
            "workers": 0,
            "device": "cpu",
        }
        return TrainConfig(**(defaults | values))

    return make
