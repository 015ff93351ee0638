"""ONNX Runtime's CUDA provider, as far as it can be seen without a GPU."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
import torch
from conftest import Outcome

from iresnet_export import nvidia
from iresnet_export.artifact import Artifact
from iresnet_export.backends import backend_named
from iresnet_export.backends.onnxruntime import OnnxSession
from iresnet_export.backends.onnxruntime_cuda import RECORD_ASSIGNMENT, CudaSettings, providers, require_on_gpu
from iresnet_export.errors import InputError, UnavailableError

CUDA = torch.device("cuda:1")


def test_parity_settings_are_the_default() -> None:
    ((name, options), fallback) = providers(ort, CUDA)
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["use_tf32"] == "0"
    assert options["device_id"] == "1"
    fast = CudaSettings(tf32=True, nhwc=True, search="HEURISTIC", cuda_graph=True).options(CUDA)
    keys = ("use_tf32", "prefer_nhwc", "cudnn_conv_algo_search", "enable_cuda_graph")
    assert [fast[key] for key in keys] == ["1", "1", "HEURISTIC", "1"]
    assert providers(ort, torch.device("cpu")) == ["CPUExecutionProvider"]
    with pytest.raises(InputError, match="EXHAUSTIVE, HEURISTIC, DEFAULT"):
        CudaSettings(search="FAST")


def test_the_provider_knows_every_option_by_its_name() -> None:
    """It takes names that it does not know for a fault only where a GPU is; so they are looked up in its library."""
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.exists():
        pytest.skip("this build of onnxruntime has no CUDA provider")
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        missing = [name for name in [*CudaSettings().options(CUDA), "EXHAUSTIVE"] if data.find(name.encode()) < 0]
    assert not missing


def pretended(first: str, **nodes: list[str]) -> Any:
    """A session that assigned nodes to providers."""

    def part(provider: str, names: list[str]) -> Any:
        listed = [SimpleNamespace(op_type="Conv", name=name) for name in names]
        return SimpleNamespace(ep_name=f"{provider}ExecutionProvider", get_nodes=lambda: listed)

    info = [part(provider, names) for provider, names in nodes.items()]
    return SimpleNamespace(get_providers=lambda: [f"{first}ExecutionProvider"], get_provider_graph_assignment_info=lambda: info)


def test_what_fell_to_the_cpu_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert require_on_gpu(pretended("CUDA", CUDA=["a", "b"]), "x.onnx") == []
    assert caplog.text == ""
    (notice,) = require_on_gpu(pretended("CUDA", CUDA=["a", "b"], CPU=["c"]), "x.onnx")
    assert notice.startswith("1 of 3 operations of x.onnx run on the CPU")
    assert "Conv at c" in notice
    assert notice in caplog.text
    for session in (pretended("CPU", CPU=["a"]), pretended("CUDA", CPU=["a", "b"])):
        with pytest.raises(UnavailableError, match=r"pip install 'onnxruntime-gpu\[cuda,cudnn\]'") as caught:
            require_on_gpu(session, "x.onnx")
        assert caught.value.exit_status == 3


def test_the_assignment_is_asked_for_in_this_form(artifacts: dict[str, Artifact]) -> None:
    """The real thing, on a CPU: what a test double above pretends is what ONNX Runtime gives."""
    options = ort.SessionOptions()
    options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    session = ort.InferenceSession(str(artifacts["onnxruntime"].path), options, providers=["CPUExecutionProvider"])
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}
    found = {(node.op_type, node.name) for part in parts for node in part.get_nodes()}
    assert ("Conv", "conv1") in found


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_session_that_falls_back_as_a_whole_is_exit_3(
    artifacts: dict[str, Artifact], run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError, match="ONNX Runtime cannot use a GPU here"):
        backend_named("onnxruntime").load(artifacts["onnxruntime"], torch.device("cuda"))
    outcome = run("verify", artifacts["onnxruntime"].path, "--device", "cuda")
    assert outcome.status == 3
    assert len(outcome.err.strip().splitlines()) == 1
    # A GPU is there, says torch, and ONNX Runtime's libraries are not: it would go on on the CPU.
    monkeypatch.setattr(nvidia, "absence", lambda: None)
    monkeypatch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu("Pretended GPU", (8, 6), 2**33))
    with pytest.raises(UnavailableError, match="fell back to the CPU"):
        OnnxSession(artifacts["onnxruntime"].path, torch.device("cuda"))
