"""AOTInductor packages at work on a GPU: compiled for it alone, and the same in CUDA graphs as without."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.aotinductor.package import AOTInductor
from iresnet_export.backends.aotinductor.session import CudaPackageSession
from iresnet_export.backends.aotinductor.target import package_details
from iresnet_export.errors import ArtifactError, UnavailableError
from iresnet_export.system import nvidia

FLOATING = ("fp32", "fp16", "bf16")


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed)).cuda()


@pytest.mark.parametrize("precision", FLOATING)
def test_a_cuda_graph_gives_what_a_plain_run_gives(precision: str, export: Callable[..., Artifact], device: torch.device) -> None:
    artifact = export("aotinductor", precision=precision)
    with CudaPackageSession(artifact, device) as graphs, CudaPackageSession(artifact, device, cuda_graphs=False) as plain:
        for seed in range(6):
            for count in (1, 5, 16, 33):
                batch = images(count, seed)
                assert torch.equal(graphs.run(batch), plain.run(batch)), (seed, count)
        assert graphs.notices == []
        assert set(graphs._slots) == {1, 5, 16, 33}
        assert not plain._slots


def test_results_are_the_caller_s_own(export: Callable[..., Artifact], device: torch.device) -> None:
    with CudaPackageSession(export("aotinductor"), device) as session:
        kept = [session.run(images(2, seed)) for seed in range(5)]
        again = [session.run(images(2, seed)) for seed in range(5)]
        for first, second in zip(kept, again, strict=True):
            assert torch.equal(first, second)


def test_unaligned_and_strided_batches(export: Callable[..., Artifact], device: torch.device) -> None:
    with CudaPackageSession(export("aotinductor"), device, cuda_graphs=False) as session:
        batch = images(3)
        expected = session.run(batch)
        shifted = torch.empty(batch.numel() + 1, device=device)[1:].view(batch.shape).copy_(batch)
        assert torch.equal(session.run(shifted), expected)
        assert torch.equal(session.run(batch.contiguous(memory_format=torch.channels_last)), expected)
        with pytest.raises(ArtifactError, match="move it there first"):
            session.run(batch.cpu())


def test_two_sessions_on_two_streams(export: Callable[..., Artifact], device: torch.device) -> None:
    artifact, wrong = export("aotinductor"), list[int]()

    def work(number: int) -> None:
        with CudaPackageSession(artifact, device) as session, torch.cuda.stream(torch.cuda.Stream()):
            batch = images(4, number)
            expected = session.run(batch).clone()
            wrong.extend(number for _ in range(200) if not torch.allclose(session.run(batch), expected, atol=1e-4, rtol=1e-4))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_is_stable(export: Callable[..., Artifact], device: torch.device) -> None:
    with CudaPackageSession(export("aotinductor", precision="fp16"), device) as session:
        batches = [images(count) for count in (1, 2, 3)]
        for step in range(60):
            session.run(batches[step % 3])
        torch.cuda.synchronize()
        before = torch.cuda.mem_get_info()[0]
        for step in range(5_000):
            session.run(batches[step % 3])
        torch.cuda.synchronize()
        assert before - torch.cuda.mem_get_info()[0] < 8 * 2**20


def test_its_manifest_says_what_it_was_compiled_for(export: Callable[..., Artifact], device: torch.device) -> None:
    details, here = package_details(export("aotinductor")), nvidia.gpu()
    assert here is not None
    assert (details.device, details.gpu) == ("cuda", here.name)
    assert details.compute_capability == "{}.{}".format(*here.capability)


def test_elsewhere_it_is_refused(export: Callable[..., Artifact], device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, here = export("aotinductor"), nvidia.gpu()
    with pytest.raises(UnavailableError, match="run it with --device cuda"):
        AOTInductor().load(artifact, torch.device("cpu"))
    with pytest.raises(UnavailableError, match="run it with --device cpu"):
        AOTInductor().load(export("aotinductor", device="cpu"), device)
    assert here is not None
    monkeypatch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu("Other", (5, 0), here.memory_bytes))
    with pytest.raises(UnavailableError, match=r"Other here has 5\.0"):
        AOTInductor().load(artifact, device)


def test_what_torch_writes_of_a_package_is_what_foreign_ones_are_judged_by(
    export: Callable[..., Artifact], device: torch.device
) -> None:
    """Its own records of the device and of the compute capability, without our manifest."""
    foreign = Artifact(export("aotinductor").path, "aotinductor", None)
    AOTInductor().load(foreign, device, trust=True).close()
    with pytest.raises(UnavailableError, match="run it with --device cuda"):
        AOTInductor().load(foreign, torch.device("cpu"), trust=True)


@pytest.mark.parametrize("precision", FLOATING)
def test_no_path_of_this_machine_is_in_it(precision: str, export: Callable[..., Artifact]) -> None:
    with zipfile.ZipFile(export("aotinductor", precision=precision).path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    places = (Path(torch.__file__).parent, Path.home(), Path(tempfile.gettempdir()))
    traces = [b"site-packages", *(f"{place}{os.sep}".encode() for place in places)]
    assert [name for name, data in records.items() if any(trace in data for trace in traces)] == []


def test_the_commands(export: Callable[..., Artifact], gpu_source: object, tmp_path: Path) -> None:
    """Compiled, verified and measured from the command line."""
    export("aotinductor")  # or it is skipped, with the reason
    path = tmp_path / "small-cuda.aoti.pt2"
    for arguments in (
        ["pt2", "--depth", "18", "--image-size", "64", "--compile", "--device", "cuda", "--precision", "fp16", "-o", path],
        ["verify", path, "--device", "cuda", "--images", "32"],
        ["bench", path, "--device", "cuda", "--seconds", "0.2", "--no-limits", "--no-memory"],
    ):
        command = [sys.executable, "-m", "iresnet_export", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments[0], done.stdout, done.stderr)
