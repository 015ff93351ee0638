"""Wrong arguments of the public API: each is an error of this project, in one paragraph, before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import RUNTIMES_ON_CPU

import iresnet_export as ie
from iresnet_export.artifacts.artifact import Artifact

Call = Callable[[Path, Path], Any]
"""Given a checkpoint and an ONNX file of it."""

WRONG: dict[str, Call] = {
    "fold": lambda checkpoint, _: ie.export(checkpoint, "onnx", fold="no"),
    "preprocessing": lambda checkpoint, _: ie.export(checkpoint, "onnx", with_preprocessing="no"),
    "batch": lambda checkpoint, _: ie.export(checkpoint, "onnx", dynamic_batch=False, batch=2**40),
    "batch as text": lambda checkpoint, _: ie.export(checkpoint, "onnx", dynamic_batch=False, batch="4"),
    "no batch": lambda checkpoint, _: ie.export(checkpoint, "onnx", dynamic_batch=False, batch=0),
    "truth as a number": lambda checkpoint, _: ie.export(checkpoint, "onnx", batch=True),
    "opset": lambda checkpoint, _: ie.export(checkpoint, "onnx", opset=0),
    "opset as text": lambda checkpoint, _: ie.export(checkpoint, "onnx", opset="18"),
    "precision": lambda checkpoint, _: ie.export(checkpoint, "onnx", precision="int4"),
    "precision None": lambda checkpoint, _: ie.export(checkpoint, "onnx", precision=None),
    "format": lambda checkpoint, _: ie.export(checkpoint, None),
    "source": lambda *_: ie.export(7, "onnx"),
    "output": lambda checkpoint, _: ie.export(checkpoint, "onnx", output=7),
    "arch": lambda *_: ie.untrained("vgg", 16),
    "depth": lambda *_: ie.untrained("iresnet", 7),
    "depth as text": lambda *_: ie.untrained("iresnet", "50"),
    "image size": lambda *_: ie.untrained("iresnet", 18, image_size=0),
    "classes": lambda *_: ie.untrained("iresnet", 18, num_classes=-1),
    "seed": lambda *_: ie.untrained("iresnet", 18, num_classes=10, image_size=32, seed=-1),
    "no artifacts": lambda *_: ie.verify([]),
    "artifacts None": lambda *_: ie.verify(None),
    "images": lambda _, onnx: ie.verify(onnx, images="64"),
    "batch sizes": lambda _, onnx: ie.verify(onnx, batch_sizes=7),
    "no batch sizes": lambda _, onnx: ie.verify(onnx, batch_sizes=[]),
    "a batch size of none": lambda _, onnx: ie.verify(onnx, batch_sizes=[0]),
    "device": lambda _, onnx: ie.verify(onnx, device="meta"),
    "device of none": lambda _, onnx: ie.verify(onnx, device="gpu"),
    "trust": lambda _, onnx: ie.verify(onnx, trust="yes"),
    "backend": lambda _, onnx: ie.verify(onnx, backends="tflite"),
    "drop": lambda _, onnx: ie.verify(onnx, max_accuracy_drop=float("nan")),
    "bench nothing": lambda *_: ie.bench([]),
    "no batches": lambda _, onnx: ie.bench(onnx, batches=[]),
    "batches": lambda _, onnx: ie.bench(onnx, batches=[1.5]),
    "modes": lambda _, onnx: ie.bench(onnx, modes=["fast"]),
    "threads": lambda _, onnx: ie.bench(onnx, threads=[0]),
    "many threads": lambda _, onnx: ie.bench(onnx, threads=[10**9]),
    "seconds": lambda _, onnx: ie.bench(onnx, seconds=float("inf")),
    "peers": lambda _, onnx: ie.bench(onnx, peers="yes"),
    "top k": lambda _, onnx: ie.predict(onnx, [], top_k=0),
    "session threads": lambda _, onnx: ie.open(onnx).session(threads=10**9),
    "session threads of none": lambda _, onnx: ie.open(onnx).session(threads=0),
    "session device": lambda _, onnx: ie.open(onnx).session(device="meta"),
    "session runtime": lambda _, onnx: ie.open(onnx).session("torchscript"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused(name: str, small_checkpoint: Path, artifacts: dict[str, Artifact]) -> None:
    with pytest.raises((ie.InputError, ie.UnavailableError)) as caught:
        WRONG[name](small_checkpoint, artifacts["onnx"].path)
    assert "\n" not in str(caught.value)
    assert list(Path().iterdir()) == [], "nothing is left behind"


def test_one_text_is_one_name(artifacts: dict[str, Artifact]) -> None:
    report = ie.verify(artifacts["onnx"], backends="onnxruntime", images=32, batch_sizes=(7,))
    assert [candidate.backend for candidate in report.candidates] == ["onnxruntime"]


BATCHES: dict[str, Any] = {
    "doubles": torch.zeros(2, 3, 32, 32, dtype=torch.float64),
    "pixels": torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
    "whole numbers": torch.zeros(2, 3, 32, 32, dtype=torch.int64),
    "channels last": torch.zeros(2, 32, 32, 3),
    "another size": torch.zeros(2, 3, 64, 64),
    "one image": torch.zeros(3, 32, 32),
    "no images": torch.zeros(0, 3, 32, 32),
    "a number": torch.tensor(1.0),
    "another device": torch.zeros(2, 3, 32, 32, device="meta"),
    "a list": [[1.0]],
}


@pytest.mark.parametrize("backend", RUNTIMES_ON_CPU)
@pytest.mark.slow
def test_sessions_refuse_what_their_file_does_not_take(
    backend: str, artifacts: dict[str, Artifact], small_checkpoint: Path, tmp_path: Path
) -> None:
    if backend == "eager":
        path = small_checkpoint
    elif backend == "torch_export":
        path = ie.export(small_checkpoint, "pt2", output=tmp_path / "a.pt2").path
    else:
        path = artifacts["torchscript" if backend == "torchscript" else "onnx"].path
    if backend == "openvino":
        pytest.importorskip("openvino")
    with ie.open(path).session(backend) as session:
        for batch in BATCHES.values():
            with pytest.raises(ie.InputError):
                session.run(batch)
        assert session.run(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(ie.InputError, match="closed"):
        session.run(torch.zeros(2, 3, 32, 32))
