"""Engines at work: CUDA graphs, profiles, streams, memory, and files that cannot run here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.tensorrt.checks import require_runnable
from iresnet_export.backends.tensorrt.options import BuildOptions
from iresnet_export.backends.tensorrt.session import EngineSession
from iresnet_export.backends.tensorrt.tensorrt import TensorRT
from iresnet_export.errors import ArtifactError, UnavailableError
from iresnet_export.system import nvidia


def loaded(artifact: Artifact, device: torch.device, *, cuda_graphs: bool = True) -> EngineSession:
    return EngineSession(artifact, require_runnable(artifact, device), device, cuda_graphs=cuda_graphs)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_a_cuda_graph_gives_what_a_plain_run_gives(precision: str, export: Callable[..., Artifact], device: torch.device) -> None:
    artifact = export("tensorrt", precision=precision, target="tensorrt")
    with loaded(artifact, device) as graphs, loaded(artifact, device, cuda_graphs=False) as plain:
        for seed in range(6):
            for count in (1, 5, 16):
                batch = images(count, seed)
                assert torch.equal(graphs.run(batch), plain.run(batch)), (seed, count)
        assert graphs.notices == []
        assert {1, 5, 16} <= set(graphs._slots)
        assert not plain._slots


def test_results_are_the_caller_s_own(export: Callable[..., Artifact], device: torch.device) -> None:
    with loaded(export("tensorrt", target="tensorrt"), device) as session:
        kept = [session.run(images(2, seed)) for seed in range(5)]
        again = [session.run(images(2, seed)) for seed in range(5)]
        for first, second in zip(kept, again, strict=True):
            assert torch.equal(first, second)


def test_unaligned_and_strided_batches(export: Callable[..., Artifact], device: torch.device) -> None:
    with loaded(export("tensorrt", target="tensorrt"), device, cuda_graphs=False) as session:
        batch = images(3)
        expected = session.run(batch)
        shifted = torch.empty(batch.numel() + 1, device=device)[1:].view(batch.shape).copy_(batch)
        assert shifted.data_ptr() % 256
        assert torch.equal(session.run(shifted), expected)
        assert torch.equal(session.run(batch.contiguous(memory_format=torch.channels_last)), expected)


def test_several_profiles(export: Callable[..., Artifact], gpu_source: Source, device: torch.device) -> None:
    artifact = export("tensorrt", target="tensorrt", build=BuildOptions(profiles=((1, 1, 1), (2, 8, 16))))
    with loaded(artifact, device) as session, torch.inference_mode():
        assert session.batch == (1, 16)
        network = gpu_source.network
        for count in (1, 2, 16, 1, 2, 16, 1, 16):
            batch = images(count, count)
            torch.testing.assert_close(session.run(batch).cpu(), network(batch.cpu()), atol=1e-4, rtol=1e-3)
        for count in (0, 17):
            with pytest.raises(ArtifactError, match="takes 1 to 16 images"):
                session.run(images(count))


def test_two_streams_at_once(export: Callable[..., Artifact], device: torch.device) -> None:
    """Two sessions in two threads, each on a stream of its own, give what they give alone."""
    artifact, rounds = export("tensorrt", target="tensorrt"), 200
    batches = [images(4, seed) for seed in range(2)]
    wrong: list[int] = []

    def work(number: int) -> None:
        with loaded(artifact, device) as session, torch.cuda.stream(torch.cuda.Stream()):
            expected = session.run(batches[number]).clone()
            wrong.extend(number for _ in range(rounds) if not torch.equal(session.run(batches[number]), expected))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_is_stable_over_ten_thousand_inferences(export: Callable[..., Artifact], device: torch.device) -> None:
    with loaded(export("tensorrt", precision="fp16", target="tensorrt"), device) as session:
        batches = [images(count) for count in (1, 2, 3)]
        for _ in range(20):
            for batch in batches:
                session.run(batch)
        torch.cuda.synchronize()
        before = torch.cuda.mem_get_info()[0]
        for step in range(10_000):
            session.run(batches[step % 3])
        torch.cuda.synchronize()
        assert before - torch.cuda.mem_get_info()[0] < 8 * 2**20


def test_closing_gives_the_memory_back(export: Callable[..., Artifact], device: torch.device) -> None:
    artifact = export("tensorrt", target="tensorrt")
    loaded(artifact, device).close()
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    for _ in range(5):
        with loaded(artifact, device) as session:
            for _ in range(4):
                session.run(images(16))
    torch.cuda.empty_cache()
    assert before - torch.cuda.mem_get_info()[0] < 32 * 2**20


def test_files_that_cannot_run_here(export: Callable[..., Artifact], device: torch.device, tmp_path: Path) -> None:
    artifact = export("tensorrt", target="tensorrt")
    whole = artifact.path.read_bytes()
    for name, data in {"short": whole[:-1000], "foreign": b"\x08\x09onnx" + whole, "nothing": b"\0" * 1000}.items():
        path = tmp_path / f"{name}.engine"
        path.write_bytes(data)
        with pytest.raises((ArtifactError, UnavailableError)):
            TensorRT().load(Artifact(path, "engine", None), device, trust=True)
    torch.cuda.synchronize()  # the GPU is as good as before


def test_an_engine_for_another_gpu(export: Callable[..., Artifact], device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, here = export("tensorrt", target="tensorrt"), nvidia.gpu()
    assert here is not None
    monkeypatch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu("Other", (5, 0), here.memory_bytes))
    with pytest.raises(UnavailableError, match=r"Other has 5\.0"):
        TensorRT().load(artifact, device)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "fp8"])
def test_the_engine_s_own_word_on_its_precision(precision: str, export: Callable[..., Artifact], device: torch.device) -> None:
    with loaded(export("tensorrt", precision=precision, target="tensorrt"), device) as session:
        assert session.computed_precision == precision
