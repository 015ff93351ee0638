"""Image folders made of the embedded digits, and short training runs on them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
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


Job = Callable[..., list[int]]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """Runs a job of processes.py in processes of its own, and gives their exit statuses (a signal's is negative)."""
    log = tmp_path_factory.mktemp("processes") / "stderr.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(Path(__file__).with_name("processes.py"))]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None

        def run(kind: str, **values: Any) -> list[int]:
            assert server.stdin is not None
            assert server.stdout is not None
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            server.stdin.write(json.dumps({"kind": kind, "port": port, **values}) + "\n")
            server.stdin.flush()
            statuses: list[int] = json.loads(server.stdout.readline())
            if 4 in statuses:
                raise AssertionError(log.read_text(encoding="utf-8")[-3000:])
            return statuses

        yield run
        # Not by the end of its input, which loading processes that another test left behind may hold open too.
        server.terminate()


@pytest.fixture
def tiny_values(digit_folder: Path) -> dict[str, Any]:
    """The values of `tiny_config`, for another process: eight steps of nine images."""
    return {
        "data": str(digit_folder),
        "depth": 18,
        "epochs": 2,
        "batch_size": 18,
        "lr": 0.01,
        "lr_steps": [1],
        "train_crop_size": 32,
        "val_resize": 32,
        "val_crop_size": 32,
        "workers": 0,
        "device": "cpu",
        "augmentation": "affine",
    }
