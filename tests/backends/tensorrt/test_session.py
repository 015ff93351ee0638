"""What of running engines needs no GPU: which profile takes a batch, what is refused, and what an engine tells of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pretended_tensorrt import Engine, Mode, module, pretend_cuda

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.tensorrt.flavours import Flavour
from iresnet_export.backends.tensorrt.session import EngineSession, precisions_of_layers
from iresnet_export.errors import ArtifactError, UnavailableError


@pytest.fixture
def session() -> EngineSession:
    """One that has been loaded, as far as its checks go."""
    made = object.__new__(EngineSession)
    made.device, made.batch, made._input, made._image = torch.device("cpu"), (1, 32), "input", (3, 8, 8)
    made._types = {"input": torch.float32}
    made._profiles = [(1, 32), (1, 1), (4, 8)]
    return made


def test_the_narrowest_profile_takes_a_batch(session: EngineSession) -> None:
    assert [session._profile(count) for count in (1, 2, 4, 8, 9, 32)] == [1, 0, 2, 2, 0, 0]
    with pytest.raises(ArtifactError, match="None of the engine's profiles takes 33"):
        session._profile(33)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (torch.zeros(33, 3, 8, 8), "takes 1 to 32 images"),
        (torch.zeros(0, 3, 8, 8), "takes 1 to 32 images"),
        (torch.zeros(2, 3, 8, 9), r"not \(2, 3, 8, 9\)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float16), r"torch\.float16"),
        (torch.zeros(2, 3, 8, 8, device="meta"), "the batch lies on meta"),
    ],
)
def test_batches_that_the_engine_would_read_wrongly(batch: torch.Tensor, says: str, session: EngineSession) -> None:
    """It is given an address: it cannot see a shape, a type or a device that is not its own."""
    with pytest.raises(ArtifactError, match=says):
        session.run(batch)


def test_a_batch_that_fits(session: EngineSession) -> None:
    session.require_fitting(torch.zeros(7, 3, 8, 8), (3, 8, 8), torch.float32)


def test_precisions_that_an_inspector_tells_of() -> None:
    def layer(kind: str, count: int = 9) -> dict[str, object]:
        return {"Name": "conv", "LayerType": "CaskConvolution", "Weights": {"Type": kind, "Count": count}}

    scale = layer("Float") | {"ParameterType": "Scale"}
    told = json.dumps(
        {
            "Layers": [
                scale,
                layer("Half") | {"ParameterType": "Convolution"},
                layer("Int8"),
                layer("Float", 0),
                {"Name": "pool"},
                "reformat",
            ],
            "Bindings": [],
        }
    )
    assert precisions_of_layers(told) == ["fp16", "int8"]
    assert precisions_of_layers(json.dumps({"Layers": [layer("TF99")]})) == ["TF99"]
    for nothing in ("", "no JSON", "[]", "{}", json.dumps({"Layers": ["myelin"]})):
        assert precisions_of_layers(nothing) == []


def opened(
    engine: Engine | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, cuda_graphs: bool = True, rtx: bool = False
) -> EngineSession:
    """A session of a pretended engine: all of our own code runs, on a CPU."""
    pretend_cuda(monkeypatch)
    path = tmp_path / "x.engine"
    path.write_bytes(b"a plan")
    flavour = Flavour("tensorrt", module(engine, rtx=rtx), None)
    return EngineSession(Artifact(path, "engine", None), flavour, torch.device("cpu"), cuda_graphs=cuda_graphs)


def images(count: int, seed: int = 0) -> torch.Tensor:
    """Aligned as a GPU's allocator gives them."""
    room = torch.empty(count * 192 + 64)
    start = (-room.data_ptr() // 4) % 64
    found = room[start : start + count * 192].view(count, 3, 8, 8)
    return found.copy_(torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)))


def expected(batch: torch.Tensor) -> torch.Tensor:
    flat = batch.flatten(1)
    return (flat * torch.linspace(0, 1, flat.shape[1])).mean(1)[:, None] * torch.arange(1, 6)


