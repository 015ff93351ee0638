"""The GPU's own clock, as far as that goes without one: which events stand where."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iresnet_export.benchmark import device
from iresnet_export.benchmark.clock import DeviceTime
from iresnet_export.benchmark.device import device_timer


class Tensor:
    """Moves between devices, and logs it."""

    def __init__(self, log: list[str]) -> None:
        self._log = log

    def to(self, _device: torch.device, *, non_blocking: bool) -> Tensor:
        self._log.append(f"to device {non_blocking}")
        return self

    def cpu(self) -> Tensor:
        self._log.append("to host")
        return self


def test_copies_and_the_network_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    log, times = list[str](), iter([0.0, 1.5, 21.5, 22.0])

    class Event:
        time = 0.0

        def record(self, _stream: Any) -> None:
            self.time = next(times)
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, later: Any) -> float:
            return float(later.time - self.time)

    class Stream:
        def synchronize(self) -> None:
            log.append("wait")

    class Session:
        device = torch.device("cuda")

        def run(self, images: Tensor) -> Tensor:
            log.append("network")
            return images

    monkeypatch.setattr(device, "_event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream())
    timer = device_timer(Session(), Tensor(log))  # type: ignore[arg-type]
    assert timer is not None
    assert timer() == DeviceTime(compute=20.0, copies=2.0)
    assert log == ["event", "to device True", "event", "wait", "network", "event", "to host", "event", "wait"]


def test_a_cpu_has_one_clock() -> None:
    class Session:
        device = torch.device("cpu")

    assert device_timer(Session(), torch.zeros(1)) is None  # type: ignore[arg-type]
