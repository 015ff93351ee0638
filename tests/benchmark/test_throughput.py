"""The batch sweep ends where it gains nothing more or where memory ends; the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from iresnet_export.backends.base import Session
from iresnet_export.benchmark import clock, throughput
from iresnet_export.benchmark.entrants import Entrant
from iresnet_export.benchmark.measuring import Bench
from iresnet_export.benchmark.memory import Growth
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.recipe import Recipe
from iresnet_export.benchmark.throughput import Sweep
from iresnet_export.benchmark.work import Work
from iresnet_export.reporting.schemas import Subject
from iresnet_models import ModelSpec

CPU = torch.device("cpu")


class Fake(Session):
    """Logits of nothing; memory ends at some batch size."""

    device = CPU

    def __init__(self, memory_ends_at: int | None = None, batch: tuple[int, int] | None = None) -> None:
        self._end, self.batch = memory_ends_at, batch

    def run(self, batch: Tensor) -> Tensor:
        if self._end is not None and len(batch) >= self._end:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")
        return torch.zeros(len(batch), 10)


def candidate(name: str, spec: ModelSpec, session: Session, baseline: str | None) -> Entrant:
    subject = Subject(name, "eager" if baseline is None else "fake", "fp32", "cpu", 1, spec.arch, spec.depth, 32, baseline=baseline)
    return Entrant(subject, spec, Recipe("eager", Path(name), spec, CPU, 1), Work(1, 1, 1), session)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> BenchOptions:
    """As few runs as there can be, and no sweep that goes on for ever."""
    monkeypatch.setattr(clock, "RUNS_PER_TURN_SECONDS", 0.0)
    monkeypatch.setattr(clock, "PATIENCE", 1)
    monkeypatch.setattr(clock, "MINIMUM_ROUNDS", 2)
    monkeypatch.setattr(throughput, "LARGEST_BATCH", 16)
    return BenchOptions(seconds=1e-9, warmup_seconds=0.0, threads=(1,), verify=False)


def test_out_of_memory_ends_the_sweep_and_not_the_run(quick: BenchOptions, small_spec: ModelSpec) -> None:
    found = Bench(quick)
    baseline = candidate("base", small_spec, Fake(), None)
    hungry, bounded = (
        candidate("hungry", small_spec, Fake(memory_ends_at=4), "base"),
        candidate("bounded", small_spec, Fake(batch=(1, 2)), "base"),
    )
    throughput.throughput([baseline, hungry, bounded], found)
    seen = {name: [(r.batch, r.status) for r in found.results if r.artifact == name] for name in ("base", "hungry", "bounded")}
    assert [batch for batch, status in seen["hungry"] if status != "oom"] == [1, 2]
    assert seen["hungry"][-1] == (4, "oom")
    assert {batch for batch, _ in seen["bounded"]} <= {1, 2}
    assert seen["base"][0][0] == 1
    last = next(result for result in found.results if result.status == "oom")
    assert "not enough memory" in (last.reason or "")
    assert last.latency_ms is None
    assert last.null_reasons["throughput"] == last.reason


def test_a_batch_that_would_not_fit_is_not_tried(
    quick: BenchOptions, small_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Growth, "shortage", lambda _self: "it would need some 80.0 GB")
    found = Bench(quick)
    throughput.throughput([candidate("base", small_spec, Fake(), None)], found)
    assert [(result.batch, result.status) for result in found.results] == [(1, found.results[0].status), (2, "oom")]
    assert found.results[1].reason == "it would need some 80.0 GB"


def test_growth_foresees_what_doubling_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_export.benchmark import memory

    held, free = [10**9], [3 * 10**9]
    monkeypatch.setattr(memory, "resident_bytes", lambda: held[0])
    monkeypatch.setattr(memory, "available_bytes", lambda: free[0])
    growth = Growth()
    assert growth.shortage() is None
    held[0], free[0] = 3 * 10**9, 10**9
    assert "some 4.0 GB" in (growth.shortage() or "")
    free[0] = 2 * 10**9
    assert growth.shortage() is None


@pytest.mark.parametrize(
    ("rates", "ends_after"),
    [([100, 180, 300, 310, 312, 900], 5), ([100, 101, 103, 500], 3), ([100, 90, 120, 121, 122], 5), ([100, None], 2)],
)
def test_two_doublings_without_gain_saturate(rates: list[float | None], ends_after: int) -> None:
    subject = Subject("a", "b", "fp32", "cpu", 1)
    sweep = Sweep()
    for step, rate in enumerate(rates):
        sweep.add(subject.result("throughput", 2**step, "ok", throughput=rate))
        if sweep.over:
            assert step + 1 == ends_after
            return
    raise AssertionError("it never ended")


def test_a_batch_that_takes_too_long_ends_a_sweep() -> None:
    subject = Subject("a", "b", "fp32", "cpu", 1)
    sweep = Sweep()
    ended = []
    for batch, rate in ((1, 0.2), (2, 0.3), (4, 0.5), (8, 0.7)):
        sweep.add(subject.result("throughput", batch, "ok", throughput=rate))
        ended.append(sweep.over)
    assert ended == [False, False, False, True]
