"""Every backend and precision against the float64 network, on the GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.onnxruntime.cuda import CudaSettings
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime, OnnxSession
from iresnet_export.backends.pt2.compiled import CompiledSession
from iresnet_export.backends.pt2.reading import load_program
from iresnet_export.system import nvidia
from iresnet_export.verification.verify import VerifyOptions, verify

FLOATING = ("fp32", "fp16", "bf16")
CASES = [
    *(("torchscript", precision) for precision in FLOATING),
    *(("torch_export", precision) for precision in FLOATING),
    *(("channels-last", precision) for precision in FLOATING),
    *(("compiled", precision) for precision in FLOATING),
    *(("aotinductor", precision) for precision in FLOATING),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
    *(("tensorrt", precision) for precision in (*FLOATING, "int8", "fp8")),
]


@pytest.mark.parametrize(("backend", "precision"), CASES, ids=lambda value: str(value))
def test_parity(backend: str, precision: str, export: Callable[..., Artifact], device: torch.device) -> None:
    exporter = "torch_export" if backend in ("compiled", "channels-last") else backend
    artifact = export(exporter, precision=precision, target="tensorrt" if backend == "tensorrt" else "cpu")
    options = VerifyOptions(device=device, batch_sizes=(1, 3, 16), backends=(backend,), images=32)
    (candidate,) = verify([artifact.path], options).candidates
    assert candidate.status == "pass", candidate.reason
    assert candidate.computed_precision == precision


@pytest.mark.parametrize("words", ["nhwc", "cuda-graph", "search=heuristic", "nhwc,cuda-graph", "tf32", "tf32,nhwc,cuda-graph"])
def test_onnx_runtime_as_it_was_told_to_compute(words: str, export: Callable[..., Artifact], device: torch.device) -> None:
    """TF32 passes as TF32, and is told; all else is float32 as before."""
    if device.type == "cpu":
        pytest.skip("these settings are refused on a CPU")
    settings = CudaSettings.parsed(words)
    options = VerifyOptions(device=device, batch_sizes=(1, 3, 16), images=32, backends=(OnnxRuntime(settings.words).spelled,))
    (candidate,) = verify([export("onnxruntime").path], options).candidates
    assert candidate.status == "pass", candidate.reason
    assert candidate.backend == f"onnxruntime ({words})"
    here = nvidia.gpu()
    assert here is not None
    named = settings.tf32 and here.capability >= (8, 0)
    assert candidate.computed_precision == ("tf32" if named else "fp32")
    assert any("TF32" in notice for notice in candidate.notices) == named


def test_pixels_in_probabilities_out(export: Callable[..., Artifact], device: torch.device) -> None:
    artifact = export("tensorrt", precision="fp16", with_preprocessing=True, target="tensorrt")
    (candidate,) = verify([artifact.path], VerifyOptions(device=device, batch_sizes=(1, 8), images=32)).candidates
    assert candidate.status == "pass", candidate.reason


def test_localising_an_engine(export: Callable[..., Artifact], device: torch.device) -> None:
    """The second engine, which shows its inner values: every place is found, and none departs."""
    artifact = export("tensorrt", precision="fp32", target="tensorrt")
    (candidate,) = verify([artifact.path], VerifyOptions(device=device, images=32, localise=True)).candidates
    assert candidate.localisation is not None
    assert candidate.localisation.first is None
    assert all(place.ratio is not None for place in candidate.localisation.places)


def error(session: Session, network: torch.nn.Module, images: torch.Tensor) -> float:
    """Largest error against float64, over the largest logit."""
    with torch.inference_mode():
        expected = copy.deepcopy(network).double()(images.double())
    found = session.run(images.to(session.device)).double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def test_eager_pytorch_computes_float32_and_not_tf32(gpu_source: Source, device: torch.device) -> None:
    """cuDNN's TF32, which torch allows by default, errs by some 1e-3; float32 by some 1e-6."""
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with EagerSession(copy.deepcopy(gpu_source.network), device) as session:
        assert error(session, gpu_source.network, images) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [CudaSettings(nhwc=True), CudaSettings(search="HEURISTIC"), CudaSettings(cuda_graph=True), CudaSettings(tf32=True)],
    ids=["nhwc", "heuristic", "cuda graph", "tf32"],
)
def test_onnx_runtime_s_settings(
    settings: CudaSettings, export: Callable[..., Artifact], gpu_source: Source, device: torch.device
) -> None:
    artifact = export("onnxruntime")
    with OnnxSession(artifact.path, device, cuda=settings) as session:
        assert session.notices == [], "every operation runs on the GPU"
        for batch in (1, 4, 1, 4, 1, 4):  # a graph is captured at the first runs, and replayed at the next
            images = torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(batch))
            found = error(session, gpu_source.network, images)
            assert 5e-5 < found < 1e-2 if settings.tf32 else found < 1e-5


def test_channels_last_and_torch_compile_agree(export: Callable[..., Artifact], gpu_source: Source, device: torch.device) -> None:
    program = load_program(export("torch_export").path)
    for compiled in (False, True):
        with CompiledSession(program, device, compiled=compiled) as session:
            first = session.run(torch.zeros(2, 3, 64, 64, device=device))
            kept = first.clone()
            images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
            assert error(session, gpu_source.network, images) < 1e-5
            assert torch.equal(first, kept), "a CUDA graph's output must not be the next run's"
