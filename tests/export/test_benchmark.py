"""The clock takes turns; its statistics are right for known distributions."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from iresnet_export.artifact import Artifact
from iresnet_export.benchmark import clock
from iresnet_export.benchmark.bench import BenchOptions, bench
from iresnet_export.benchmark.clock import Samples, Timed, measure
from iresnet_export.benchmark.statistics import latency_of, speedup_of
from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.progress import no_progress
from iresnet_export.reporting.documents import bench_document


def simulated(seed: int, factor: float, rounds: int = 30, runs: int = 5) -> tuple[Samples, Samples]:
    """Two candidates on a machine that drifts and has spikes; the second takes `factor` times the first's time."""
    generator = np.random.default_rng(seed)
    drift = 1 + 0.2 * np.sin(np.linspace(0, 3, rounds) + generator.uniform(0, 6))

    def candidate(time: float) -> Samples:
        turns = time * drift[:, None] * (1 + 0.02 * generator.standard_normal((rounds, 1)))
        noise = turns * (1 + 0.02 * np.abs(generator.standard_normal((rounds, runs))))
        spikes = generator.uniform(size=(rounds, runs)) < 0.02
        return Samples("s", tuple(tuple(row) for row in np.where(spikes, noise * 3, noise)))

    return candidate(10.0), candidate(10.0 * factor)


@pytest.mark.parametrize("factor", [1.0, 0.99, 0.95])
def test_intervals_of_speedups_hold_the_truth_at_their_rate(factor: float) -> None:
    found = [speedup_of(*simulated(seed, factor)) for seed in range(400)]
    holding = np.mean([speedup.ci95[0] <= 1 / factor <= speedup.ci95[1] for speedup in found])
    assert 0.93 <= holding <= 0.99
    if factor == 1.0:
        assert np.mean([speedup.tie for speedup in found]) >= 0.93
    if factor == 0.95:
        assert np.mean([not speedup.tie and speedup.p50 > 1 for speedup in found]) >= 0.99


def test_intervals_of_medians_hold_the_truth_at_their_rate() -> None:
    holding = []
    for seed in range(400):
        generator = np.random.default_rng(seed)
        turns = 10 * (1 + 0.05 * generator.standard_normal((20, 1))) + 0.2 * generator.standard_normal((20, 4))
        low, high = latency_of(Samples("s", tuple(map(tuple, turns)))).p50_ci95
        holding.append(low <= 10 <= high)
    assert 0.93 <= np.mean(holding) <= 0.995


def test_statistics_against_numpy_and_no_percentile_from_too_few_samples() -> None:
    values = np.random.default_rng(0).gamma(5, 2, (100, 10))
    found = latency_of(Samples("s", tuple(map(tuple, values))))
    assert found.p50 == np.median(values)
    assert found.p90 == np.percentile(values, 90)
    assert found.p99 == np.percentile(values, 99)
    assert (found.mean, found.std) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert (found.min, found.max) == (values.min(), values.max())
    assert latency_of(Samples("s", tuple(map(tuple, values[:99])))).p99 is None
    assert latency_of(Samples("s", tuple(map(tuple, values[:9])))).p90 is None


def test_candidates_take_turns_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    log: list[str] = []

    def takes(name: str, seconds: float) -> Timed:
        def run() -> None:
            log.append(name)
            now[0] += seconds

        return Timed(name, run)

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(clock.time, "perf_counter_ns", lambda: round(now[0] * 1e9))
    monkeypatch.setattr(clock, "_settle", lambda: log.append("settle"))
    found = measure(
        [takes("a", 0.02), takes("b", 0.05), takes("c", 0.001)], seconds=1.0, warmup_seconds=0.1, seed=0, progress=no_progress
    )
    assert [samples.name for samples in found] == ["a", "b", "c"]
    assert len({len(samples.rounds) for samples in found}) == 1, "all take part in every round"
    assert all(sum(samples.all) >= 1000 for samples in found), "each is measured for its time"
    assert {round(value, 6) for value in found[1].all} == {50.0}
    turns = [name for name, before in zip(log[1:], log, strict=False) if before == "settle"]
    rounds = [tuple(turns[index : index + 3]) for index in range(0, len(turns), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(Counter(rounds)) >= 4, "the order is always the same"
    assert [len(samples.rounds[0]) for samples in found] == [5, 3, 100]


def test_settling_waits_for_idle_threads() -> None:
    import threading
    import time

    stop = time.perf_counter() + 0.05

    def spin() -> None:
        while time.perf_counter() < stop:
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    clock._settle()
    assert time.perf_counter() >= stop - 0.01
    thread.join()


BACKENDS = ("onnxruntime", "torchscript")


@pytest.fixture(scope="module")
def measured(artifacts: dict[str, Artifact]) -> tuple[list[object], BenchOptions]:
    options = BenchOptions(batch_sizes=(1, 3), seconds=0.05, warmup_seconds=0.01, threads=1, backends=BACKENDS)
    return list(bench([artifact.path for artifact in artifacts.values()], options)), options


def test_a_real_run_measures_everything(measured: tuple[list[object], BenchOptions]) -> None:
    results, options = measured
    document = json.loads(json.dumps(bench_document(results, options), allow_nan=False))  # type: ignore[arg-type]
    assert document["schema"] == "iresnet-export/bench/1"
    found = document["results"]
    assert sorted({(entry["backend"], entry["batch"]) for entry in found}) == sorted(
        (backend, batch) for backend in ("eager", "onnxruntime", "torchscript") for batch in (1, 3)
    )
    for entry in found:
        samples = [sample for turn in entry["samples"] for sample in turn]
        assert entry["status"] == "ok"
        assert entry["latency_ms"]["p50"] == pytest.approx(np.median(samples))
        assert entry["throughput"] == pytest.approx(entry["batch"] / entry["latency_ms"]["p50"] * 1e3)
        assert entry["gflops"] == pytest.approx(2 * 37_154_816 * entry["batch"] / entry["latency_ms"]["p50"] / 1e6, rel=0.01)
        assert (entry["speedup"] is None) == (entry["backend"] == "eager")
        nulls = {key for key, value in entry.items() if value is None and key != "reason"}
        assert nulls <= set(entry["null_reasons"])
        assert entry["latency_ms"]["p99"] is None or len(samples) >= 1000


def test_options_that_make_no_sense() -> None:
    for fields, message in (({"batch_sizes": ()}, "--batch"), ({"threads": 0}, "--threads"), ({"seconds": 0.0}, "--seconds")):
        with pytest.raises(InputError, match=message):
            BenchOptions(**fields)  # type: ignore[arg-type]


def test_a_foreign_artifact_needs_its_checkpoint(artifacts: dict[str, Artifact], small_checkpoint: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(artifacts["onnxruntime"].path.read_bytes())
    with pytest.raises(ArtifactError, match="--checkpoint"):
        bench([foreign], BenchOptions())
    options = BenchOptions(checkpoint=small_checkpoint, seconds=0.02, warmup_seconds=0.0, threads=1, backends=BACKENDS)
    assert [result.status for result in bench([foreign], options)] == ["ok", "ok"]
