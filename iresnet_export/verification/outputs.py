"""An artifact's outputs against the reference, in units of the noise floor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from iresnet_export.backends.base import Progress, Session
from iresnet_export.layers import Array
from iresnet_export.verification.reference import Reference, in_batches, rms

NOISE_LIMIT = 2.5
"""Honest float32 backends stay below 1.9 noise floors at every depth, scale and data set; TF32 begins at 197."""


@dataclass(frozen=True)
class OutputsReport:
    """How far outputs are from float64; the worst over the batch sizes.

    `noise_ratio`: root-mean-square error over all images and logits, in noise floors. `max_abs`: largest difference of a
    logit; `max_rel`: the same over the largest reference logit. `cosine`: smallest over the images. `sqnr_db`: signal to
    error. `top1_agreement`: share of images with the same first class. `reason` says why they are unacceptable, if they are.
    """

    batch_sizes: tuple[int, ...]
    noise_ratio: float
    max_abs: float
    max_rel: float
    cosine: float
    sqnr_db: float | None
    top1_agreement: float
    reason: str | None


def usable_batch_sizes(session: Session, wanted: Sequence[int]) -> tuple[int, ...]:
    """Those of the wanted batch sizes that a session takes, or else its own largest one."""
    if session.batch is None:
        return tuple(wanted)
    smallest, largest = session.batch
    return tuple(size for size in wanted if smallest <= size <= largest) or (largest,)


def compare_outputs(session: Session, reference: Reference, batch_sizes: Sequence[int], progress: Progress) -> OutputsReport:
    """Runs the session over the reference's images at every batch size that it takes."""
    sizes = usable_batch_sizes(session, batch_sizes)
    images = reference.images.to(session.device)
    reports = []
    for step, size in enumerate(sizes):
        progress(f"Outputs at batch {size}", step / len(sizes))
        found = in_batches(session.run, images, size).cpu().numpy()
        if found.shape != reference.logits.shape:
            return _unusable(sizes, f"at batch {size} the outputs have the shape {found.shape} and not {reference.logits.shape}")
        if not np.isfinite(found).all():
            return _unusable(sizes, f"at batch {size} the outputs hold NaN or infinite values")
        reports.append(_report(sizes, size, found.astype(np.float64), reference))
    progress("Outputs", 1.0)
    return max(reports, key=lambda report: report.noise_ratio)


def _report(sizes: tuple[int, ...], size: int, found: Array, reference: Reference) -> OutputsReport:
    wanted = reference.logits
    error = found - wanted
    ratio = rms(error) / reference.noise_floor
    worst = float(np.abs(error).max())
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = np.sum(found * wanted, axis=1) / np.where(lengths == 0, 1, lengths)
    reason = None
    if ratio > NOISE_LIMIT:
        reason = (
            f"at batch {size} the outputs differ from the float64 network by {ratio:.3g} times its own float32 rounding error; "
            f"up to {NOISE_LIMIT} is rounding"
        )
    return OutputsReport(
        batch_sizes=sizes,
        noise_ratio=ratio,
        max_abs=worst,
        max_rel=worst / max(float(np.abs(wanted).max()), np.finfo(np.float64).tiny),
        cosine=float(cosine.min()),
        sqnr_db=20 * math.log10(rms(wanted) / rms(error)) if rms(error) > 0 and rms(wanted) > 0 else None,
        top1_agreement=float(np.mean(found.argmax(1) == wanted.argmax(1))),
        reason=reason,
    )


def _unusable(sizes: tuple[int, ...], reason: str) -> OutputsReport:
    nothing = float("nan")
    return OutputsReport(sizes, nothing, nothing, nothing, nothing, None, nothing, reason)
