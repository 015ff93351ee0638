"""Every report: commands write it by these classes and `report` reads it by them (docs/reports.md).

A key that an earlier version did not write has a default; keys that are not named here are passed over.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import field, fields
from functools import cached_property
from io import BytesIO
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from iresnet_export.system.environment import environment
from iresnet_models.typed import adapter

VERSION = 1
MOST_RATIO = 1e38
"""In place of what is infinitely many times nothing."""
LARGEST = 1e40
"""Beyond every float32, and so beyond what a network, a clock or a loss gives. Plots square and add what they show."""

STRICT = ConfigDict(strict=True, extra="ignore", defer_build=True)
"""Types are not converted: "12" is no number."""

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=1e-9, le=LARGEST, allow_inf_nan=False)]
Interval = tuple[Number, Number]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
SIGNIFICANT = 0.05
"""Of p values that are corrected for the number of classes: by chance alone, one comparison of twenty names any."""

MOST_THUMBNAIL = 96
"""Pixels of a thumbnail's side."""

_THUMBNAIL = "data:image/jpeg;base64,"


def _small_jpeg(text: str) -> str:
    """The text if it is a small JPEG as a data URI; ValueError for anything else, which no page may show."""
    from PIL import Image

    if len(text) > 30_000 or not text.startswith(_THUMBNAIL):
        raise ValueError(f"it is no JPEG that begins with {_THUMBNAIL}")
    try:
        with Image.open(BytesIO(b64decode(text.removeprefix(_THUMBNAIL), validate=True)), formats=["JPEG"]) as image:
            small = max(image.size) <= MOST_THUMBNAIL
    except Exception as error:  # a decoder raises whatever it stumbles over
        raise ValueError("it is no JPEG that can be read") from error
    if not small:
        raise ValueError(f"it has more than {MOST_THUMBNAIL} pixels a side")
    return text


Thumbnail = Annotated[str, AfterValidator(_small_jpeg)]
Reasons = dict[str, str]
"""Why figures are null, by their keys; of nested ones with a dot: `latency_ms.p99`."""

Verdict = Literal["pass", "fail", "skipped"]
Coverage = Literal["whole file", "parent", "graph", "outputs"]
"""How much of an artifact was compared."""

BenchStatus = Literal["ok", "failed_parity", "unstable", "oom", "skipped"]
R = TypeVar("R")


def validated(kind: type[R], document: Mapping[str, Any]) -> R:
    """A document of a kind from plain values; what is not a number, or is none that a network gives, becomes null."""
    found: R = adapter(kind).validate_python(_nulled(document), strict=False)
    return found


def _nulled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(item) for item in value]
    return None if isinstance(value, float) and not (math.isfinite(value) and abs(value) <= LARGEST) else value


@dataclass(frozen=True, config=STRICT)
class Hardware:
    cpu: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    system: str | None = None
    gpus: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, config=STRICT)
class Environment:
    """`cpu`, `gpu` and `warnings` are the benchmark's; other reports have none."""

    versions: dict[str, str] = field(default_factory=dict)
    hardware: Hardware = field(default_factory=Hardware)
    commit: str | None = None
    command: str | None = None
    cpu: dict[str, Any] | None = None
    gpu: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def environment_here(**more: Any) -> Environment:
    """Of this process, with what a command adds."""
    return validated(Environment, environment() | more)


@dataclass(frozen=True, config=STRICT)
class Report:
    """What every report begins with."""

    kind: ClassVar[str]

    environment: Environment

    def to_json(self) -> dict[str, Any]:
        """The document as it is written to a file."""
        found = adapter(type(self)).dump_python(self, mode="json", by_alias=True)
        if self.kind != "bench":
            for key in ("cpu", "gpu", "warnings"):
                del found["environment"][key]
        return {"schema": f"iresnet-export/{self.kind}/{VERSION}", **found}


@dataclass(frozen=True, config=STRICT)
class Place:
    """A place in the network; signal to noise of candidate and of rounding alone there, and the ratio of the two errors."""

    place: str
    sqnr_db: Number | None = None
    floor_db: Number | None = None
    ratio: Number | None = None


