"""Real runs of the benchmark: every figure is there or says why it is not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.benchmark import bench as bench_module
from iresnet_export.benchmark import clock
from iresnet_export.benchmark.bench import UNFINISHED, bench
from iresnet_export.benchmark.child import FreshRun
from iresnet_export.benchmark.limits import better, raised, with_fractions
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.errors import ArtifactError, InputError, UnavailableError
from iresnet_export.reporting.collection import Measured
from iresnet_export.reporting.remarks import bench_remarks, limits_in_words
from iresnet_export.reporting.schemas import BenchReport, Limit
from iresnet_export.reporting.tables import measurement_tables

BACKENDS = ("onnxruntime", "torchscript")
QUICK = BenchOptions(seconds=0.02, warmup_seconds=0.0, threads=(1,), backends=BACKENDS, memory=False, limits=False, verify=False)


@pytest.fixture(scope="module", autouse=True)
def _brief_turns() -> Iterator[None]:
    """What is measured here is not looked at: a few runs do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "RUNS_PER_TURN_SECONDS", 0.003)
        patch.setattr(clock, "PATIENCE", 1)
        yield


def document_of(report: BenchReport) -> dict[str, Any]:
    """As a reader of the file gets it."""
    found: dict[str, Any] = json.loads(json.dumps(report.to_json(), allow_nan=False))
    return found


@pytest.fixture(scope="module")
def measured(benched_paths: list[Path]) -> BenchReport:
    return bench(benched_paths, dataclasses.replace(QUICK, batch_sizes=(1, 3), verify=True))


def test_a_real_run_measures_everything(measured: BenchReport) -> None:
    document = document_of(measured)
    assert document["schema"] == "iresnet-export/bench/1"
    found = document["results"]
    assert sorted({(entry["backend"], entry["batch"]) for entry in found}) == sorted(
        (backend, batch) for backend in ("eager", "onnxruntime", "torchscript") for batch in (1, 3)
    )
    for entry in found:
        samples = [sample for turn in entry["samples"] for sample in turn]
        assert entry["status"] in ("ok", "unstable")
        assert entry["stable"] is (entry["status"] == "ok")
        assert entry["latency_ms"]["p50"] == pytest.approx(np.median(samples))
        assert entry["throughput"] == pytest.approx(entry["batch"] / entry["latency_ms"]["p50"] * 1e3)
        assert entry["gflops"] == pytest.approx(2 * entry["macs"] * entry["batch"] / entry["latency_ms"]["p50"] / 1e6)
        assert entry["macs"] == pytest.approx(37_154_816, rel=0.01)
        assert entry["arithmetic_intensity"] == pytest.approx(2 * entry["macs"] * entry["batch"] / entry["bytes"])
        assert (entry["arch"], entry["depth"], entry["image_size"], entry["threads"]) == ("iresnet", 18, 32, 1)
        assert (entry["baseline"] is None) == (entry["backend"] == "eager")
        assert entry["parity"] is None or (entry["parity"]["status"], entry["parity"]["reason"]) == ("pass", None)
        assert (entry["parity"] is None) == (entry["backend"] == "eager")
        assert entry["latency_ms"]["p99"] is None or len(samples) >= 1000


def test_what_there_is_so_far_is_kept(benched_paths: list[Path]) -> None:
    options, kept = dataclasses.replace(QUICK, batch_sizes=(1, 2)), list[dict[str, Any]]()
    whole = bench(benched_paths, options, keep=lambda report: kept.append(document_of(report)))
    assert [[entry["batch"] for entry in document["results"]] for document in kept] == [[1] * 3, [1] * 3 + [2] * 3]
    assert all(document["environment"]["warnings"] == [UNFINISHED] for document in kept)
    assert UNFINISHED not in whole.environment.warnings
    assert [entry["samples"] for entry in kept[-1]["results"]] == [entry["samples"] for entry in document_of(whole)["results"]]


def test_every_null_says_why(measured: BenchReport) -> None:
    document = document_of(measured)
    for entry in document["results"]:
        nulls = {key for key, value in entry.items() if value is None}
        assert nulls == {key for key in entry["null_reasons"] if "." not in key}
        assert all(isinstance(why, str) and why for why in entry["null_reasons"].values())
    assert document["null_reasons"]["recommendation"] == "none was asked for"


