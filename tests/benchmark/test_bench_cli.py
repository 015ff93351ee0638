"""`bench` on the command line: what it prints, and what it exits with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from support import whatever_is_measured_counts

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.benchmark import clock
from iresnet_export.errors import UnavailableError

Run = Callable[..., Outcome]
BRIEF = ("--seconds", "0.02", "--threads", "1", "--no-memory", "--no-limits", "--backend", "onnxruntime")


@pytest.fixture(autouse=True)
def _brief_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "RUNS_PER_TURN_SECONDS", 0.003)
    monkeypatch.setattr(clock, "PATIENCE", 1)
    whatever_is_measured_counts(monkeypatch)


@pytest.mark.slow
def test_a_recommendation_in_one_sentence(run: Run, benched: dict[str, Artifact]) -> None:
    outcome = run("bench", benched["onnx"].path, *BRIEF, "--recommend", "--json", "bench.json")
    assert outcome.status == 0, outcome.err
    assert "small.onnx by onnxruntime (fp32, 1 thread) is the fastest that passes" in outcome.out
    for text in ("median ms", "speed-up", "baseline", "reference", "pass"):
        assert text in outcome.out
    document = json.loads(Path("bench.json").read_text(encoding="utf-8"))
    assert document["recommendation"]["artifact"] == "small.onnx"
    assert document["recommendation"]["sentence"] in " ".join(outcome.out.split())
    assert "\x1b" not in outcome.out + outcome.err, "what is piped is plain"


def test_a_run_that_is_stopped_leaves_what_it_has(run: Run, benched: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("iresnet_export.benchmark.bench.cold", stopped)
    outcome = run("bench", benched["onnx"].path, *BRIEF, "--skip-verify", "--mode", "latency,cold", "--json", "bench.json")
    assert outcome.status == 130
    document = json.loads(Path("bench.json").read_text(encoding="utf-8"))
    assert [(entry["backend"], entry["mode"]) for entry in document["results"]] == [
        ("eager", "latency"),
        ("onnxruntime", "latency"),
    ]
    assert "did not come to its end" in document["environment"]["warnings"][0]
    assert "What was measured until then is in bench.json" in outcome.err


def test_skipping_verification_is_said_in_the_table(run: Run, benched: dict[str, Artifact]) -> None:
    outcome = run("bench", benched["onnx"].path, *BRIEF, "--skip-verify")
    assert outcome.status == 0
    assert "not verified" in outcome.out


def test_nothing_that_runs_is_exit_3(run: Run, benched: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise UnavailableError("no such device here")

    monkeypatch.setattr("iresnet_export.backends.onnxruntime.runtime.OnnxRuntime.load", absent)
    outcome = run("bench", benched["onnx"].path, *BRIEF)
    assert outcome.status == 3
    assert "no such device here" in outcome.out
    assert "None of the artifacts could be run here" in outcome.err


def test_what_runtimes_say_is_no_markup(run: Run, benched: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise UnavailableError("[enforce fail at alloc_cpu.cpp:114] no [/usr/lib/x.so] here")

    monkeypatch.setattr("iresnet_export.backends.onnxruntime.runtime.OnnxRuntime.load", absent)
    outcome = run("bench", benched["onnx"].path, *BRIEF)
    assert outcome.status == 3
    assert "[enforce fail at alloc_cpu.cpp:114] no [/usr/lib/x.so] here" in outcome.out


def test_out_of_memory_is_exit_3_and_says_so(run: Run, benched: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object) -> None:
        raise MemoryError("cannot allocate 9 GB")

    monkeypatch.setattr("iresnet_export.backends.onnxruntime.runtime.OnnxSession.run", hungry)
    outcome = run("bench", benched["onnx"].path, *BRIEF, "--skip-verify")
    assert outcome.status == 3
    assert "oom: there is not enough memory: cannot allocate 9 GB" in outcome.out


def test_a_changed_artifact_is_exit_1(run: Run, benched: dict[str, Artifact], tmp_path: Path) -> None:
    original = benched["onnx"].path
    path = tmp_path / original.name
    path.write_bytes(original.read_bytes() + b"\0")
    Path(f"{path}.json").write_bytes(Path(f"{original}.json").read_bytes())
    outcome = run("bench", path, *BRIEF)
    assert outcome.status == 1, outcome.err
    assert "failed_parity" in outcome.out
    assert "has no verdict on its speed" in outcome.err
    assert "Traceback" not in outcome.err
