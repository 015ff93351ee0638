"""The public API: what it names, what it costs to import, and the main way through it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support import whatever_is_measured_counts

import iresnet_export as ie
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_models import ModelSpec

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "tensorrt_rtx", "torchvision", "numpy", "pydantic", "typer", "rich")


def test_importing_it_imports_nothing_else() -> None:
    check = f"import sys, iresnet_export; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_name_is_there_and_stays_what_it_is() -> None:
    """Modules of the package must not hide a function of the same name once they are imported."""
    found = {name: getattr(ie, name) for name in ie.__all__}
    for module in ("api", "exporting", "evaluation", "inspection", "prediction", "verification.verify", "benchmark.bench"):
        importlib.import_module(f"iresnet_export.{module}")
    assert {name: getattr(ie, name) for name in ie.__all__} == found
    assert set(ie.__all__) <= set(dir(ie))
    with pytest.raises(AttributeError, match="no attribute 'exporter'"):
        _ = ie.exporter


def test_the_way_from_a_checkpoint_to_an_answer(small_checkpoint: Path, tmp_path: Path) -> None:
    source = ie.load(small_checkpoint)
    artifact = ie.export(source, "onnx", output=tmp_path / "small.onnx", fold=False)
    report = ie.verify(artifact, images=32, batch_sizes=[7], backends=["onnxruntime"])
    assert report.passed
    assert report.candidates[0].noise_ratio is not None
    assert report.candidates[0].noise_ratio <= NOISE_LIMIT
    with ie.open(artifact).session("onnxruntime") as session:
        pixels = ie_noise(source.spec)
        logits = session.run(session.batch_of(pixels, source.spec))
    assert logits.shape == (3, 10)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    (prediction,) = ie.predict(artifact, tmp_path / "red.png", top_k=2)
    assert [len(prediction.top), prediction.status] == [2, "ok"]
    assert ie.inspect(artifact).artifact.format == "onnx"


def test_bench_recommends(small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whatever_is_measured_counts(monkeypatch)
    artifact = ie.export(str(small_checkpoint), "onnx", output=str(tmp_path / "small.onnx"))
    options = {"seconds": 0.02, "threads": [1], "memory": False, "limits": False, "backends": ["onnxruntime"]}
    report = ie.bench([artifact], batches=[1, 2], **options)
    assert {(result.backend, result.batch) for result in report.results} == {
        (backend, batch) for backend in ("eager", "onnxruntime") for batch in (1, 2)
    }
    assert report.settings["batch_sizes"] == [1, 2]
    recommended = report.recommendation
    assert recommended is not None
    assert (recommended.artifact, recommended.backend, recommended.batch) == ("small.onnx", "onnxruntime", 1)
    (measured,) = (result for result in report.results if (result.backend, result.batch) == ("onnxruntime", 1))
    assert measured.latency_ms is not None
    assert f"{measured.latency_ms.p50:.2f} ms an image" in recommended.sentence
    assert ie.bench([artifact], batches=[1], recommend=False, verify=False, **options).recommendation is None


def test_wrong_use_is_said(small_checkpoint: Path) -> None:
    for wrong, says in (
        (lambda: ie.export(small_checkpoint, "tflite"), "no format 'tflite'"),
        (lambda: ie.export(small_checkpoint, "onnx", precison="int8"), "no option 'precison'"),
        (lambda: ie.pretrained("resnet50"), "no weights called 'resnet50'"),
        (lambda: ie.open(small_checkpoint).session("openvino"), "openvino runs onnx files"),
    ):
        with pytest.raises(ie.InputError, match=says) as caught:
            wrong()
        assert caught.value.remedy
        assert str(caught.value).startswith(caught.value.reason)


def ie_noise(spec: ModelSpec) -> object:
    from iresnet_models.preprocessing import noise_pixels

    return noise_pixels(spec, 3, seed=0)