@dataclass(frozen=True, config=STRICT)
class Reference:
    """What outputs are compared with. `cached`: whether an earlier run computed it."""

    id: str
    arch: str | None = None
    depth: int | None = None
    checkpoint_sha256: str | None = None
    weights: str | None = None
    weights_sha256: str | None = None
    images: int | None = None
    image_source: str | None = None
    image_size: int | tuple[int, int] | None = None
    noise_floor: dict[str, Number | None] = field(default_factory=dict)
    cached: bool = False


@dataclass(frozen=True, config=STRICT)
class Share:
    """From 0 to 1, with its Wilson interval."""

    share: Number
    ci95: Interval | None = None


@dataclass(frozen=True, config=STRICT)
class Percent:
    percent: Number
    ci95: Interval | None = None


@dataclass(frozen=True, config=STRICT)
class DecisionAccuracy:
    """Top-1 accuracy over the same labelled images; `verdict` says what may be said of the drop."""

    reference: Percent
    candidate: Percent
    only_reference_right: int | None = None
    only_candidate_right: int | None = None
    mcnemar_p: Number | None = None
    drop_points: Number | None = None
    drop_bound95_points: Number | None = None
    verdict: str | None = None


@dataclass(frozen=True, config=STRICT)
class Flip:
    """An image, by its index, that the candidate puts into another class than the reference.

    `margin`: how far the reference's logit of its own class is above that of the candidate's class, in float64. `error`: by how
    much the candidate errs in that gap, at least `margin` by necessity. `explained`: whether rounding alone may do that.
    """

    image: int
    reference: int
    candidate: int
    margin: Number
    error: Number
    explained: bool


