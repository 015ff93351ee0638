"""The benchmark for GPUs, tried out on a CPU: that it measures what it says, and survives what is missing."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "studies"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, as `python studies/gpu.py` finds it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("gpu", "gpu_candidates"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import gpu

    return gpu


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_it_runs_through_on_a_cpu_and_says_what_it_left_out(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nand more lines")

    monkeypatch.setattr("iresnet_export.backends.torchscript.runtime.ScriptSession.run", lost)
    gpu.main(["--smoke", "--json", str(tmp_path / "gpu.json"), "--markdown", str(tmp_path / "gpu.md")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {row["candidate"]: row for row in found["inference"]}
    assert {"PyTorch, eager", "PyTorch, channels-last, bf16", "ONNX Runtime, fp32"} <= rows.keys()
    for name, row in rows.items():
        assert row["sqnr_db"] > (100 if row["precision"] == "fp32" else 25), name
        assert row["best_batch"] in (2, 4)
        assert row["images_per_second"][str(row["best_batch"])] == max(row["images_per_second"].values())
        expected = row["tflops"] / found["limits_tflops"][row["precision"]]
        assert row["limit_share"] == pytest.approx(expected)
        assert row["latency_ms"]["p50"] > 0
        assert row["device_ms"] > 0
    assert {row["precision"] for row in found["training"]} == {"fp32", "bf16"}
    assert found["left_out"]["TorchScript, fp32"] == "RuntimeError: CUDA error: an illegal memory access"
    assert "NVIDIA GPU" in found["left_out"]["TensorRT, fp32"]
    assert not rows.keys() & found["left_out"].keys()
    written = (tmp_path / "gpu.md").read_text()
    for name in rows:
        assert f"| {name} | " in written
    assert "- TensorRT, fp32: " in written
    assert "figures mean nothing" in written
    assert "PyTorch, eager" in capsys.readouterr().out


def test_what_comes_too_late_is_not_begun(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = dataclasses.replace(gpu.Plan.smoke(), last_start=-1.0, matrix=32)
    monkeypatch.setattr(gpu.Plan, "smoke", lambda: plan)
    results = gpu.main(["--smoke"])
    assert results.inference == results.training == []
    assert {"PyTorch, eager", "TensorRT, fp32", "training iresnet18 in bf16"} <= results.left_out.keys()
    assert "it was not begun" in results.left_out["TensorRT, fp32"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_says_so(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    assert caught.value.code == 3
    assert "--smoke" in capsys.readouterr().err