def test_settings_and_environment(measured: BenchReport) -> None:
    document = document_of(measured)
    assert document["settings"]["modes"] == ["latency"]
    assert document["settings"]["threads"] == [1]
    assert document["settings"]["verified"] is True
    assert document["settings"]["peers"] is False
    assert document["settings"]["backends"] == list(BACKENDS)
    cpu = document["environment"]["cpu"]
    keys = {"model", "features", "physical_cores", "usable_cores", "affinity", "governor", "load_before", "load_after"}
    assert set(cpu) == keys
    assert isinstance(document["environment"]["warnings"], list)
    assert "versions" in document["environment"]


def test_a_spoiled_artifact_has_no_verdict(benched: dict[str, Artifact], small_checkpoint: Path, tmp_path: Path) -> None:
    """Its manifest vouches for another file: parity fails, and it is not run."""
    path = Path(shutil.copy(benched["onnx"].path, tmp_path))
    shutil.copy(f"{benched['onnx'].path}.json", tmp_path)
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    options = dataclasses.replace(QUICK, verify=True, checkpoint=small_checkpoint)
    (_, found) = bench([path], dataclasses.replace(options, backends=("onnxruntime",))).results
    assert found.status == "failed_parity"
    assert found.speedup is None
    assert found.latency_ms is None


