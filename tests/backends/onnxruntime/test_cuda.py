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

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.onnxruntime.cuda import (
    RECORD_ASSIGNMENT,
    CudaSettings,
    providers,
    require_on_gpu,
    tf32_notice,
)
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime, OnnxSession
from iresnet_export.backends.registry import require_settings_used, runtime_named
from iresnet_export.cli.options import runtimes_from_options
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.reporting.plots.marks import mark
from iresnet_export.reporting.words import backend_name
from iresnet_export.system import nvidia

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


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        ("tf32", CudaSettings(tf32=True), "tf32"),
        ("cuda-graph, nhwc", CudaSettings(nhwc=True, cuda_graph=True), "nhwc,cuda-graph"),
        ("search=heuristic", CudaSettings(search="HEURISTIC"), "search=heuristic"),
        ("search=exhaustive", CudaSettings(), ""),
        (
            "search=default,cuda-graph,nhwc,tf32",
            CudaSettings(tf32=True, nhwc=True, search="DEFAULT", cuda_graph=True),
            "tf32,nhwc,cuda-graph,search=default",
        ),
    ],
)
def test_settings_in_words(text: str, settings: CudaSettings, words: str) -> None:
    assert CudaSettings.parsed(text) == settings
    assert settings.words == words
    assert not words or CudaSettings.parsed(words) == settings
    label = f"onnxruntime ({words})" if words else "onnxruntime"
    assert OnnxRuntime(settings.words).label == runtime_named(OnnxRuntime(settings.words).spelled).label == label
    assert backend_name(label) == (f"ONNX Runtime ({words})" if words else "ONNX Runtime")
    assert mark("fp32", label) == mark("fp32", "onnxruntime") != mark("fp32", "no backend")


@pytest.mark.parametrize(
    "text", ["", "tf32,", "fast", "tf32=1", "search", "search=fast", "tf32,tf32", "search=default,search=heuristic", "cuda_graph"]
)
def test_words_that_are_not_known(text: str) -> None:
    says = r"--ort-cuda takes tf32, nhwc, cuda-graph, search=exhaustive, search=heuristic, search=default, each once"
    with pytest.raises(InputError, match=says) as caught:
        CudaSettings.parsed(text)
    assert caught.value.exit_status == 2


def test_settings_that_nothing_would_be_run_by() -> None:
    fast = ("openvino", "onnxruntime[nhwc]")
    require_settings_used(fast, CUDA, ["pt2", "onnx"])
    require_settings_used(("openvino",), torch.device("cpu"), ["pt2"])
    with pytest.raises(InputError, match="--device cpu"):
        require_settings_used(fast, torch.device("cpu"), ["onnx"])
    with pytest.raises(InputError, match="there are none here"):
        require_settings_used(fast, CUDA, ["pt2"])
    with pytest.raises(InputError, match="nothing here is run so"):
        runtimes_from_options(["openvino"], "nhwc")
    assert runtimes_from_options(["onnxruntime", "openvino"], "nhwc") == ("onnxruntime[nhwc]", "openvino")
    with pytest.raises(InputError, match="openvino takes no settings"):
        runtime_named("openvino[nhwc]")


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_settings_on_a_cpu_are_wrong_use(command: str, artifacts: dict[str, Artifact], run: Callable[..., Outcome]) -> None:
    for words, says in (("nhwc", "this is --device cpu; leave it out"), ("fast", "not 'fast'")):
        outcome = run(command, artifacts["onnx"].path, "--device", "cpu", "--ort-cuda", words)
        assert (outcome.status, says in " ".join(outcome.err.split())) == (2, True)


def test_where_tf32_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, capability = CudaSettings(tf32=True), (9, 0)
    monkeypatch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu("Pretended GPU", capability, 2**33))
    assert "rounded to 10 bits" in str(tf32_notice(asked, CUDA, "fp32"))
    assert tf32_notice(CudaSettings(nhwc=True), CUDA, "fp32") is None
    assert tf32_notice(asked, CUDA, "fp16") is None, "it touches products of float32 alone"
    assert tf32_notice(asked, torch.device("cpu"), "fp32") is None
    capability = (7, 5)
    assert tf32_notice(asked, CUDA, "fp32") is None, "such a GPU has none"


def test_a_session_in_tf32_does_not_call_itself_float32(artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real session, on a CPU in all but name: what it tells of its settings, and to whom it hands them."""
    given: list[CudaSettings | None] = []

    def here(_ort: Any, _device: torch.device, settings: CudaSettings | None = None) -> list[str]:
        given.append(settings)
        return ["CPUExecutionProvider"]

    monkeypatch.setattr("iresnet_export.backends.onnxruntime.runtime.providers", here)
    monkeypatch.setattr("iresnet_export.backends.onnxruntime.probing.providers", here)
    monkeypatch.setattr(nvidia, "absence", lambda: None)
    for module in ("runtime", "probing"):
        monkeypatch.setattr(f"iresnet_export.backends.onnxruntime.{module}.require_on_gpu", lambda _session, _name: [])
    monkeypatch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu("Pretended GPU", (9, 0), 2**33))
    cases = ((CudaSettings(tf32=True, cuda_graph=True), "tf32"), (CudaSettings(nhwc=True), "fp32"), (None, "fp32"))
    for settings, computed in cases:
        with OnnxRuntime(settings.words if settings else "").load(artifacts["onnx"], torch.device("cuda")) as session:
            assert session.computed_precision == computed
            assert len(session.notices) == (computed == "tf32")
        assert given[-1] == (settings or CudaSettings())
    probe = OnnxRuntime("tf32,cuda-graph").probe(artifacts["onnx"], torch.device("cuda"))
    probe.values(torch.zeros(1, 3, 32, 32), [0])
    assert given[-1] == CudaSettings(tf32=True), "inner values are what the session's are, but of no graph"


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
    session = ort.InferenceSession(str(artifacts["onnx"].path), options, providers=["CPUExecutionProvider"])
    parts = session.get_provider_graph_assignment_info()
    assert {part.ep_name for part in parts} == {"CPUExecutionProvider"}
    found = {(node.op_type, node.name) for part in parts for node in part.get_nodes()}
    assert ("Conv", "conv1") in found


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_a_session_that_falls_back_as_a_whole_is_exit_3(
    artifacts: dict[str, Artifact], run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError, match="ONNX Runtime cannot use a GPU here"):
        runtime_named("onnxruntime").load(artifacts["onnx"], torch.device("cuda"))
    outcome = run("verify", artifacts["onnx"].path, "--device", "cuda")
    assert outcome.status == 3
    assert len(outcome.err.strip().splitlines()) == 1
    # A GPU is there, says torch, and ONNX Runtime's libraries are not: it would go on on the CPU.
    monkeypatch.setattr(nvidia, "absence", lambda: None)
    monkeypatch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu("Pretended GPU", (8, 6), 2**33))
    with pytest.raises(UnavailableError, match="fell back to the CPU"):
        OnnxSession(artifacts["onnx"].path, torch.device("cuda"))
