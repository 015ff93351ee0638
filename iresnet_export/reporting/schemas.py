"""What `report` reads of other commands' reports (docs/reports.md). Keys that are not named here are passed over."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

LARGEST = 1e40
"""Beyond every float32, and so beyond what a network, a clock or a loss gives. Plots square and add what they show."""

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=1e-9, le=LARGEST, allow_inf_nan=False)]
Interval = tuple[Number, Number]


class Part(BaseModel):
    """A JSON object. Types are not converted: "12" is no number."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", protected_namespaces=())


class Hardware(Part):
    cpu: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    system: str | None = None
    gpus: tuple[dict[str, Any], ...] = ()


class Environment(Part):
    """`cpu`, `gpu` and `warnings` are the benchmark's; earlier reports have none."""

    versions: dict[str, str] = {}
    hardware: Hardware = Hardware()
    commit: str | None = None
    command: str | None = None
    cpu: dict[str, Any] | None = None
    gpu: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


class Place(Part):
    place: str
    sqnr_db: Number | None = None
    floor_db: Number | None = None
    ratio: Number | None = None


class Reference(Part):
    id: str
    arch: str | None = None
    depth: int | None = None
    weights: str | None = None
    images: int | None = None
    image_source: str | None = None
    noise_floor: dict[str, Number | None] = {}


class Counted(Part):
    percent: Number
    ci95: Interval | None = None


class DecisionAccuracy(Part):
    reference: Counted
    candidate: Counted
    verdict: str | None = None


class Flips(Part):
    total: int
    explained: int
    unexplained: int


class Decisions(Part):
    images: int
    flips: Flips | None = None
    accuracy: DecisionAccuracy | None = None


class Weights(Part):
    compared: int = 0
    worst_ulp: Number | None = None
    first_difference: str | None = None


class VerifyCandidate(Part):
    artifact: str
    backend: str
    precision: str
    status: Literal["pass", "fail", "skipped"]
    reason: str | None = None
    computed_precision: str | None = None
    reference: str | None = None
    weights: Weights | None = None
    noise_ratio: Number | None = None
    max_abs: Number | None = None
    sqnr_db: Number | None = None
    top1_agreement: Number | None = None
    decisions: Decisions | None = None
    first_divergence: str | None = None
    localisation: tuple[Place, ...] | None = None


class Latency(Part):
    p50: Positive
    p90: Number | None = None
    p99: Number | None = None
    mean: Number | None = None
    std: Number | None = None
    min: Number | None = None
    max: Number | None = None
    p50_ci95: Interval | None = None

    @property
    def interval(self) -> Interval | None:
        """Of the median, within what was measured: earlier versions wrote intervals that reached beyond it, and below 0."""
        if self.p50_ci95 is None:
            return None
        low, high = self.p50_ci95
        least = min(self.p50, 0.0 if self.min is None else max(self.min, 0.0))
        return max(low, least), high if self.max is None else min(high, max(self.max, self.p50))


class Speedup(Part):
    p50: Number
    ci95: Interval
    tie: bool | None = None

    @property
    def is_tie(self) -> bool:
        return self.ci95[0] <= 1 <= self.ci95[1] if self.tie is None else self.tie


class Parity(Part):
    status: Literal["pass", "fail", "skipped"]
    noise_ratio: Number | None = None
    sqnr_db: Number | None = None
    reason: str | None = None


class Response(Part):
    p50: Number | None = None
    p90: Number | None = None
    p99: Number | None = None
    p999: Number | None = None


class Server(Part):
    rate_per_s: Number
    offered: int | None = None
    completed: int | None = None
    response_ms: Response = Response()
    highest_rate_per_s: Number | None = None
    p99_limit_ms: Number | None = None


class Timing(Part):
    p50: Number | None = None
    samples: tuple[Number, ...] = ()


class Cold(Part):
    load_ms: Timing
    first_inference_ms: Timing


class BenchResult(Part):
    artifact: str
    backend: str
    precision: str
    device: str
    batch: Annotated[int, Field(ge=1)]
    threads: int
    status: Literal["ok", "failed_parity", "unstable", "oom", "skipped"]
    mode: str = "latency"
    reason: str | None = None
    arch: str | None = None
    depth: int | None = None
    image_size: int | None = None
    peer: bool = False
    baseline: str | None = None
    parity: Parity | None = None
    samples: tuple[tuple[Number, ...], ...] | tuple[Number, ...] | None = None
    latency_ms: Latency | None = None
    device_ms: Number | None = None
    copy_ms: Number | None = None
    throughput: Number | None = None
    memory_mb: Number | None = None
    size_bytes: int | None = None
    gflops: Number | None = None
    peak_fraction: Number | None = None
    arithmetic_intensity: Positive | None = None
    speedup: Speedup | None = None
    stable: bool | None = None
    server: Server | None = None
    cold: Cold | None = None

    @property
    def measured(self) -> bool:
        return self.latency_ms is not None or self.server is not None or self.cold is not None

    @property
    def is_baseline(self) -> bool:
        """What the others' speed-ups are against."""
        return self.backend == "eager" and self.speedup is None and self.baseline is None and not self.peer


class Limit(Part):
    precision: str
    threads: int | None = None
    gflops: Positive
    kernel: str | None = None
    bandwidth_gb_s: Positive | None = None


class Recommendation(Part):
    artifact: str
    backend: str
    precision: str
    batch: int
    threads: int
    speedup: Number | None = None
    accuracy_drop_points: Number | None = None
    sentence: str


class Evaluated(Part):
    artifact: str
    backend: str
    status: Literal["ok", "skipped"]
    reason: str | None = None
    images: int | None = None
    top1: Number | None = None
    top1_ci95: Interval | None = None
    top5: Number | None = None
    loss: Number | None = None


class Epoch(Part):
    epoch: int
    train_loss: Number | None = None
    train_acc1: Number | None = None
    val_loss: Number | None = None
    val_acc1: Number | None = None
    val_acc5: Number | None = None
    lr: Number | None = None
    seconds: Number | None = None
    images_per_second: Number | None = None
    ema_val_acc1: Number | None = None


class TrainedNetwork(Part):
    arch: str
    depth: int
    num_classes: int | None = None
    image_size: int | None = None


class Best(Part):
    epoch: int
    val_acc1: Number


class VerifyReport(Part):
    environment: Environment
    settings: dict[str, Any] = {}
    references: tuple[Reference, ...] = ()
    candidates: tuple[VerifyCandidate, ...]
    passed: bool


class BenchReport(Part):
    environment: Environment
    settings: dict[str, Any] = {}
    results: tuple[BenchResult, ...]
    limits: tuple[Limit, ...] | None = None
    recommendation: Recommendation | None = None


class EvalReport(Part):
    environment: Environment
    settings: dict[str, Any] = {}
    results: tuple[Evaluated, ...]


class TrainReport(Part):
    environment: Environment
    settings: dict[str, Any] = {}
    network: TrainedNetwork
    epochs: tuple[Epoch, ...]
    best: Best | None = None
    status: Literal["running", "done", "preempted", "failed"]


AnyReport = VerifyReport | BenchReport | EvalReport | TrainReport
KINDS: dict[str, type[AnyReport]] = {"verify": VerifyReport, "bench": BenchReport, "eval": EvalReport, "train": TrainReport}
VERSION = 1
