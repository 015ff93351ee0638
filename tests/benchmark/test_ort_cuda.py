"""`bench` with settings for ONNX Runtime: two runs of different settings are told apart, and TF32 is no float32."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from support import whatever_is_measured_counts

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime
from iresnet_export.benchmark import clock
from iresnet_export.benchmark.bench import bench
from iresnet_export.benchmark.child import FreshRun
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.recipe import Recipe
from iresnet_export.reporting.remarks import bench_remarks
from iresnet_export.verification.tf32 import with_tf32

CPU = torch.device("cpu")
OPTIONS = BenchOptions(seconds=0.02, warmup_seconds=0.0, threads=(1,), backends=("onnxruntime",), limits=False, images=32)


@pytest.mark.parametrize("words", ["tf32,nhwc", "nhwc"])
@pytest.mark.slow
def test_results_say_how_it_computed(
    words: str, benched: dict[str, Artifact], small_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf32 = "tf32" in words
    network = with_tf32(small_source.network) if tf32 else small_source.network
    opened: list[Recipe] = []

    def load(backend: OnnxRuntime, _artifact: Artifact, _device: torch.device, **_more: object) -> EagerSession:
        assert backend.label == f"onnxruntime ({words})"
        session = EagerSession(network, CPU, 1)
        session.computed_precision = "tf32" if tf32 else "fp32"
        session.notices = ["it computes in TF32"] if tf32 else []
        return session

    def fresh(recipe: Recipe, batches: list[int]) -> FreshRun:
        opened.append(recipe)
        return FreshRun(1.0, 1.0, tuple(100.0 for _ in batches))

    monkeypatch.setattr(OnnxRuntime, "load", load)
    monkeypatch.setattr(clock, "RUNS_PER_TURN_SECONDS", 0.003)
    monkeypatch.setattr(clock, "PATIENCE", 1)
    whatever_is_measured_counts(monkeypatch)
    monkeypatch.setattr("iresnet_export.benchmark.bench.in_fresh_process", fresh)
    for module in ("benchmark.bench", "verification.verify"):
        monkeypatch.setattr(f"iresnet_export.{module}.require_settings_used", lambda *_: None)
    options = dataclasses.replace(OPTIONS, backends=(f"onnxruntime[{words}]",))
    report = bench([benched["onnx"].path], options)
    document: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    assert document["settings"]["backends"] == [f"onnxruntime[{words}]"]
    baseline, entry = document["results"]
    assert (baseline["backend"], baseline["precision"], baseline["notices"]) == ("eager", "fp32", [])
    assert entry["backend"] == f"onnxruntime ({words})"
    assert entry["precision"] == ("tf32" if tf32 else "fp32")
    assert (entry["status"], entry["parity"]["status"]) == ("ok", "pass"), entry["reason"]
    assert entry["notices"] == (["it computes in TF32"] if tf32 else [])
    assert entry["bytes"] > 0
    assert [line for line in bench_remarks(report) if "TF32" in line] == (
        [f"small.onnx by onnxruntime ({words}): it computes in TF32"] if tf32 else []
    )
    assert [recipe.opener for recipe in opened] == ["eager", f"onnxruntime[{words}]"]
