"""What of running engines needs no GPU: which profile takes a batch, what is refused, and what an engine tells of itself."""

from __future__ import annotations

import json

import pytest
import torch

from iresnet_export.backends.tensorrt_session import EngineSession, precisions_told
from iresnet_export.errors import ArtifactError


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
        session._require_fitting(batch)


def test_a_batch_that_fits(session: EngineSession) -> None:
    session._require_fitting(torch.zeros(7, 3, 8, 8))


def test_precisions_that_an_inspector_tells_of() -> None:
    def layer(kind: str, count: int = 9) -> dict[str, object]:
        return {"Name": "conv", "LayerType": "CaskConvolution", "Weights": {"Type": kind, "Count": count}}

    told = json.dumps({"Layers": [layer("Half"), layer("Int8"), layer("Float", 0), {"Name": "pool"}, "reformat"], "Bindings": []})
    assert precisions_told(told) == ["fp16", "int8"]
    assert precisions_told(json.dumps({"Layers": [layer("TF99")]})) == ["TF99"]
    for nothing in ("", "no JSON", "[]", "{}", json.dumps({"Layers": ["myelin"]})):
        assert precisions_told(nothing) == []
