"""What an artifact's outputs are held against, for each precision: nothing is guessed, all follows from the network itself.

float32: the noise floor of the reference. float16 and bfloat16: the same, of PyTorch's own eager network with the same folded, cast
weights. TF32: the same, of the folded network with the numbers of its products rounded. int8 and fp8 have no rounding error to go
by: there it is the signal-to-noise ratio and the decisions of the quantized graph that the checkpoint gives, evaluated over the
same images, and those which calibration predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import Quantization
from iresnet_export.quantization.cost import chance_of_fewer
from iresnet_export.system.progress import Progress
from iresnet_export.verification.calibrated import unlike_calibration
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.reference import Reference, in_batches, rms
from iresnet_export.verification.tf32 import with_tf32
from iresnet_models.preprocessing import normalised

NOISE_LIMIT = 2.5
"""Float32 backends stay within 1 noise floor at depths 18 to 1001, Winograd within 1.24; TF32 begins at 158 (docs/parity.md)."""

SQNR_MARGIN_DB = 3.0
"""Codes may cost this much more than expected: by ties between codes, and beside what chance alone makes of other images."""

LEAST_SQNR_DB = 5.0
"""Below it the noise is more than half of the signal, whatever was expected."""

CHANCE = 1e-4
"""Agreement below what is expected fails where chance alone would give it more rarely than this."""

_HALF_IMAGES = 8
"""Half precision is slow on a CPU."""

_EVALUATED_BATCH = 8


@dataclass(frozen=True)
class Expectation:
    """What codes should cost, and who says so: signal to noise of the logits, and the same first class for so many of `images`.

    `interval_db`: how far other images of the same kind may lie off, at 95 %; None for what was measured with the very images that
    are compared. `explained`: why they cost more, if that can be told.
    """

    by: str
    sqnr_db: float
    agreeing: int
    images: int
    interval_db: float | None = None
    explained: Callable[[], str | None] = lambda: None

    @classmethod
    def by_calibration(cls, told: Quantization, explained: Callable[[], str | None] = lambda: None) -> Expectation:
        """What a manifest records. It narrows what passes, and never widens it."""
        agreeing = round(told.predicted_agreement * told.compared)
        said = f"was predicted from {told.compared} held-out image{'s' if told.compared > 1 else ''}"
        return cls(said, told.predicted_sqnr_db, agreeing, told.compared, told.predicted_interval_db, explained)

    def least_sqnr_db(self, interval_db: float = 0.0) -> float:
        """What passes, if the images that are compared have such an interval of their own."""
        chance = 0.0 if self.interval_db is None else math.hypot(self.interval_db, interval_db)
        return self.sqnr_db - SQNR_MARGIN_DB - chance

    @classmethod
    def by_evaluation(cls, deployment: Deployment, reference: Reference, progress: Progress) -> Expectation:
        """Of the graph that the checkpoint and the manifest's ranges give, computed by torch over the reference's images."""
        from iresnet_export.backends.onnx.interpreter import OnnxGraph

        graph, pixels, spec = OnnxGraph(deployment.quantized_model), reference.pixels, reference.source.spec
        found = []
        for start in range(0, len(pixels), _EVALUATED_BATCH):
            progress("Evaluating the quantized graph", start / len(pixels))
            batch = pixels[start : start + _EVALUATED_BATCH]
            found.append(graph.run(batch if deployment.with_preprocessing else normalised(batch, spec)).double().numpy())
        logits = np.concatenate(found)
        error, signal = rms(logits - reference.logits), rms(reference.logits)
        usable = math.isfinite(error) and signal > 0
        sqnr = 20 * math.log10(signal / max(error, 1e-300)) if usable else -math.inf
        return cls(
            "its own quantized graph does over these images",
            sqnr,
            int((logits.argmax(1) == reference.logits.argmax(1)).sum()),
            len(pixels),
        )


@dataclass(frozen=True)
class Criterion:
    """`images`: how many of the reference's are compared. `noise_floor` (in units of the logits) or `expectations` are given.

    With `max_accuracy_drop`, in percentage points, the decisions on all of the reference's images count.
    """

    precision: str
    images: int
    noise_floor: float | None = None
    expectations: tuple[Expectation, ...] = ()
    max_accuracy_drop: float | None = None
    least_sqnr_db: float = LEAST_SQNR_DB
    """Asked of codes whatever was expected."""

    def rounding(self, logits: Array) -> float:
        """The largest root-mean-square error, over these logits of the reference, that passes as the precision's own."""
        if self.expectations:
            least = max(self.least_sqnr_db, *(expected.least_sqnr_db() for expected in self.expectations))
            return rms(logits) * float(10 ** (-least / 20))
        return NOISE_LIMIT * (self.noise_floor or 0.0)

    def reason(
        self, noise_ratio: float | None, sqnr_db: float | None, top1_agreement: float, interval_db: float = 0.0
    ) -> str | None:
        """Why outputs with these figures are unacceptable, if they are. `interval_db`: of `sqnr_db`, over other such images."""
        if self.expectations:
            return self._quantized_reason(sqnr_db, round(top1_agreement * self.images), interval_db)
        if noise_ratio is not None and noise_ratio <= NOISE_LIMIT:
            return None if sqnr_db is None or sqnr_db >= LEAST_SQNR_DB else self._of_noise(sqnr_db)
        return (
            f"the outputs differ from the float64 network by {noise_ratio:.3g} times its own {self.precision} rounding error; "
            f"up to {NOISE_LIMIT} is rounding"
        )

    def _quantized_reason(self, sqnr_db: float | None, agreeing: int, interval_db: float) -> str | None:
        """`sqnr_db` is None where there is no error at all."""
        for expected in self.expectations:
            least, found = expected.least_sqnr_db(interval_db), None
            if sqnr_db is not None and sqnr_db < least:
                found = (
                    f"{self.precision} costs more than {expected.by}: signal to noise is {sqnr_db:.1f} dB against "
                    f"{expected.sqnr_db:.1f} dB, and at least {least:.1f} dB passes"
                )
            elif chance_of_fewer(agreeing, self.images, expected.agreeing, expected.images) < CHANCE:
                found = (
                    f"{self.precision} decides otherwise than {expected.by}: the first class agrees for {agreeing} of "
                    f"{self.images} images, against {expected.agreeing} of {expected.images}"
                )
            if found is not None:
                why = expected.explained()
                return found if why is None else f"{found}; {why}"
        return self._of_noise(sqnr_db) if sqnr_db is not None and sqnr_db < self.least_sqnr_db else None

    def _of_noise(self, sqnr_db: float) -> str:
        return (
            f"{self.precision} costs too much, whatever was expected: signal to noise is {sqnr_db:.1f} dB, and at least "
            f"{LEAST_SQNR_DB:g} dB is asked for"
        )


