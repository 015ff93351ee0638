"""What a run of the benchmark found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from iresnet_export.benchmark.clock import Samples
from iresnet_export.benchmark.options import Mode
from iresnet_export.benchmark.statistics import Latency, Speedup

Status = Literal["ok", "failed_parity", "unstable", "oom", "skipped"]


@dataclass(frozen=True)
class Parity:
    """The verdict of `verify` on a candidate. `accuracy_drop` is in percentage points, None where the classes are unknown."""

    status: Literal["pass", "fail", "skipped"]
    noise_ratio: float | None
    sqnr_db: float | None
    reason: str | None
    accuracy_drop: float | None = None


@dataclass(frozen=True)
class Trial:
    """One rate that the search for the highest one tried."""

    rate_per_s: float
    p99_ms: float | None
    held: bool


@dataclass(frozen=True)
class ServerRun:
    """Requests that came at random (Poisson) to one server. Response times in milliseconds, from arrival to logits.

    `utilisation` is the share of the time in which the server worked. `highest_rate_per_s` is 0 where no rate that was tried holds
    the limit, and None where no limit was given.
    """

    rate_per_s: float
    offered: int
    completed: int
    utilisation: float
    responses: tuple[float, ...]
    seconds: float
    highest_rate_per_s: float | None = None
    p99_limit_ms: float | None = None
    trials: tuple[Trial, ...] = ()

    @property
    def keeps_up(self) -> bool:
        return self.completed == self.offered and self.utilisation < 1


@dataclass(frozen=True)
class ColdRun:
    """Milliseconds in fresh processes: from a file to a session, and its first inference."""

    load_ms: tuple[float, ...]
    first_inference_ms: tuple[float, ...]


@dataclass(frozen=True)
class Subject:
    """Which candidate a result tells of. `baseline` is the artifact that it is compared with, None for a baseline itself."""

    artifact: str
    backend: str
    precision: str
    arch: str
    depth: int
    image_size: int
    device: str
    threads: int
    peer: bool = False
    baseline: str | None = None
    size_bytes: int | None = None
    macs: int | None = None
    """Multiply-accumulates of one image."""
    parity: Parity | None = None

    @property
    def is_baseline(self) -> bool:
        return self.baseline is None and not self.peer


@dataclass(frozen=True)
class Result:
    """One candidate in one mode at one batch size. `gflops` counts an addition and a multiplication each."""

    subject: Subject
    mode: Mode
    batch: int
    status: Status
    reason: str | None = None
    samples: Samples | None = None
    latency: Latency | None = None
    device_ms: float | None = None
    copy_ms: float | None = None
    throughput: float | None = None
    memory_mb: float | None = None
    gflops: float | None = None
    peak_fraction: float | None = None
    speedup: Speedup | None = None
    stable: bool | None = None
    server: ServerRun | None = None
    cold: ColdRun | None = None
    moved_bytes: int | None = None
    """Weights and activations of one batch, each moved once."""
    notices: tuple[str, ...] = ()
    """What is to be said of how it ran: what was fallen back from, and what it was told to round."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why figures are None, by their key in the report."""

    @property
    def artifact(self) -> str:
        return self.subject.artifact

    @property
    def backend(self) -> str:
        return self.subject.backend

    @property
    def precision(self) -> str:
        return self.subject.precision

    @property
    def is_baseline(self) -> bool:
        return self.subject.is_baseline


@dataclass(frozen=True)
class Limit:
    """What the machine does at most: 10⁹ additions and multiplications a second in one precision, and bytes from memory."""

    precision: str
    threads: int
    gflops: float
    kernel: str
    """What reached that."""
    bandwidth_gb_s: float


@dataclass(frozen=True)
class Recommendation:
    """The fastest that passes, in one sentence."""

    artifact: str
    backend: str
    precision: str
    batch: int
    threads: int
    speedup: float | None
    accuracy_drop_points: float | None
    sentence: str


@dataclass(frozen=True)
class BenchReport:
    results: list[Result]
    limits: list[Limit]
    cpu: dict[str, Any]
    gpu: dict[str, Any] | None
    warnings: list[str]
    recommendation: Recommendation | None = None

    @property
    def measured(self) -> bool:
        """Whether anything but a baseline or a peer was measured."""
        return any(result.status not in ("skipped", "oom") and result.subject.baseline is not None for result in self.results)