@pytest.mark.slow
def test_what_fails_parity_shows_its_latency_and_no_verdict(
    benched_paths: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another network's outputs, by a runtime that computes as it should: what `verify` says counts, and not how fast it is."""
    from iresnet_export.verification import outputs

    monkeypatch.setattr(outputs, "rms", lambda values: 1.0 + float(np.abs(values).max()))
    options = dataclasses.replace(QUICK, verify=True, backends=("onnxruntime",), recommend=True)
    paths = [path for path in benched_paths if path.suffix == ".onnx"]
    report = bench(paths, options)
    (base, found) = report.results
    assert (base.status in ("ok", "unstable"), found.status) == (True, "failed_parity")
    assert found.latency_ms is not None
    assert found.speedup is None
    assert "rounding error" in (found.reason or "")
    assert report.recommendation is None
    assert document_of(report)["null_reasons"]["recommendation"] == "nothing passed"


@pytest.mark.slow
def test_known_verdicts_are_not_found_again(benched_paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_export.verification.verify import VerifyOptions, verify

    known = verify(benched_paths, VerifyOptions(images=32, batch_sizes=(1,), backends=BACKENDS))
    monkeypatch.setattr(bench_module, "verify", lambda *_: pytest.fail("it was verified before"))
    report = bench(benched_paths, dataclasses.replace(QUICK, verify=True), verification=known)
    assert [result.parity is None for result in report.results] == [True, False, False]
    report = bench(benched_paths, QUICK)
    document = document_of(report)
    assert document["settings"]["verified"] is False
    assert {entry["null_reasons"]["parity"] for entry in document["results"]} == {"verification was skipped"}


@pytest.mark.slow
def test_several_thread_counts_each_have_their_baseline(benched_paths: list[Path]) -> None:
    report = bench(benched_paths[:1], dataclasses.replace(QUICK, threads=(1, 2)))
    found = [(result.threads, result.backend) for result in report.results]
    assert found == [(1, "eager"), (1, "torchscript"), (2, "eager"), (2, "torchscript")]


def test_server_and_cold_in_one_run(benched_paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[Path] = []

    def started(recipe: Any, _batches: Any) -> FreshRun:
        starts.append(recipe.path)
        return FreshRun(100.0 + len(starts), 5.0, (900.0,))

    monkeypatch.setattr("iresnet_export.benchmark.cold.in_fresh_process", started)
    options = dataclasses.replace(
        QUICK, modes=("server", "cold"), rates=(200.0,), seconds=0.2, repeats=3, backends=("torchscript",)
    )
    report = bench([path for path in benched_paths if path.suffix == ".ts"], options)
    document = document_of(report)
    served = [entry for entry in document["results"] if entry["mode"] == "server"]
    for entry in served:
        assert entry["server"]["offered"] == 40
        assert entry["server"]["response_ms"]["p99"] is None
        why = "1,000 requests" if entry["status"] == "ok" else "not all requests were answered"
        assert why in entry["server"]["null_reasons"]["response_ms.p99"]
        assert len(entry["samples"]) == entry["server"]["completed"]
        assert entry["server"]["highest_rate_per_s"] is None
    cold = [entry for entry in document["results"] if entry["mode"] == "cold"]
    assert len(starts) == 6
    assert len(cold) == 2
    for entry in cold:
        assert len(entry["samples"]) == len(entry["cold"]["load_ms"]["samples"]) == 3
        assert entry["memory_mb"] == 900.0
        assert entry["cold"]["first_inference_ms"]["p50"] == 5.0
    titles = [table.caption for table in measurement_tables([Measured(result) for result in report.results])]
    assert len(titles) == 2
    assert report.measured


def test_a_process_that_dies_leaves_a_reason(benched_paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: Any) -> FreshRun:
        raise UnavailableError("its process was killed, most likely for want of memory")

    monkeypatch.setattr(bench_module, "in_fresh_process", dies)
    options = dataclasses.replace(QUICK, memory=True)
    report = bench(benched_paths[:1], options)
    for entry in document_of(report)["results"]:
        assert entry["memory_mb"] is None
        assert "killed" in entry["null_reasons"]["memory_mb"]


def test_limits_are_the_best_that_was_seen(measured: BenchReport) -> None:
    results = measured.results
    low, high = Limit("fp32", 1, 1e-3, "a", 10.0), Limit("fp32", 1, 1e6, "b", 5.0)
    other = Limit("int8", 1, 7.0, "c", 1.0)
    assert better([low, high, other]) == [Limit("fp32", 1, 1e6, "b", 10.0), other]
    assert raised([high], results) == [high]
    (found,) = raised([low], results)
    best = max(result.gflops or 0.0 for result in results)
    assert found.gflops == best
    assert "faster than every kernel" in found.kernel
    shares = [result.peak_fraction for result in with_fractions(results, [found])]
    assert max(share or 0.0 for share in shares) == 1.0
    assert all(result.peak_fraction is None for result in with_fractions(results, [dataclasses.replace(found, threads=9)]))
    assert "fp32" in limits_in_words([high])[0]


def test_remarks_say_each_thing_once(measured: BenchReport) -> None:
    skipped = dataclasses.replace(measured.results[1], status="skipped", reason="no such device")
    report = dataclasses.replace(
        measured, results=(skipped, skipped), environment=dataclasses.replace(measured.environment, warnings=("loaded",))
    )
    lines = bench_remarks(report)
    assert lines[0] == "Warning: loaded"
    assert len(lines) == 2
    assert not dataclasses.replace(report, results=(skipped,)).measured


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_sizes": ()}, "--batch"),
        ({"threads": (0,)}, "--threads"),
        ({"seconds": 0.0}, "--seconds"),
        ({"seconds": float("nan")}, "--seconds"),
        ({"modes": ("speed",)}, "--mode takes latency, throughput, server or cold"),
        ({"modes": ()}, "--mode"),
        ({"modes": ("server",)}, "--rate 50"),
        ({"modes": ("server",), "rates": (-1.0,)}, "--rate takes"),
        ({"modes": ("server",), "p99_limit_ms": 0.0}, "--p99-limit"),
        ({"rates": (5.0,)}, "belong to mode server"),
        ({"max_accuracy_drop": 1.0}, "--recommend"),
        ({"recommend": True, "verify": False}, "--skip-verify"),
        ({"recommend": True, "modes": ("cold",)}, "--mode latency,server"),
        ({"repeats": 0}, "--repeats"),
    ],
)
def test_options_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchOptions(**fields)


def test_a_foreign_artifact_needs_its_checkpoint(benched: dict[str, Artifact], small_checkpoint: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(benched["onnx"].path.read_bytes())
    with pytest.raises(ArtifactError, match="--checkpoint"):
        bench([foreign], BenchOptions())
    report = bench([foreign], dataclasses.replace(QUICK, checkpoint=small_checkpoint))
    assert [result.latency_ms is not None for result in report.results] == [True, True]