def criterion_for(
    precision: str, deployment: Deployment, reference: Reference, batch_sizes: Sequence[int], progress: Progress
) -> Criterion:
    """What the outputs of an artifact of this precision are held against."""
    if precision == "fp32":
        return Criterion(precision, len(reference.pixels), noise_floor=reference.noise_floor)
    if deployment.quantization is not None:
        expectations = (
            Expectation.by_evaluation(deployment, reference, progress),
            Expectation.by_calibration(deployment.quantization, partial(unlike_calibration, deployment, reference)),
        )
        return Criterion(precision, len(reference.pixels), expectations=expectations)
    pixels = reference.pixels[:_HALF_IMAGES]
    network, with_preprocessing = deployment.network, deployment.with_preprocessing
    images = pixels if with_preprocessing else normalised(pixels, reference.source.spec)
    exact = reference.logits[: len(pixels)]
    floor = 2.0**-24 * rms(exact)

    form: torch.nn.Module = with_tf32(network) if precision == "tf32" else network

    def run(batch: torch.Tensor) -> torch.Tensor:
        found = form(batch)
        logits: torch.Tensor = found if isinstance(found, torch.Tensor) else found[0]
        return logits

    sizes = sorted({min(size, len(pixels)) for size in batch_sizes})
    for step, size in enumerate(sizes):
        progress(f"Noise floor of {precision}", step / len(sizes))
        floor = max(floor, rms(in_batches(run, images, size).numpy() - exact))
    return Criterion(precision, len(pixels), noise_floor=floor)
