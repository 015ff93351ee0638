"""The contract that every format and every runtime keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from support import RUNTIMES_ON_CPU

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportJob, ExportOptions
from iresnet_export.backends.registry import FORMATS, format_named, names_unasked, runtime_named, runtimes_for
from iresnet_export.errors import ArtifactError, InputError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.graph.compare import compare
from iresnet_export.graph.network import graph_of_network

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=RUNTIMES_ON_CPU)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> tuple[str, Path]:
    """A runtime's name, and a file of its format."""
    if not runtime_named(request.param).is_installed():
        pytest.skip(f"{request.param} is not installed")
    format = format_named(runtime_named(request.param).format)
    path = tmp_path_factory.mktemp(request.param) / f"model{format.suffix}"
    steps: list[float] = []
    progress = lambda _step, share: steps.append(share)  # noqa: E731
    format.write(
        ExportJob(
            small_source.network, small_source.spec, path, ExportOptions(), {"spec": small_source.spec.to_json()}, progress=progress
        )
    )
    assert all(0 <= share <= 1 for share in steps)
    return request.param, path


def test_sessions_compute_the_network_at_any_batch_size(made: tuple[str, Path], small_source: Source) -> None:
    name, path = made
    with runtime_named(name).load(Artifact(path, runtime_named(name).format, None), CPU, trust=True) as session:
        assert session.device == CPU
        for batch in (1, 2, 5, 1):
            images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
            before = images.clone()
            logits = session.run(images)
            with torch.inference_mode():
                expected = small_source.network(images)
            assert (logits.shape, logits.dtype) == ((batch, 10), torch.float32)
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
            assert torch.equal(images, before), "a session must not change its input"


def test_results_stay_when_the_next_one_comes(made: tuple[str, Path]) -> None:
    name, path = made
    with runtime_named(name).load(Artifact(path, runtime_named(name).format, None), CPU, trust=True) as session:
        first = session.run(torch.zeros(1, 3, 32, 32))
        kept = first.clone()
        session.run(torch.ones(1, 3, 32, 32))
        assert torch.equal(first, kept)


def test_layers_are_read_back(made: tuple[str, Path], small_source: Source) -> None:
    name, path = made
    probe = runtime_named(name).probe(Artifact(path, runtime_named(name).format, None), CPU, trust=True)
    assert probe is not None
    for graph in (probe.graph, format_named(runtime_named(name).format).read(Artifact(path, runtime_named(name).format, None))):
        assert graph is not None
        found = compare(graph_of_network(small_source.network), graph)
        assert (found.first_difference, found.weights.worst_ulp) == (None, 0)
        assert found.weights.compared > 11_000_000


def test_threads_are_obeyed_and_given_back(made: tuple[str, Path]) -> None:
    name, path = made
    before = torch.get_num_threads()
    with runtime_named(name).load(Artifact(path, runtime_named(name).format, None), CPU, threads=1, trust=True) as session:
        session.run(torch.zeros(1, 3, 32, 32))
    assert torch.get_num_threads() == before


def test_the_file_is_recognised(made: tuple[str, Path]) -> None:
    name, path = made
    assert [backend.name for backend in runtimes_for(open_artifact(path).format, [name])] == [name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what runs unasked without a GPU")
def test_what_runs_unasked_on_a_cpu() -> None:
    assert set(names_unasked()) == {*RUNTIMES_ON_CPU, "aotinductor", "tensorrt"} - {
        name for name in RUNTIMES_ON_CPU if not runtime_named(name).is_installed()
    }


def test_no_path_of_this_machine_is_in_the_file(made: tuple[str, Path]) -> None:
    data = made[1].read_bytes()
    for trace in (b"site-packages", str(Path(__file__).parents[2]).encode(), str(Path.home()).encode() + b"/"):
        assert trace not in data


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.97])
@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_truncated_files(name: str, keep: float, artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    whole = artifacts[name].path.read_bytes()
    path = tmp_path / artifacts[name].path.name
    path.write_bytes(whole[: int(keep * len(whole))])
    runtime = runtimes_for(artifacts[name].format)[0]
    with pytest.raises(InputError, match=path.stem), runtime.load(open_artifact(path), CPU, trust=True) as session:
        session.run(torch.zeros(1, 3, 32, 32))


def test_native_code_is_loaded_only_when_vouched_for(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.ts"
    stranger.write_bytes(artifacts["torchscript"].path.read_bytes())
    with pytest.raises(ArtifactError, match="--trust"):
        runtime_named("torchscript").load(open_artifact(stranger), CPU)
    runtime_named("torchscript").load(open_artifact(stranger), CPU, trust=True).close()
    assert [name for name in FORMATS if format_named(name).native] == ["torchscript", "pt2", "aotinductor", "engine"]


def test_static_batch(small_source: Source, tmp_path: Path) -> None:
    options = ExportOptions(dynamic_batch=False, batch=4)
    format_named("onnx").write(ExportJob(small_source.network, small_source.spec, tmp_path / "four.onnx", options))
    with runtime_named("onnxruntime").load(Artifact(tmp_path / "four.onnx", "onnx", None), CPU) as session:
        assert session.batch == (4, 4)
        assert session.run(torch.zeros(4, 3, 32, 32)).shape == (4, 10)


def test_what_a_format_cannot_limit_is_not_promised(small_source: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="take any batch size") as caught:
        export_artifact("torchscript", small_source, ExportOptions(dynamic_batch=False, batch=4), output=tmp_path / "four.ts")
    assert "dynamic_batch" in caught.value.remedy


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_the_cuda_session_is_an_error_and_no_slow_success(artifacts: dict[str, Artifact]) -> None:
    with pytest.raises(UnavailableError, match="ONNX Runtime cannot use a GPU here"):
        runtime_named("onnxruntime").load(artifacts["onnx"], torch.device("cuda"))


def test_onnx_runtime_threads_do_not_spin_when_idle(artifacts: dict[str, Artifact]) -> None:
    import time

    with runtime_named("onnxruntime").load(artifacts["onnx"], CPU, threads=2) as session:
        for _ in range(20):
            session.run(torch.zeros(1, 3, 32, 32))
        busy = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - busy < 0.03


@pytest.mark.gpu
def test_onnx_runtime_on_a_gpu(artifacts: dict[str, Artifact], small_source: Source) -> None:
    assert "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    images = torch.randn(5, 3, 32, 32)
    with runtime_named("onnxruntime").load(artifacts["onnx"], torch.device("cuda")) as session, torch.inference_mode():
        found = session.run(images.cuda()).cpu().numpy()
        np.testing.assert_allclose(found, small_source.network(images).numpy(), atol=1e-4)
