"""What an artifact's outputs are held against, for each precision: nothing is guessed, all follows from the network itself.

float32: the noise floor of the reference. float16 and bfloat16: the same, of PyTorch's own eager network with the same folded, cast
weights. TF32: the same, of the folded network with the numbers of its products rounded. int8 and fp8 have no rounding error to go
by: there it is the signal-to-noise ratio and the decisions which calibration predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import Quantization
from iresnet_export.system.progress import Progress
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.reference import Reference, in_batches, rms
from iresnet_export.verification.tf32 import with_tf32
from iresnet_models.preprocessing import normalised

NOISE_LIMIT = 2.5
"""Float32 backends stay within 1 noise floor at depths 18 to 1001, Winograd within 1.24; TF32 begins at 158 (docs/parity.md)."""

SQNR_MARGIN_DB = 3.0
"""Held-out images may cost codes this much more than those they were calibrated with."""

CHANCE = 1e-4
"""Agreement below what calibration predicted fails where chance alone would give it more rarely than this."""

_HALF_IMAGES = 8
"""Half precision is slow on a CPU."""


@dataclass(frozen=True)
class Criterion:
    """`images`: how many of the reference's are compared. `noise_floor` (in units of the logits) or `quantization` is given.

    With `max_accuracy_drop`, in percentage points, the decisions on all of the reference's images count.
    """

    precision: str
    images: int
    noise_floor: float | None = None
    quantization: Quantization | None = None
    max_accuracy_drop: float | None = None

    def rounding(self, logits: Array) -> float:
        """The largest root-mean-square error, over these logits of the reference, that passes as the precision's own."""
        if self.quantization is not None:
            return rms(logits) * float(10 ** ((SQNR_MARGIN_DB - self.quantization.predicted_sqnr_db) / 20))
        return NOISE_LIMIT * (self.noise_floor or 0.0)

    def reason(self, noise_ratio: float | None, sqnr_db: float | None, top1_agreement: float) -> str | None:
        """Why outputs with these figures are unacceptable, if they are."""
        if self.quantization is not None:
            return self._quantized_reason(self.quantization, sqnr_db, top1_agreement)
        if noise_ratio is not None and noise_ratio <= NOISE_LIMIT:
            return None
        return (
            f"the outputs differ from the float64 network by {noise_ratio:.3g} times its own {self.precision} rounding error; "
            f"up to {NOISE_LIMIT} is rounding"
        )

    def _quantized_reason(self, predicted: Quantization, sqnr_db: float | None, top1_agreement: float) -> str | None:
        if sqnr_db is not None and sqnr_db < predicted.predicted_sqnr_db - SQNR_MARGIN_DB:
            return (
                f"{self.precision} costs more than calibration predicted: signal to noise is {sqnr_db:.1f} dB, "
                f"{predicted.predicted_sqnr_db:.1f} dB were predicted, and {SQNR_MARGIN_DB:g} dB less is allowed"
            )
        seen, foreseen = round(top1_agreement * self.images), round(predicted.predicted_agreement * predicted.compared)
        if _chance_of_fewer(seen, self.images, foreseen, predicted.compared) < CHANCE:
            return (
                f"{self.precision} decides otherwise than calibration predicted: the first class agrees for {seen} of "
                f"{self.images} images, and it did for {foreseen} of {predicted.compared}"
            )
        return None


def _chance_of_fewer(seen: int, images: int, foreseen: int, compared: int) -> float:
    """The chance of so few agreements if both samples are of one kind: Fisher's exact test, one-sided."""
    from scipy.stats import hypergeom

    return float(hypergeom.cdf(seen, images + compared, seen + foreseen, images))


def criterion_for(
    precision: str, deployment: Deployment, reference: Reference, batch_sizes: Sequence[int], progress: Progress
) -> Criterion:
    """What the outputs of an artifact of this precision are held against."""
    if precision == "fp32":
        return Criterion(precision, len(reference.pixels), noise_floor=reference.noise_floor)
    if deployment.quantization is not None:
        return Criterion(precision, len(reference.pixels), quantization=deployment.quantization)
    pixels = reference.pixels[:_HALF_IMAGES]
    network, with_preprocessing = deployment.network, deployment.with_preprocessing
    images = pixels if with_preprocessing else normalised(pixels, reference.source.spec)
    exact = reference.logits[: len(pixels)]
    floor = 2.0**-24 * rms(exact)

    form: torch.nn.Module = with_tf32(network) if precision == "tf32" else network

    def run(batch: torch.Tensor) -> torch.Tensor:
        found = form(batch)
        logits: torch.Tensor = found[0] if with_preprocessing else found
        return logits

    sizes = sorted({min(size, len(pixels)) for size in batch_sizes})
    for step, size in enumerate(sizes):
        progress(f"Noise floor of {precision}", step / len(sizes))
        floor = max(floor, rms(in_batches(run, images, size).numpy() - exact))
    return Criterion(precision, len(pixels), noise_floor=floor)
