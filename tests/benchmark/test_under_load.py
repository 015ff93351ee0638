"""What is said of measurements on a loaded machine: nothing beyond what was measured, and no verdict over an unsteady baseline."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from iresnet_export.benchmark.clock import Samples
from iresnet_export.benchmark.recommendation import recommendation, unsteady_baseline
from iresnet_export.benchmark.stability import NOT_STEADY, contradictions, unsteadiness, without_contradictions
from iresnet_export.benchmark.statistics import latency_of, speedup_of
from iresnet_export.cli.quickstart import _speed_in_words
from iresnet_export.reporting.comparison import ratio_of_medians
from iresnet_export.reporting.schemas import BenchResult, Parity, Speedup, Subject
from iresnet_export.system.machine import load_warnings, under_load


def disturbed(seed: int, count: int = 10) -> Samples:
    """Turns of 5 ms, and of up to 700 ms where others held the cores."""
    generator = np.random.default_rng(seed)
    turns = np.where(generator.uniform(size=(count, 1)) < 0.5, 5.0, generator.uniform(100, 700, (count, 1)))
    return Samples("eager", tuple(map(tuple, turns * generator.uniform(1, 1.2, (count, 3)))))


@pytest.mark.parametrize("seed", range(20))
def test_no_interval_reaches_beyond_what_was_measured(seed: int) -> None:
    slow, fast = disturbed(seed), disturbed(seed + 100)
    found = latency_of(slow)
    assert min(slow.all) <= found.p50_ci95[0] <= found.p50 <= found.p50_ci95[1] <= max(slow.all)
    ratios = [np.median(one) / np.median(other) for one, other in zip(slow.rounds, fast.rounds, strict=True)]
    speedup = speedup_of(slow, fast)
    assert min(ratios) <= speedup.ci95[0] <= speedup.p50 <= speedup.ci95[1] <= max(ratios)
    turns = [[np.array(turn) for turn in samples.rounds] for samples in (slow, fast)]
    ratio, (low, high) = ratio_of_medians(*turns)
    assert min(fast.all) / max(slow.all) * 0.999 <= low <= ratio <= high <= max(fast.all) / min(slow.all) * 1.001


def test_what_is_far_apart_is_no_figure() -> None:
    steady = [(10.0 + 0.1 * (index % 3),) * 3 for index in range(10)]
    assert unsteadiness(steady) is None
    alternating = [(5.0,) * 3, (400.0,) * 3] * 6
    assert "its turns lie far apart" in str(unsteadiness(alternating))
    assert "first and last half differ" in str(unsteadiness([(1.0,)] * 5 + [(2.0,)] * 5))
    one_spike = [*steady, (500.0,) * 3]
    assert unsteadiness(one_spike) is None, "a single disturbed turn changes no median"


def test_a_small_batch_takes_no_longer_than_a_large_one() -> None:
    assert contradictions({1: 3.0, 8: 20.0, 32: 80.0}) == {}
    assert contradictions({7: 10.5, 8: 10.0}) == {}, "kernels for odd sizes are a little slower"
    found = contradictions({1: 350.0, 8: 120.0, 32: 500.0})
    assert found == dict.fromkeys((1, 8), "it took 350 ms at batch 1 and 120 ms at batch 8")


def result(name: str, milliseconds: float, batch: int, speedup: float | None = None) -> BenchResult:
    eager = speedup is None
    parity = None if eager else Parity("pass", 1.0, None, None)
    subject = Subject(
        name,
        "eager" if eager else "onnxruntime",
        "fp32",
        "cpu",
        2,
        "iresnet",
        18,
        32,
        baseline=None if eager else "net",
        parity=parity,
    )
    samples = Samples(name, tuple((milliseconds * (1 + 0.0001 * index),) * 3 for index in range(10)))
    over = None if speedup is None else Speedup(speedup, (0.9 * speedup, 1.1 * speedup))
    return subject.result("latency", batch, "ok", samples=samples.rounds, latency_ms=latency_of(samples), speedup=over, stable=True)


def test_a_baseline_that_contradicts_itself_gives_no_verdict_and_no_recommendation() -> None:
    results = [result("net", 350.0, 1), result("a.onnx", 0.66, 1, 535.0), result("net", 120.0, 8), result("a.onnx", 5.0, 8, 24.0)]
    steady = [*results[:2], result("net", 500.0, 8), results[3]]
    assert without_contradictions(steady) == steady
    assert recommendation(steady, None) is not None
    found = without_contradictions(results)
    assert [one.status for one in found] == ["unstable", "ok", "unstable", "ok"]
    assert all(one.speedup is None for one in found)
    why = f"{NOT_STEADY}: it took 350 ms at batch 1 and 120 ms at batch 8"
    assert unsteady_baseline(found[1]) == unsteady_baseline(found[3]) == why
    assert recommendation(found, None) is None
    other = dataclasses.replace(results[2], threads=1)
    assert without_contradictions([results[0], results[1], other]) == [results[0], results[1], other], "other threads, other speed"


def test_a_recommendation_says_first_that_the_machine_was_loaded() -> None:
    results = [result("net", 10.0, 1), result("a.onnx", 2.0, 1, 5.0)]
    quiet, loaded = recommendation(results, None), recommendation(results, None, loaded=True)
    assert quiet is not None
    assert loaded is not None
    assert quiet.sentence.startswith("On this machine")
    assert loaded.sentence.startswith("Measured while the machine was loaded, so in doubt: on this machine a.onnx")


def test_warnings_of_load_say_that_ratios_suffer_too() -> None:
    busy = load_warnings(
        {"load_before": 1.5, "load_after": 1.5, "governor": "powersave"}, {"throttle_reasons": ["hw_slowdown"]}, 1.0
    )
    assert all("ratios suffer too" in warning for warning in busy[:3])
    assert under_load(busy[:1])
    assert under_load(busy[2:3])
    assert under_load(busy[-1:])
    assert not under_load([busy[3]]), "a governor is no load"


def summary(found: BenchResult | None, *warnings: str):  # type: ignore[no-untyped-def]
    from pathlib import Path
    from types import SimpleNamespace

    row = None if found is None else SimpleNamespace(path=Path("a.onnx"), backend="onnxruntime", result=found)
    return SimpleNamespace(fastest=row, warnings=warnings)


def test_the_quickstarts_headline() -> None:
    """Bold only where nothing speaks against it; what is known is said with its interval."""
    fast = result("a.onnx", 2.0, 1, 152.8)
    load = load_warnings({"load_before": 1.5, "load_after": 0.0, "governor": None}, None, 0.0)
    quiet = _speed_in_words(summary(fast))
    assert str(quiet).startswith("Fastest on this machine: a.onnx by onnxruntime, 2.00 ms an image (median; 95 % interval 2.00 to")
    assert getattr(quiet, "style", "") == "bold"
    loaded = _speed_in_words(summary(fast, *load))
    assert isinstance(loaded, str), "not bold"
    assert "while the machine was loaded" in loaded
    assert "152.8 times as fast as eager PyTorch (137.5 to 168.1)" in loaded
    doubtful = without_contradictions([result("net", 350.0, 1), fast, result("net", 120.0, 8)])[1]
    said = _speed_in_words(summary(doubtful))
    assert isinstance(said, str)
    assert "times as fast" not in said
    assert f"{NOT_STEADY}: it took 350 ms at batch 1" in said
    assert "no measurement of one that passed was steady" in str(_speed_in_words(summary(None)))
