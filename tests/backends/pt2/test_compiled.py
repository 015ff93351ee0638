"""torch.compile, which is for GPUs: refused on CPUs, where its session is tried all the same; and TF32, which is kept off."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import Outcome

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.eager import EagerSession, torch_threads
from iresnet_export.backends.pt2.compiled import CompiledSession
from iresnet_export.backends.pt2.reading import load_program
from iresnet_export.backends.registry import runtime_named, runtimes_for
from iresnet_export.errors import UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.verification.verify import VerifyOptions, verify


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Artifact:
    path = tmp_path_factory.mktemp("program") / "small.pt2"
    return export_artifact("pt2", small_source, ExportOptions(fold=False), output=path)


def test_on_a_gpu_every_way_to_run_a_program_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [backend.name for backend in runtimes_for("pt2")] == ["torch_export", "channels-last", "compiled"]
    assert [backend.name for backend in runtimes_for("pt2", ["channels-last"])] == ["channels-last"]


def test_channels_last_verifies_as_the_network(program: Artifact) -> None:
    """By its name it runs on a CPU too."""
    backend = runtime_named("channels-last")
    with backend.load(program, torch.device("cpu")) as session:
        assert isinstance(session, CompiledSession)
        weights = [values for values in session._module.state_dict().values() if values.dim() == 4 and values.shape[2] > 1]
        assert weights
        assert all(values.is_contiguous(memory_format=torch.channels_last) for values in weights)
    options = VerifyOptions(images=32, batch_sizes=(1, 7), backends=("channels-last",))
    (found,) = verify([program.path], options).candidates
    assert (found.status, found.backend) == ("pass", "channels-last")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_is_not_chosen_and_says_why(program: Artifact, run: Callable[..., Outcome]) -> None:
    assert [backend.name for backend in runtimes_for("pt2")] == ["torch_export"]
    with pytest.raises(UnavailableError, match=r"torch.compile is used on NVIDIA GPUs.*iresnet-export pt2 --compile"):
        runtime_named("compiled").load(program, torch.device("cpu"))
    outcome = run("verify", program.path, "--backend", "compiled")
    assert outcome.status == 3
    assert "torch.compile is used on NVIDIA GPUs" in outcome.out


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.compiler])], ids=["channels-last", "compiled"]
)
def test_it_computes_the_network(compiled: bool, program: Artifact, small_source: Source) -> None:
    with CompiledSession(load_program(program.path), torch.device("cpu"), compiled=compiled) as session:
        for batch in (1, 3, 1):
            images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))
            with torch.inference_mode():
                torch.testing.assert_close(session.run(images), small_source.network(images), atol=1e-4, rtol=1e-4)
        first = session.run(torch.zeros(1, 3, 32, 32))
        kept = first.clone()
        session.run(torch.ones(1, 3, 32, 32))
        assert torch.equal(first, kept)


def test_float32_is_not_rounded_to_tf32_while_a_session_runs(small_source: Source) -> None:
    seen: list[bool] = []
    handle = small_source.network.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    before = torch.backends.cudnn.allow_tf32
    try:
        for theirs in (True, False):
            torch.backends.cudnn.allow_tf32 = theirs
            EagerSession(small_source.network, torch.device("cpu")).run(torch.zeros(1, 3, 32, 32))
            assert torch.backends.cudnn.allow_tf32 is theirs
            with pytest.raises(RuntimeError), torch_threads(None):
                raise RuntimeError
            assert torch.backends.cudnn.allow_tf32 is theirs
    finally:
        torch.backends.cudnn.allow_tf32 = before
        handle.remove()
    assert seen == [False, False]
