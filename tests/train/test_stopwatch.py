from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from iresnet_train import Progress, TrainConfig, loop, stopwatch, train
from iresnet_train.records import Position
from iresnet_train.stopwatch import Stopwatch, advice


def test_waiting_is_counted_apart_and_within_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    def batches() -> Any:
        for seconds in (1.0, 2.0, 4.0):
            passes(seconds)  # until the batch is there
            yield seconds
        passes(8.0)  # until it is known that there is no other

    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now)
    at = Position(seconds=1000.0, data_seconds=500.0)  # of before a resumption
    watch = Stopwatch(at)
    seen = []
    for batch in watch.waiting(batches()):
        passes(16.0)
        watch.lap()
        seen.append((batch, at.data_seconds, at.seconds))
    assert seen == [(1.0, 501.0, 1017.0), (2.0, 503.0, 1035.0), (4.0, 507.0, 1055.0)]
    assert (at.data_seconds, at.seconds) == (507.0, 1055.0)


def test_when_and_what_to_do_about_waiting() -> None:
    assert advice(Position(seconds=100, data_seconds=9), 4, 8) is None
    assert advice(Position(seconds=50, data_seconds=40), 4, 8) is None  # too short to matter
    text = advice(Position(seconds=100, data_seconds=34), 4, 8)
    assert text is not None
    assert "34%" in text
    assert "--workers (4 now, 8 processors)" in text
    assert "shards" in str(advice(Position(seconds=100, data_seconds=34), 8, 8))


def test_a_run_measures_its_waiting_and_logs_the_advice(
    tiny_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[tuple[float, int, int]] = []

    def advised(position: Position, workers: int, processors: int) -> str:
        asked.append((position.data_seconds / position.seconds, workers, processors))
        return f"Advice {len(asked)}"

    monkeypatch.setattr(loop, "advice", advised)
    monkeypatch.setattr(loop, "processors", lambda: 5)
    told: list[Progress] = []
    result = train(tiny_config(), told.append)
    assert [record.getMessage() for record in caplog.records] == ["Advice 1", "Advice 2"]
    assert [(workers, processors) for _, workers, processors in asked] == [(0, 5), (0, 5)]
    shares = [share for share, _, _ in asked]
    assert all(0 < share < 1 for share in shares)
    assert [now.data_wait_share for now in told if now.step == now.steps] == shares
    lines = [line.split(",") for line in result.log.read_text().splitlines()]
    assert [float(line[lines[0].index("data_wait_share")]) for line in lines[1:]] == pytest.approx(shares, rel=1e-5)