@pytest.mark.parametrize("rtx", [False, True])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_runs_with_and_without_graphs(cuda_graphs: bool, rtx: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine([(1, 32)])
    engine.strict = False  # a CPU's allocator aligns to 64 bytes
    with opened(engine, tmp_path, monkeypatch, cuda_graphs=cuda_graphs, rtx=rtx) as session:
        assert session.batch == (1, 32)
        assert session.computed_precision == "fp16"
        kept = []
        for seed in range(5):
            for count in (1, 4, 32):
                batch = images(count, seed)
                found = session.run(batch)
                torch.testing.assert_close(found, expected(batch))
                kept.append((found, batch))
        for found, batch in kept:
            torch.testing.assert_close(found, expected(batch))
        assert set(session._slots) == ({1, 4, 32} if cuda_graphs else set())
        replays = [slot.graph.replays for slot in session._slots.values() if slot.graph is not None]
        assert replays == ([4, 4, 4] if cuda_graphs and not rtx else []), "the first run is plain, all others replay"
        strategies = {context.strategy for context in engine.contexts}
        assert strategies == ({"whole" if cuda_graphs else "disabled"} if rtx else {None})
        assert session.notices == []


def test_a_capture_that_fails_is_told_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine([(1, 8)])
    engine.strict, engine.capture_fails = False, True
    with opened(engine, tmp_path, monkeypatch) as session:
        for seed in range(4):
            batch = images(2, seed)
            torch.testing.assert_close(session.run(batch), expected(batch))
    (notice,) = session.notices
    assert "runs without CUDA graphs" in notice
    assert "more" not in notice
    assert caplog.text.count("runs without CUDA graphs") == 1


def test_at_most_eight_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine([(1, 32)])
    engine.strict = False
    with opened(engine, tmp_path, monkeypatch) as session:
        for _ in range(3):
            for count in range(1, 13):
                batch = images(count, count)
                torch.testing.assert_close(session.run(batch), expected(batch))
        assert len(session._slots) == 8
    assert len(engine.contexts) == 9


def test_each_batch_goes_to_its_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine([(1, 1), (2, 16)])
    engine.strict = False
    with opened(engine, tmp_path, monkeypatch) as session:
        for count in (1, 2, 16, 1, 2, 16, 1):
            batch = images(count, count)
            torch.testing.assert_close(session.run(batch), expected(batch))
    assert sorted(context.profile or 0 for context in engine.contexts) == [0, 0, 1, 1, 1]


def test_what_is_not_aligned_or_not_in_order_is_copied_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine([(1, 8)])
    engine.strict = False
    with opened(engine, tmp_path, monkeypatch, cuda_graphs=False) as session:
        batch = images(4)
        shifted = torch.empty(batch.numel() + 1)[1:].view(batch.shape).copy_(batch)
        torch.testing.assert_close(session.run(shifted), expected(batch))
        assert engine.contexts[0].addresses["input"] != shifted.data_ptr()
        torch.testing.assert_close(session.run(batch.contiguous(memory_format=torch.channels_last)), expected(batch))
        session.run(batch)
        assert engine.contexts[0].addresses["input"] == batch.data_ptr(), "what fits is read where it lies"


def test_failures_of_the_runtime_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"cannot load .* on Pretended GPU: TensorRT gave no reason"):
        opened(None, tmp_path, monkeypatch)
    engine = Engine([(1, 8)])
    engine.full = True
    with opened(engine, tmp_path, monkeypatch) as session, pytest.raises(UnavailableError, match="memory is full") as caught:
        session.run(images(1))
    assert caught.value.exit_status == 3
    engine = Engine([(1, 8)])
    engine.strict, engine.fails = False, True
    with opened(engine, tmp_path, monkeypatch) as session, pytest.raises(UnavailableError, match="could not start"):
        session.run(images(1))
    engine = Engine([(1, 8)])
    engine.get_tensor_mode = lambda _name: Mode.INPUT  # type: ignore[method-assign]
    with pytest.raises(ArtifactError, match=r"takes 2 inputs \(input, logits\)"):
        opened(engine, tmp_path, monkeypatch)
