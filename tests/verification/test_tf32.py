"""TF32 that was asked for is held against TF32: passes as that, fails if it is coarser, and is never called float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime
from iresnet_export.reporting.documents import verify_report
from iresnet_export.verification.tf32 import rounded, with_tf32
from iresnet_export.verification.verify import VerifyOptions, verify

CPU = torch.device("cpu")
NOTICE = "it computes in TF32"
OPTIONS = VerifyOptions(images=32, batch_sizes=(1, 7), backends=("onnxruntime[tf32]",))

pytestmark = pytest.mark.usefixtures("shared_references")


class Tf32Session(EagerSession):
    computed_precision = "tf32"
    notices = (NOTICE,)


Pretend = Callable[[Session], None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """ONNX Runtime on a GPU gives this session."""
    monkeypatch.setattr("iresnet_export.verification.verify.require_settings_used", lambda *_: None)
    return lambda session: monkeypatch.setattr(OnnxRuntime, "load", lambda *_args, **_more: session)


def test_rounding() -> None:
    values = torch.tensor([1.0, 1 + 2**-11, 1 + 2**-11 - 2**-23, -(1 + 2**-11), 3 * 2.0**-130, 0.0])
    step = 2.0**-10
    assert rounded(values)[:4].tolist() == [1.0, 1 + step, 1.0, -(1 + step)]
    some = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for bits in (10, 7):
        error = ((rounded(some, bits) - some) / some).abs()
        assert 2.0 ** -(bits + 2) < float(error.max()) <= 2.0 ** -(bits + 1)
    bf16 = some.to(torch.bfloat16).float()
    assert float((rounded(some, 7) == bf16).double().mean()) > 0.999, "but for halves"


def verdict(artifact: Artifact) -> Any:
    (found,) = verify([artifact.path], OPTIONS).candidates
    return found


def test_tf32_passes_as_tf32(pretend: Pretend, artifacts: dict[str, Artifact], small_source: Source) -> None:
    pretend(Tf32Session(with_tf32(small_source.network), CPU))
    found = verify([artifacts["onnx"].path], OPTIONS)
    (candidate,) = found.candidates
    assert (candidate.status, candidate.reason) == ("pass", None)
    assert (candidate.precision, candidate.computed_precision) == ("fp32", "tf32")
    assert candidate.backend == "onnxruntime (tf32)"
    assert candidate.outputs is not None
    assert candidate.outputs.noise_ratio is not None
    assert 0.5 < candidate.outputs.noise_ratio <= 1.5
    document = verify_report(found, OPTIONS).to_json()
    assert document["settings"]["backends"] == ["onnxruntime[tf32]"]
    assert document["candidates"][0]["notices"] == [NOTICE]


def test_what_is_coarser_than_tf32_fails(pretend: Pretend, artifacts: dict[str, Artifact], small_source: Source) -> None:
    pretend(Tf32Session(with_tf32(small_source.network, bits=7), CPU))
    found = verdict(artifacts["onnx"])
    assert found.status == "fail"
    assert "times its own tf32 rounding error" in found.reason
    # Inner values come from the graph itself, which computes float32 here: none departs from TF32, and what is left is the output.
    assert found.localisation is not None
    assert found.localisation.first == "output"
    assert all(place.ratio < 0.1 for place in found.localisation.places)


def test_tf32_that_calls_itself_float32_fails(pretend: Pretend, artifacts: dict[str, Artifact], small_source: Source) -> None:
    pretend(EagerSession(with_tf32(small_source.network), CPU))
    found = verdict(artifacts["onnx"])
    assert (found.status, "fp32 rounding error" in str(found.reason)) == ("fail", True)
