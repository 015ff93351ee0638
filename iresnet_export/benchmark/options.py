"""What to measure, and how."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import MOST_BATCH, MOST_THREADS
from iresnet_export.errors import InputError
from iresnet_models.cores import usable_cores
from iresnet_models.spec import Which

Mode = Literal["latency", "throughput", "server", "cold"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class BenchOptions:
    """`seconds`: measured time for each candidate and batch size. `threads`: empty for one for each usable core."""

    modes: tuple[Mode, ...] = ("latency",)
    batch_sizes: tuple[int, ...] = (1,)
    """Of mode latency; throughput finds its own, server and cold take single images."""
    device: torch.device = torch.device("cpu")
    threads: tuple[int, ...] = ()
    seconds: float = 3.0
    warmup_seconds: float = 0.3
    seed: int = 0
    rates: tuple[float, ...] = ()
    """Requests a second that mode server offers."""
    p99_limit_ms: float | None = None
    """Mode server looks for the highest rate whose p99 of the response time stays within this."""
    repeats: int = 5
    """Fresh processes for each candidate of mode cold."""
    checkpoint: Path | None = None
    which: Which | None = None
    """Of the checkpoint's weights, as `verify` has it."""
    trust: bool = False
    backends: tuple[str, ...] = ()
    peers: bool = False
    verify: bool = True
    images: int | None = None
    """For parity; None for 32, or 500 where accuracy counts."""
    data: str | None = None
    recommend: bool = False
    max_accuracy_drop: float | None = None
    memory: bool = True
    """Whether to measure peak memory, in a process of its own for each candidate."""
    limits: bool = True
    """Whether to measure what the machine can do at most."""
    source: Source | None = None
    """The network that artifacts should be, in place of `checkpoint`."""

    @property
    def given(self) -> Source | Path | None:
        return self.source or self.checkpoint

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or not self.modes:
            found = f", not {unknown[0]!r}" if unknown else ""
            raise InputError(f"--mode takes {', '.join(MODES[:-1])} or {MODES[-1]}, or several separated by commas{found}.")
        if not self.batch_sizes or min(self.batch_sizes) < 1 or max(self.batch_sizes) > MOST_BATCH:
            raise InputError("--batch takes batch sizes of at least 1, such as --batch 1,8,32.")
        wrong = [count for count in self.threads if not 1 <= count <= MOST_THREADS]
        if wrong:
            raise InputError(f"--threads takes numbers from 1 to {MOST_THREADS}, not {wrong[0]}.")
        _require_positive("--seconds", (self.seconds,), "a time above 0")
        _require_positive("--rate", self.rates, "requests a second, above 0")
        _require_positive("--p99-limit", () if self.p99_limit_ms is None else (self.p99_limit_ms,), "milliseconds, above 0")
        if "server" in self.modes and not self.rates and self.p99_limit_ms is None:
            raise InputError(
                "Mode server needs a rate of requests, such as --rate 50, or a limit to look for the highest rate within, such as "
                "--p99-limit 15 (milliseconds)."
            )
        if "server" not in self.modes and (self.rates or self.p99_limit_ms is not None):
            raise InputError("--rate and --p99-limit belong to mode server;", "add it, such as --mode latency,server.")
        if self.max_accuracy_drop is not None and not self.recommend:
            raise InputError("--max-accuracy-drop says what --recommend may recommend;", "add --recommend.")
        if self.recommend and not {"latency", "throughput"} & set(self.modes):
            raise InputError("--recommend goes by latency or throughput;", "add one of them, such as --mode latency,server.")
        if self.recommend and not self.verify:
            raise InputError("--recommend names only what passed verification;", "leave out --skip-verify.")
        if self.repeats < 1 or (self.images is not None and self.images < 1):
            raise InputError("--repeats and --images take numbers of at least 1.")

    @property
    def thread_counts(self) -> tuple[int, ...]:
        return self.threads or (usable_cores(),)

    @property
    def parity_images(self) -> int:
        return self.images or (32 if self.max_accuracy_drop is None else 500)


def _require_positive(option: str, values: Iterable[float], what: str) -> None:
    for value in values:
        if not (value > 0 and math.isfinite(value)):
            raise InputError(f"{option} takes {what}, not {value:g}.")
