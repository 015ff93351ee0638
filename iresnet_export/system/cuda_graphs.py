"""CUDA graphs of sessions: which batch sizes get one, how it is captured, and what is done where that fails."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from iresnet_export.errors import UnavailableError
from iresnet_models.errors import first_line

MOST_GRAPHS = 8
"""Each holds buffers of its own; further batch sizes run without a graph."""

ALIGNMENT = 256
"""Bytes: where tensors begin that are read by their address alone."""

_RUNS_BEFORE_CAPTURE = 2

T = TypeVar("T")


class Capturing:
    """Captures a graph at the second run of a batch size, on one stream. `enabled` ends, with a notice, where capturing fails."""

    def __init__(self, name: str, stream: torch.cuda.Stream, notices: list[str], *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._name, self._stream, self._notices = name, stream, notices
        self._runs = Counter[int]()

    def is_due(self, count: int, captured: int) -> bool:
        """Whether a batch size that runs now, and has no graph yet, should get one beside those `captured`."""
        self._runs[count] += 1
        return self.enabled and self._runs[count] >= _RUNS_BEFORE_CAPTURE and captured < MOST_GRAPHS

    def captured(self, start: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T] | None:
        """The graph of what `start` enqueues on the stream, and what it gave: its tensors are the graph's own at every replay."""
        try:
            start()  # what is set up at the first run cannot be captured
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                found = start()
        except (RuntimeError, UnavailableError) as error:
            self.enabled = False
            notice = f"{self._name} runs without CUDA graphs, since capturing one failed: {first_line(error)}"
            self._notices.append(notice)
            logging.getLogger(__name__).warning(notice)
            return None
        return graph, found


@contextmanager
def on_stream(stream: torch.cuda.Stream, batch: Tensor) -> Iterator[list[Tensor]]:
    """Enqueues on `stream`, after what the caller's stream holds by now and before what comes next on it.

    What is put into the list is the caller's: its memory is not given away before the caller's stream is done with it.
    """
    found: list[Tensor] = []
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    batch.record_stream(stream)
    with torch.cuda.stream(stream):
        yield found
    current.wait_stream(stream)
    for values in found:
        values.record_stream(current)


def readable(batch: Tensor) -> Tensor:
    """The batch itself where it can be read by its address; else a copy in order and aligned."""
    batch = batch.contiguous()
    return batch.clone() if batch.data_ptr() % ALIGNMENT else batch