@dataclass(frozen=True, config=STRICT)
class Flips:
    total: int
    explained: int
    unexplained: int
    largest_margin: Number | None = None
    listed: tuple[Flip, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Decisions:
    """`kl_divergence` is in nats."""

    images: int
    top1_agreement: Share | None = None
    top5_agreement: Share | None = None
    flips: Flips | None = None
    kl_divergence: Number | None = None
    accuracy: DecisionAccuracy | None = None
    null_reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Weights:
    """`compared`: how many numbers; none where the layers are not the network's, one for one."""

    compared: int = 0
    worst_ulp: Number | None = None
    first_difference: str | None = None


@dataclass(frozen=True, config=STRICT)
class GraphReport:
    """`operations`: how many were compared. `first_difference` names the first that is not as it should be; None if all are."""

    operations: int
    first_difference: str | None = None


@dataclass(frozen=True, config=STRICT)
class MixedStep:
    """What an export measured with one more `place` kept in float32, empty for none: dB, percentage points, one image's time."""

    place: str
    sqnr_db: Number
    accuracy_drop: Number | None = None
    milliseconds: Positive | None = None


@dataclass(frozen=True, config=STRICT)
class FurtherOutput:
    """An output beside the logits against the float64 network's value at its place; the worst over the batch sizes.

    `noise_ratio`: in units of the rounding error there. `expected_sqnr_db`: of codes, what the file's own quantized graph gives.
    """

    name: str
    noise_ratio: Number | None = None
    sqnr_db: Number | None = None
    expected_sqnr_db: Number | None = None
    max_abs: Number | None = None
    reason: str | None = None
    null_reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class SizeResult:
    """The outputs for images of another size (height, width) than usual, of an artifact that takes any."""

    image_size: tuple[int, int]
    reference: str | None = None
    noise_ratio: Number | None = None
    max_abs: Number | None = None
    sqnr_db: Number | None = None
    top1_agreement: Number | None = None
    further_outputs: tuple[FurtherOutput, ...] = ()
    reason: str | None = None
    null_reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class VerifyCandidate:
    """An artifact as one runtime runs it, and its verdict."""

    artifact: str
    backend: str
    precision: str
    status: Verdict
    reason: str | None = None
    computed_precision: str | None = None
    reference: str | None = None
    batch_sizes: tuple[int, ...] = ()
    coverage: Coverage | None = None
    notices: tuple[str, ...] = ()
    weights: Weights | None = None
    graph: GraphReport | None = None
    noise_ratio: Number | None = None
    max_abs: Number | None = None
    max_rel: Number | None = None
    cosine: Number | None = None
    sqnr_db: Number | None = None
    top1_agreement: Number | None = None
    further_outputs: tuple[FurtherOutput, ...] = ()
    other_sizes: tuple[SizeResult, ...] = ()
    decisions: Decisions | None = None
    first_divergence: str | None = None
    localisation: tuple[Place, ...] | None = None
    steps: tuple[MixedStep, ...] = ()
    null_reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class VerifyReport(Report):
    """`passed`: at least one candidate passed and none failed."""

    kind: ClassVar[str] = "verify"

    candidates: tuple[VerifyCandidate, ...]
    passed: bool
    settings: dict[str, Any] = field(default_factory=dict)
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Latency:
    """Milliseconds. A percentile for which there are too few samples is None. `p50_ci95` is a 95 % confidence interval."""

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

    def in_words(self) -> str:
        """What the median is."""
        bounds = self.interval
        return "median" if bounds is None else f"median; 95 % interval {bounds[0]:.2f} to {bounds[1]:.2f}"


@dataclass(frozen=True, config=STRICT)
class Speedup:
    """How many times as fast as the baseline; a tie if the interval holds 1."""

    p50: Number
    ci95: Interval
    tie: bool | None = None

    @property
    def is_tie(self) -> bool:
        return self.ci95[0] <= 1 <= self.ci95[1] if self.tie is None else self.tie


@dataclass(frozen=True, config=STRICT)
class Parity:
    """The verdict of `verify` on a candidate. The drop is in percentage points, None where the classes are unknown."""

    status: Verdict
    noise_ratio: Number | None = None
    sqnr_db: Number | None = None
    reason: str | None = None
    accuracy_drop_points: Number | None = None


@dataclass(frozen=True, config=STRICT)
class Response:
    """Milliseconds from a request's arrival to its logits."""

    p50: Number | None = None
    p90: Number | None = None
    p99: Number | None = None
    p999: Number | None = None


@dataclass(frozen=True, config=STRICT)
class Trial:
    """One rate that the search for the highest one tried."""

    rate_per_s: Number
    p99_ms: Number | None
    held: bool


@dataclass(frozen=True, config=STRICT)
class Server:
    """Requests that came at random (Poisson) to one server. `utilisation` is the share of the time in which it worked.

    `highest_rate_per_s` is 0 where no rate that was tried holds the limit, and None where no limit was given.
    """

    rate_per_s: Number
    offered: int | None = None
    completed: int | None = None
    utilisation: Number | None = None
    response_ms: Response = field(default_factory=Response)
    highest_rate_per_s: Number | None = None
    p99_limit_ms: Number | None = None
    trials: tuple[Trial, ...] = ()
    null_reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Timing:
    p50: Number | None = None
    samples: tuple[Number, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Cold:
    """Milliseconds in fresh processes: from a file to a session, and its first inference."""

    load_ms: Timing
    first_inference_ms: Timing


@dataclass(frozen=True, config=STRICT)
class Subject:
    """Which candidate a measurement is of. `baseline` is the artifact that it is compared with, None for a baseline itself."""

    artifact: str
    backend: str
    precision: str
    device: str
    threads: int
    arch: str | None = None
    depth: int | None = None
    image_size: int | tuple[int, int] | None = None
    peer: bool = False
    baseline: str | None = None
    size_bytes: int | None = None
    macs: int | None = None
    """Multiply-accumulates of one image."""
    parity: Parity | None = None

    @property
    def is_baseline(self) -> bool:
        """What the others' speed-ups are against."""
        return self.backend == "eager" and self.baseline is None and not self.peer

    def result(self, mode: str, batch: int, status: BenchStatus, reason: str | None = None, **found: Any) -> BenchResult:
        """A measurement of it."""
        own = {entry.name: getattr(self, entry.name) for entry in fields(Subject)}
        return BenchResult(**own, mode=mode, batch=batch, status=status, reason=reason, **found)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class BenchResult(Subject):
    """One candidate in one mode at one batch size. `gflops` counts an addition and a multiplication each.

    `samples` are milliseconds by turn; of a server the response times, of cold starts the whole of each. `bytes`: weights and
    activations of one batch, each moved once. `notices`: what is to be said of how it ran.
    """

    mode: str = "latency"
    batch: Annotated[int, Field(ge=1)]
    status: BenchStatus
    reason: str | None = None
    notices: tuple[str, ...] = ()
    samples: tuple[tuple[Number, ...], ...] | tuple[Number, ...] | None = None
    latency_ms: Latency | None = None
    device_ms: Number | None = None
    copy_ms: Number | None = None
    throughput: Number | None = None
    memory_mb: Number | None = None
    gflops: Number | None = None
    peak_fraction: Number | None = None
    speedup: Speedup | None = None
    stable: bool | None = None
    bytes: int | None = None
    arithmetic_intensity: Positive | None = None
    server: Server | None = None
    cold: Cold | None = None
    null_reasons: Reasons = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        return self.latency_ms is not None or self.server is not None or self.cold is not None

    @property
    def turns(self) -> tuple[tuple[float, ...], ...]:
        """Samples in their turns; none where they have none."""
        return tuple(turn for turn in self.samples or () if isinstance(turn, tuple))


@dataclass(frozen=True, config=STRICT)
class Limit:
    """What the machine does at most: 10⁹ additions and multiplications a second, by which kernel, and bytes from memory."""

    precision: str
    threads: int
    gflops: Positive
    kernel: str | None = None
    bandwidth_gb_s: Positive | None = None


@dataclass(frozen=True, config=STRICT)
class Recommendation:
    """The fastest that passes, in one sentence."""

    artifact: str
    backend: str
    precision: str
    batch: int
    threads: int
    sentence: str
    speedup: Number | None = None
    accuracy_drop_points: Number | None = None


@dataclass(frozen=True, config=STRICT)
class BenchReport(Report):
    kind: ClassVar[str] = "bench"

    results: tuple[BenchResult, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    limits: tuple[Limit, ...] | None = None
    recommendation: Recommendation | None = None
    null_reasons: Reasons = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether anything but a baseline was measured."""
        return any(result.status not in ("skipped", "oom") and result.baseline is not None for result in self.results)


@dataclass(frozen=True, config=STRICT)
class ClassResult:
    """A class: how many images it has, how many were taken for it, and how many of these rightly. Percent, with Wilson intervals.

    `recall` is null without images, `precision` where no image was taken for it.
    """

    number: Annotated[Count, Field(alias="class")]
    label: str
    images: Count
    predicted: Count
    right: Count
    recall: Number | None = None
    recall_ci95: Interval | None = None
    precision: Number | None = None
    precision_ci95: Interval | None = None


@dataclass(frozen=True, config=STRICT)
class Confusion:
    """So many images of one class that were taken for another; classes by their numbers."""

    actual: Count
    predicted: Count
    images: Count


@dataclass(frozen=True, config=STRICT)
class Confusions:
    """`pairs`: how many different ones there are; `listed`: the most frequent first."""

    pairs: Count
    listed: tuple[Confusion, ...] = ()


@dataclass(frozen=True, config=STRICT)
class CalibrationBin:
    """Images whose confidence lies above `low` and up to `high`: their mean confidence, and the share that is right."""

    low: Fraction
    high: Fraction
    images: Count
    confidence: Fraction
    accuracy: Fraction
    accuracy_ci95: tuple[Fraction, Fraction] | None = None


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """`ece`: the expected calibration error, from 0 to 1; bins without images are left out."""

    ece: Fraction
    bins: tuple[CalibrationBin, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Mistake:
    """An image by its place among the images, and its file in the folder of the data (null where it is none)."""

    image: Count
    actual: Count
    predicted: Count
    confidence: Fraction
    file: str | None = None
    thumbnail: Thumbnail | None = None


@dataclass(frozen=True, config=STRICT)
class ClassChange:
    """A class's recall in percent, in the reference and here; `p` is McNemar's, `p_holm` corrected for the number of classes."""

    number: Annotated[Count, Field(alias="class")]
    images: Count
    reference: Number
    candidate: Number
    only_reference_right: Count
    only_candidate_right: Count
    p: Fraction
    p_holm: Fraction

    @property
    def told(self) -> bool:
        """Whether chance does not explain it."""
        return self.p_holm <= SIGNIFICANT


@dataclass(frozen=True, config=STRICT)
class ClassChanges:
    """Beside which file by which backend, over the same images. `least_images`: of one class, all lost, that would be told.

    `listed`: every class with an image that only one of the two tells, the least likely by chance first.
    """

    artifact: str
    backend: str
    classes: Count
    least_images: Count
    largest_class: Count
    listed: tuple[ClassChange, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Evaluated:
    """Accuracies in percent, each with its Wilson interval. `without_class`: images with a logit that is NaN."""

    artifact: str
    backend: str
    status: Literal["ok", "skipped"]
    reason: str | None = None
    computed_precision: str | None = None
    images: int | None = None
    top1: Number | None = None
    top1_ci95: Interval | None = None
    top5: Number | None = None
    top5_ci95: Interval | None = None
    loss: Number | None = None
    without_class: Count | None = None
    calibration: Calibration | None = None
    classes: tuple[ClassResult, ...] | None = None
    confusions: Confusions | None = None
    mistakes: tuple[Mistake, ...] | None = None
    changes: ClassChanges | None = None
    null_reasons: Reasons = field(default_factory=dict)

    def label(self, number: int) -> str:
        """What a class is called."""
        return self._labels.get(number, str(number))

    @cached_property
    def _labels(self) -> dict[int, str]:
        return {one.number: one.label for one in self.classes or ()}


@dataclass(frozen=True, config=STRICT)
class EvalReport(Report):
    kind: ClassVar[str] = "eval"

    results: tuple[Evaluated, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def first_of_each_file(self) -> list[Evaluated]:
        """Those whose classes are shown: other backends compute the same file."""
        found = {one.artifact: one for one in reversed(self.results) if one.classes}
        return [one for one in self.results if found.get(one.artifact) is one]


@dataclass(frozen=True, config=STRICT)
class Epoch:
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


@dataclass(frozen=True, config=STRICT)
class TrainedNetwork:
    arch: str
    depth: int
    num_classes: int | None = None
    image_size: int | tuple[int, int] | None = None


@dataclass(frozen=True, config=STRICT)
class Best:
    epoch: int
    val_acc1: Number


@dataclass(frozen=True, config=STRICT)
class TrainReport(Report):
    """What training leaves in its folder; it writes it by itself, below this package."""

    kind: ClassVar[str] = "train"

    network: TrainedNetwork
    epochs: tuple[Epoch, ...]
    status: Literal["running", "done", "preempted", "failed"]
    settings: dict[str, Any] = field(default_factory=dict)
    best: Best | None = None


@dataclass(frozen=True, config=STRICT)
class ClassProbability:
    """A class by its number, its label (the number again, where classes have no names), and its probability."""

    number: Annotated[int, Field(serialization_alias="class")]
    label: str
    probability: Number


@dataclass(frozen=True, config=STRICT)
class ImagePrediction:
    """The likeliest classes of an image, the likeliest first; none where it is unreadable, and `reason` says why."""

    file: str
    status: Literal["ok", "unreadable"]
    reason: str | None = None
    top: tuple[ClassProbability, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a report has it."""
        found: dict[str, Any] = adapter(type(self)).dump_python(self, mode="json", by_alias=True)
        return found


@dataclass(frozen=True, config=STRICT)
class PredictReport(Report):
    """What an artifact says of images, in the order in which they were named and found."""

    kind: ClassVar[str] = "predict"

    settings: dict[str, Any]
    artifact: str
    backend: str
    computed_precision: str
    results: tuple[ImagePrediction, ...]


Direction = Literal["export", "run", "train"]
Answer = Literal["yes", "untried", "no"]
"""`untried`: all that it needs is here, and trying it would take minutes."""


@dataclass(frozen=True, config=STRICT)
class Finding:
    """One thing that might be done. `remedy` is a command where there is one, else a step."""

    backend: str
    direction: Direction
    device: str
    answer: Answer
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, config=STRICT)
class Component:
    """A piece of the stack; `version` is None where it is not here, and `note` says more."""

    name: str
    version: str | None
    note: str | None = None


@dataclass(frozen=True, config=STRICT)
class EngineFile:
    """What a plan in a folder would do here."""

    file: str
    answer: Answer
    says: str


@dataclass(frozen=True, config=STRICT)
class DoctorReport(Report):
    """`usable`: whether at least one format can be both exported and run here."""

    kind: ClassVar[str] = "doctor"

    usable: bool
    findings: tuple[Finding, ...]
    components: tuple[Component, ...]
    engines: tuple[EngineFile, ...]


AnyReport = VerifyReport | BenchReport | EvalReport | TrainReport
KINDS: dict[str, type[AnyReport]] = {kind.kind: kind for kind in (VerifyReport, BenchReport, EvalReport, TrainReport)}
"""What `report` reads."""
