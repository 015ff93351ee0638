"""Time by a GPU's own events, beside the host's clock."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from iresnet_export.backends.base import Session
from iresnet_export.benchmark.clock import DeviceTime


def device_timer(session: Session, images: Tensor) -> Callable[[], DeviceTime] | None:
    """Measures one inference by CUDA events: copy, network, copy. None where there is no GPU.

    The network's time runs from inputs that lie on the device to logits that lie there, waits for the host included.
    """
    if session.device.type != "cuda":
        return None

    def once() -> DeviceTime:
        stream = torch.cuda.current_stream(session.device)
        events = [_event() for _ in range(4)]
        events[0].record(stream)
        resident = images.to(session.device, non_blocking=True)
        events[1].record(stream)
        stream.synchronize()  # some runtimes have streams of their own
        logits = session.run(resident)
        events[2].record(stream)
        logits.cpu()
        events[3].record(stream)
        events[3].synchronize()
        first, network, last = (before.elapsed_time(after) for before, after in pairwise(events))
        return DeviceTime(network, first + last)

    return once


def _event() -> torch.cuda.Event:
    made: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return made
