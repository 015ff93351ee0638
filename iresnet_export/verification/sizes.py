"""Artifacts whose images may have any size: their outputs at a smallest, and at a larger size that is no square."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import Session
from iresnet_export.reporting.schemas import FurtherOutput, SizeResult
from iresnet_export.system.progress import Progress
from iresnet_export.verification.criteria import Expectation, criterion_for
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.further import compare_further, expected_outputs
from iresnet_export.verification.outputs import compare_outputs
from iresnet_export.verification.reference import Reference
from iresnet_models.outputs import OutputName
from iresnet_models.spec import NetworkSpec


def other_sides(spec: NetworkSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """Beside the usual one: the smallest size, and one that is higher than usual, and wider still by an odd number of pixels."""
    least, most = spec.free_sides
    return (least, least), (min(most, 5 * spec.height // 4), min(most, 3 * spec.width // 2 + 1))


def calibrated_elsewhere(deployment: Deployment, found: Sequence[SizeResult]) -> str | None:
    """What is to be said of codes at sizes that their ranges were not measured at; None where there are none."""
    if deployment.quantization is None or not found:
        return None
    figures = (("none" if one.sqnr_db is None else f"{one.sqnr_db:.1f} dB", one.image_size) for one in found)
    said = ", ".join(f"{noise} at {height} x {width}" for noise, (height, width) in figures)
    return f"ranges were measured at {deployment.source.spec.size_in_words} pixels: signal to noise is {said}"


def compare_sizes(
    session: Session,
    told: Sequence[OutputName],
    deployment: Deployment,
    reference_of: Callable[[Source], Reference],
    computed: str,
    batch_sizes: Sequence[int],
    progress: Progress,
) -> Iterator[SizeResult]:
    """The outputs of a session at its other sizes, each held against float64 at that size as they are at the usual one.

    `told`: what it gives, the logits first. Of codes, whose ranges were measured at the usual size, nothing was predicted there:
    they are held against their own quantized graph, and against the least that any codes have to give.
    """
    for sides in other_sides(deployment.source.spec):
        source = dataclasses.replace(deployment.source, spec=deployment.source.spec.with_image_size(sides))
        reference = reference_of(source)
        criterion = criterion_for(computed, deployment, reference, batch_sizes, progress)
        if deployment.quantization is not None:
            evaluated: tuple[Expectation, ...] = criterion.expectations[:1]
            criterion = dataclasses.replace(criterion, expectations=evaluated)
        found = compare_outputs(session, reference, criterion, batch_sizes, progress)
        further = tuple[FurtherOutput, ...]()
        if found.reason is None and len(told) > 1:
            expected = expected_outputs(told[1:], deployment, reference, computed, batch_sizes, progress)
            further = compare_further(session, told, expected, batch_sizes, progress)
        wrong = [text for text in (found.reason, *(output.reason for output in further)) if text]
        reason = f"for images of {source.spec.size_in_words} pixels: {'; '.join(wrong)}" if wrong else None
        figures = {name: getattr(found, name) for name in ("noise_ratio", "sqnr_db", "max_abs", "top1_agreement")}
        if found.decisions is None:  # nothing could be compared
            figures = dict.fromkeys(figures)
        nulls = dict.fromkeys(figures, reason or "codes have no noise floor, and what is exact has no signal to noise")
        yield SizeResult(
            image_size=sides,
            reference=reference.id,
            **figures,
            further_outputs=further,
            reason=reason,
            null_reasons={name: why for name, why in nulls.items() if figures[name] is None},
        )
