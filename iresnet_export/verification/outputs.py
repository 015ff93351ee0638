"""An artifact's outputs against the reference, in units of the noise floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax
from torch import Tensor

from iresnet_export.artifacts.manifest import Manifest
from iresnet_export.backends.base import Session, usable_batch_sizes
from iresnet_export.errors import UnavailableError
from iresnet_export.graph.ir import Array
from iresnet_export.quantization.cost import sqnr_interval_db
from iresnet_export.system.progress import Progress
from iresnet_export.verification.criteria import Criterion
from iresnet_export.verification.decisions import Decisions, compare_decisions
from iresnet_export.verification.foreign import other_outputs
from iresnet_export.verification.reference import Reference, filled, in_batches, rms
from iresnet_models.outputs import OF_ANY_NETWORK, PROBABILITIES

_PROBABILITY = 1e-4
"""float32 rounds the softmax of logits up to 100 by 1e-5."""
_TELLING = ("onnx", "pt2")
"""Formats whose sessions know of any fixed batch."""


@dataclass(frozen=True)
class OutputsReport:
    """How far outputs are from float64; the worst over the batch sizes.

    `rms_error`: root-mean-square error over all images and logits; `noise_ratio`: the same in noise floors, None where codes have
    none. `max_abs`: largest difference of a logit; `max_rel`: the same over the largest reference logit. `cosine`: smallest over
    the images. `sqnr_db`: signal to error. `top1_agreement`: share of images with the same first class. `decisions`: what
    the difference means, None where the outputs are unusable. `reason` says why they are unacceptable, if they are.
    """

    batch_sizes: tuple[int, ...]
    rms_error: float
    noise_ratio: float | None
    max_abs: float
    max_rel: float
    cosine: float
    sqnr_db: float | None
    top1_agreement: float
    reason: str | None
    decisions: Decisions | None = None


def interface_reason(
    session: Session,
    reference: Reference,
    manifest: Manifest | None,
    told: Sequence[str] | None,
    batch_sizes: Sequence[int],
    *,
    is_rebuilt: bool,
) -> str | None:
    """What a session takes or gives that is not as its manifest says: batches, names and number of outputs, probabilities.

    `told`: its outputs by its manifest, or by what it says of itself; None where nothing is said. Of a file that `is_rebuilt`,
    whose outputs are known, the smallest batch is run, unless there are probabilities to look at.
    """
    if manifest is not None and manifest.batch != session.batch and (session.batch is not None or manifest.format in _TELLING):
        return f"it takes batches of {_range(session.batch)}, and the manifest says of {_range(manifest.batch)}"
    if told is None:
        return None
    order = list(told if session.outputs is None else session.outputs)
    in_order = sorted if manifest is not None and manifest.format == "engine" else list  # engines are read by names alone
    if in_order(order) != in_order(told):
        return f"it gives {', '.join(order)}, and not {', '.join(told)}"
    sizes, has_probabilities = usable_batch_sizes(session, batch_sizes), PROBABILITIES in told
    largest = min(max(sizes), max(len(reference.pixels), (session.batch or (1, 1))[0]))
    size = min(sizes) if is_rebuilt and not has_probabilities else largest
    batch = session.batch_of(filled(reference.pixels[:size], size), reference.source.spec)
    found = session.all_outputs(batch)
    if found is None:
        return None
    if len(found) != len(told):
        return f"it gives {len(found)} outputs and not {len(told)}"
    if not has_probabilities:
        return None
    logits, probabilities = (found[order.index(name)].cpu().double().numpy() for name in OF_ANY_NETWORK)
    error = np.abs(probabilities - softmax(logits, axis=1)).max() if probabilities.shape == logits.shape else math.inf
    if error <= _PROBABILITY:
        return None
    return f"its probabilities are not the softmax of its logits: they differ by up to {error:.2g}"


def not_compared(session: Session, reference: Reference, batch_sizes: Sequence[int]) -> str | None:
    """What is to be said of outputs beside the first, of which nothing says what they should be; None where there are none."""
    size = min(usable_batch_sizes(session, batch_sizes))
    given = session.all_outputs(session.batch_of(filled(reference.pixels[:size], size), reference.source.spec))
    if given is None or len(given) == 1:
        return None
    names = "" if session.outputs is None else f" ({', '.join(session.outputs[1:])})"
    others = f"{len(given) - 1} other{'s' if len(given) > 2 else ''}{names}"
    return f"only its first output was compared: it gives {others}, and nothing says what of the network"


def _range(batch: tuple[int, int] | None) -> str:
    return "any size" if batch is None else str(batch[0]) if batch[0] == batch[1] else f"{batch[0]} to {batch[1]}"


def compare_outputs(
    session: Session,
    reference: Reference,
    criterion: Criterion,
    batch_sizes: Sequence[int],
    progress: Progress,
    *,
    is_foreign: bool = False,
) -> OutputsReport:
    """Runs the session over the reference's images at every batch size that it takes.

    UnavailableError for outputs of others' artifacts that are right as far as can be seen, and no logits.
    """
    sizes = usable_batch_sizes(session, batch_sizes)
    count = criterion.images if criterion.max_accuracy_drop is None else len(reference.pixels)
    pixels, exact = reference.pixels[:count], reference.logits[:count]
    labels = None if reference.labels is None else reference.labels[:count]
    reports = []

    def run(batch: Tensor) -> Tensor:
        return session.run(session.batch_of(batch, reference.source.spec)).cpu()

    for step, size in enumerate(sizes):
        progress(f"Outputs at batch {size}", step / len(sizes))
        found = in_batches(run, pixels, size).numpy()
        if is_foreign and (unlike := other_outputs(found, exact)) is not None:
            raise UnavailableError(f"not comparable: {unlike}")
        if found.shape != exact.shape:
            return _unusable(sizes, f"at batch {size} the outputs have the shape {found.shape} and not {exact.shape}")
        if not np.isfinite(found).all():
            return _unusable(sizes, f"at batch {size} the outputs hold NaN or infinite values")
        reports.append(_report(sizes, size, found.astype(np.float64), exact, labels, criterion))
    progress("Outputs", 1.0)
    return max(reports, key=lambda report: (report.reason is not None, report.rms_error))


def _report(
    sizes: tuple[int, ...], size: int, found: Array, wanted: Array, labels: Array | None, criterion: Criterion
) -> OutputsReport:
    decisions = compare_decisions(found, wanted, criterion.rounding(wanted[: criterion.images]), labels)
    found, wanted = found[: criterion.images], wanted[: criterion.images]
    error = rms(found - wanted)
    ratio = None if criterion.noise_floor is None else error / criterion.noise_floor
    worst = float(np.abs(found - wanted).max())
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = np.sum(found * wanted, axis=1) / np.where(lengths == 0, 1, lengths)
    sqnr = 20 * math.log10(rms(wanted) / error) if error > 0 and rms(wanted) > 0 else None
    agreement = float(np.mean(found.argmax(1) == wanted.argmax(1)))
    reasons = [criterion.reason(ratio, sqnr, agreement, sqnr_interval_db(found, wanted))]
    if criterion.max_accuracy_drop is not None and decisions.accuracy is not None:
        reasons.append(decisions.accuracy.reason(criterion.max_accuracy_drop))
    reason = "; ".join(text for text in reasons if text)
    return OutputsReport(
        batch_sizes=sizes,
        rms_error=error,
        noise_ratio=ratio,
        max_abs=worst,
        max_rel=worst / max(float(np.abs(wanted).max()), np.finfo(np.float64).tiny),
        cosine=float(cosine.min()),
        sqnr_db=sqnr,
        top1_agreement=agreement,
        reason=f"at batch {size} {reason}" if reason else None,
        decisions=decisions,
    )


def _unusable(sizes: tuple[int, ...], reason: str) -> OutputsReport:
    nothing = float("nan")
    return OutputsReport(sizes, nothing, nothing, nothing, nothing, nothing, None, nothing, reason)
