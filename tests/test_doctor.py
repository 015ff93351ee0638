"""What the doctor says of this machine, and of machines that lack something."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome

from iresnet_export import doctor
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.doctor import diagnose, is_usable
from iresnet_export.reporting.schemas import DoctorReport, Finding
from iresnet_export.system import nvidia

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def only(monkeypatch: pytest.MonkeyPatch, *backends: str) -> None:
    """Lets it try these alone, which is quick."""
    monkeypatch.setattr(doctor, "NAMES", backends)
    monkeypatch.setattr(doctor, "_trained", lambda device: Finding("training", "train", device, "yes"))


def found(diagnosis: DoctorReport, backend: str, direction: str, device: str = "cpu") -> Finding:
    (finding,) = [f for f in diagnosis.findings if (f.backend, f.direction, f.device) == (backend, direction, device)]
    return finding


@WITHOUT_GPU
def test_the_whole_of_it(
    run: Callable[..., Outcome], artifacts: dict[str, Artifact], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("engines")
    (folder / "foreign.engine").write_bytes(artifacts["onnx"].path.read_bytes())
    outcome = run("doctor", folder, "--json", tmp_path / "doctor.json")
    assert outcome.status == 0, outcome.err
    document = json.loads((tmp_path / "doctor.json").read_text())
    assert document["schema"] == "iresnet-export/doctor/1"
    assert document["usable"] is True
    answers = {(f["backend"], f["direction"], f["device"]): f for f in document["findings"]}
    for backend in ("torchscript", "torch_export", "onnxruntime"):
        assert answers[backend, "export", "cpu"]["answer"] == "yes"
        assert answers[backend, "run", "cpu"]["answer"] == "yes"
    assert answers["training", "train", "cpu"]["answer"] == "yes"
    for key, finding in answers.items():
        assert finding["answer"] == "yes" or (finding["reason"] and finding["remedy"]), key
        assert (key[2] == "cuda") <= (finding["answer"] == "no")
    (engine,) = document["engines"]
    assert engine["file"] == "foreign.engine"
    assert "it is an ONNX file" in engine["says"]
    parts = {part["name"]: part["version"] for part in document["components"]}
    assert parts["NVIDIA driver"] is None
    assert parts["CUDA runtime"] == torch.version.cuda
    assert {"cuDNN", "TensorRT", "TensorRT-RTX", "ONNX Runtime", "C++ compiler"} <= parts.keys()
    assert str(Path.home()) not in json.dumps(document["findings"])
    assert "foreign.engine" in outcome.out


def test_a_package_that_is_missing_and_one_that_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "onnxruntime", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)

    def broken(*_arguments: object, **_more: object) -> None:
        raise ValueError("a library broke\nat length")

    monkeypatch.setattr("iresnet_export.backends.onnxruntime.runtime.OnnxSession.run", broken)
    diagnosis = diagnose()
    finding = found(diagnosis, "openvino", "run")
    assert finding.answer == "no"
    assert "pip install" in str(finding.remedy)
    assert found(diagnosis, "onnxruntime", "export").answer == "yes"
    finding = found(diagnosis, "onnxruntime", "run")
    assert (finding.answer, finding.reason) == ("no", "ValueError: a library broke")


def test_what_computes_something_else_is_no_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "onnxruntime")
    wrong = lambda _session, batch: torch.full((len(batch), 4), torch.nan)  # noqa: E731
    monkeypatch.setattr("iresnet_export.backends.onnxruntime.runtime.OnnxSession.run", wrong)
    finding = found(diagnose(), "onnxruntime", "run")
    assert finding.answer == "no"
    assert "computes something else" in str(finding.reason)


@WITHOUT_GPU
def test_training_is_tried_the_way_that_train_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends `train` at its first line is no "yes": here a device that set_device refuses."""
    assert doctor._trained("cpu").answer == "yes"
    monkeypatch.setattr(nvidia, "absence", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def refused(device: object) -> None:
        raise RuntimeError("CUDA error: busy")

    monkeypatch.setattr(torch.cuda, "set_device", refused)
    finding = doctor._trained("cuda")
    assert (finding.answer, finding.reason) == ("no", "The GPU is there, but cannot be used (CUDA error: busy)")
    assert "--device cpu" in str(finding.remedy)


def test_nothing_usable_is_exit_3(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "eager", "aotinductor")
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    outcome = run("doctor")
    assert outcome.status == 3
    assert "Nothing can be both exported and run here" in outcome.err
    assert "Install g++ or clang++" in " ".join(outcome.out.split())
    assert run("doctor", "no such folder").status == 2


def test_export_and_run_must_be_of_one_format() -> None:
    def usable(*answers: tuple[str, Any, Any]) -> bool:
        return is_usable([Finding(backend, direction, "cpu", answer) for backend, direction, answer in answers])

    assert usable(("onnxruntime", "export", "yes"), ("openvino", "run", "yes"))
    assert not usable(("onnxruntime", "export", "yes"), ("torchscript", "run", "yes"))
    assert not usable(("onnxruntime", "export", "yes"), ("onnxruntime", "run", "untried"))
    assert not usable(("eager", "run", "yes"))


@pytest.mark.parametrize(
    ("state", "reason", "remedy"),
    [
        ({"cuda": None}, "built without CUDA", "pip install --force-reinstall torch"),
        ({"driver": None}, "no NVIDIA driver", "--gpus all"),
        ({"driver": (12, 8)}, "serves CUDA 12.8 at most", "newer driver"),
        ({"hidden": "-1"}, "CUDA_VISIBLE_DEVICES='-1' hides", "unset CUDA_VISIBLE_DEVICES"),
        ({}, "torch finds no GPU", "nvidia-smi"),
    ],
)
def test_why_there_is_no_gpu(state: dict[str, Any], reason: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", state.get("cuda", "13.0"))
    cuda = state.get("driver", (13, 0))
    monkeypatch.setattr(nvidia, "driver", lambda: None if cuda is None else nvidia.Driver("580.1", cuda))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if "hidden" in state:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", state["hidden"])
    missing = nvidia.absence()
    assert missing is not None
    assert reason in missing.reason
    assert remedy in missing.remedy


def test_with_a_gpu_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert nvidia.absence() is None


def test_the_driver_s_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    told = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.03  Release Build  (dvs-builder@U22)\n"
        "GCC version: 12.2.0\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda _path, encoding=None: told)
    assert nvidia._version_in_words() == "580.159.03"
