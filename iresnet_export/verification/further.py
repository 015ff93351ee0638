"""Outputs beside the logits against the float64 network's value at their places, in units of the rounding error there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from iresnet_export.backends.base import Session, usable_batch_sizes
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.errors import ArtifactError
from iresnet_export.graph.ir import Array
from iresnet_export.reporting.schemas import MOST_RATIO, FurtherOutput
from iresnet_export.system.progress import Progress
from iresnet_export.verification.criteria import NOISE_LIMIT, SQNR_MARGIN_DB
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.reference import FORMS, Reference, filled, in_batches, looked_into, rms
from iresnet_export.verification.tf32 import with_tf32
from iresnet_models.deployed import values_of
from iresnet_models.outputs import OutputName
from iresnet_models.preprocessing import normalised
from iresnet_models.spec import NetworkSpec

_BATCH = 8


@dataclass(frozen=True)
class Expected:
    """The float64 network's `values` (images, numbers of all outputs behind each other), and what is rounding there.

    `shapes`: of each output, for one image. `floors`: the root-mean-square error of rounding alone, of each; `limits`: up to what
    it passes. `has_floor`: whether that is the rounding error of a floating-point type, and not what codes cost.
    """

    spec: NetworkSpec
    names: tuple[OutputName, ...]
    shapes: tuple[tuple[int, ...], ...]
    pixels: Tensor
    values: Array
    floors: tuple[float, ...]
    limits: tuple[float, ...]
    precision: str
    has_floor: bool

    def parts(self, values: Array) -> list[Array]:
        """Of values behind each other those of each output."""
        return _parts(values, self.shapes)


def expected_outputs(
    names: Sequence[OutputName],
    deployment: Deployment,
    reference: Reference,
    precision: str,
    batch_sizes: Sequence[int],
    progress: Progress,
) -> Expected:
    """What the outputs of these names should be over some of the reference's images, computed in `precision`."""
    source = reference.source
    pixels = reference.pixels[: looked_into(source.spec)]
    inputs = normalised(pixels, source.spec)
    with torch.inference_mode():
        shapes = tuple(tuple(value.shape[1:]) for value in values_of(source.network, inputs[:2], names))
    progress("Further outputs in float64", 0.0)
    exact = in_batches(_Flat(copy.deepcopy(source.network).double(), names), inputs.double(), _BATCH).numpy()
    sizes = sorted({min(size, len(pixels)) for size in batch_sizes})

    def errors(run: Callable[[int], Tensor], sizes: Sequence[int]) -> Array:
        found = [[rms(part) for part in _parts(run(size).numpy() - exact, shapes)] for size in sizes]
        worst: Array = np.max(found, axis=0)
        return worst

    progress("Rounding error of further outputs", 0.3)
    plain = _Flat(source.network, names)
    least = 2.0**-24 * np.array([rms(part) for part in _parts(exact, shapes)])
    if deployment.quantization is not None:
        # Where everything before a place stays in float32, that alone rounds there.
        floating = np.maximum(least, errors(lambda size: in_batches(plain, inputs, size), sizes[:1]))
        graph, batch = OnnxGraph(deployment.quantized_model), pixels if deployment.with_preprocessing else inputs
        order = [deployment.outputs.index(name) for name in names]

        def evaluated(images: Tensor) -> Tensor:
            found = graph.run_all(images)
            return torch.cat([found[number].flatten(1) for number in order], 1)

        floors = np.maximum(least, errors(lambda size: in_batches(evaluated, batch, size), [_BATCH]))
        limits = np.maximum(10 ** (SQNR_MARGIN_DB / 20) * floors, NOISE_LIMIT * floating)
    elif precision == "fp32":
        floors = np.max([least, *(errors(partial(form, plain, inputs), sizes) for form in FORMS)], axis=0)
        limits = NOISE_LIMIT * floors
    else:
        network = with_tf32(deployment.network) if precision == "tf32" else deployment.network
        own, batch = _Flat(network, names), pixels if deployment.with_preprocessing else inputs
        floors = np.maximum(least, errors(lambda size: in_batches(own, batch, size), sizes))
        limits = NOISE_LIMIT * floors
    progress("Rounding error of further outputs", 1.0)
    has_floor = deployment.quantization is None
    found = (tuple(map(float, floors)), tuple(map(float, limits)))
    return Expected(source.spec, tuple(names), shapes, pixels, exact, *found, precision, has_floor)


def compare_further(
    session: Session, told: Sequence[str], expected: Expected, batch_sizes: Sequence[int], progress: Progress
) -> tuple[FurtherOutput, ...]:
    """How far each output is from what it should be, the worst over the batch sizes.

    `told`: the names of all that the session gives, in order, if it has none for them. ArtifactError where its logits alone can
    be had.
    """
    sizes, names, order = usable_batch_sizes(session, batch_sizes), expected.names, session.outputs or told
    worst: dict[str, tuple[float, FurtherOutput]] = {}

    def run(batch: Tensor) -> tuple[Tensor, ...]:
        given = session.all_outputs(session.batch_of(batch, expected.spec))
        if given is None:
            raise ArtifactError("Its outputs beside the logits cannot be had here.")
        by_name = dict(zip(order, given, strict=True))
        return tuple(by_name[name].cpu().float() for name in names)

    for step, size in enumerate(sizes):
        progress(f"Further outputs at batch {size}", step / len(sizes))
        chunks = list[tuple[Tensor, ...]]()
        for start in range(0, len(expected.pixels), size):
            batch = expected.pixels[start : start + size]
            chunks.append(tuple(values[: len(batch)] for values in run(filled(batch, size))))
        for number, wanted in enumerate(expected.parts(expected.values)):
            found = torch.cat([chunk[number] for chunk in chunks])
            error, made = _compared(expected, number, found, wanted, size)
            if made.name not in worst or not error <= worst[made.name][0]:
                worst[made.name] = error, made
    progress("Further outputs", 1.0)
    return tuple(made for _, made in worst.values())


def _compared(expected: Expected, number: int, found: Tensor, wanted: Array, size: int) -> tuple[float, FurtherOutput]:
    """One output over all images, and its root-mean-square error."""
    name, shape = expected.names[number], expected.shapes[number]
    if tuple(found.shape) != (len(wanted), *shape):
        reason = f"its {name} has the shape {tuple(found.shape[1:])} for an image at batch {size}, and not {shape}"
    elif not bool(torch.isfinite(found).all()):
        reason = f"its {name} holds NaN or infinite values at batch {size}"
    else:
        return _measured(expected, number, found.flatten(1).double().numpy(), wanted, size)
    unmeasured = dict.fromkeys(("noise_ratio", "sqnr_db", "expected_sqnr_db", "max_abs"), reason)
    return math.inf, FurtherOutput(name=name, reason=reason, null_reasons=unmeasured)


def _measured(expected: Expected, number: int, found: Array, wanted: Array, size: int) -> tuple[float, FurtherOutput]:
    name, floor, limit = expected.names[number], expected.floors[number], expected.limits[number]
    error, ratio = rms(found - wanted), None
    sqnr, usual = _decibels(wanted, error), _decibels(wanted, floor)
    nulls = {} if sqnr is not None else {"sqnr_db": "there is no error at all, or nothing but zeros"}
    if expected.has_floor:
        ratio, usual = error / floor if floor else 0.0 if error == 0 else MOST_RATIO, None
        said = (
            f"its {name} differs from the float64 network by {ratio:.3g} times the {expected.precision} rounding error there at "
            f"batch {size}; up to {NOISE_LIMIT} is rounding"
        )
        nulls["expected_sqnr_db"] = f"{expected.precision} has a rounding error of its own: see noise_ratio"
    else:
        nulls["noise_ratio"] = f"{expected.precision} has no rounding error of its own to go by: see sqnr_db"
        if usual is None:
            nulls["expected_sqnr_db"] = "there is no error at all, or nothing but zeros"
        said = (
            f"its {name} costs more than its own quantized graph does over these images: signal to noise is {_shown(sqnr)} at "
            f"batch {size} against {_shown(usual)}, and up to {SQNR_MARGIN_DB:g} dB less passes"
        )
    made = FurtherOutput(
        name=name,
        noise_ratio=ratio,
        sqnr_db=sqnr,
        expected_sqnr_db=usual,
        max_abs=float(np.abs(found - wanted).max()),
        reason=None if error <= limit else said,
        null_reasons=nulls,
    )
    return error, made


def _shown(decibels: float | None) -> str:
    return "without bound" if decibels is None else f"{decibels:.1f} dB"


def _decibels(signal: Array, error: float) -> float | None:
    size = rms(signal)
    return 20 * math.log10(size / error) if size > 0 and error > 0 else None


def _parts(values: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    ends = [0, *accumulate(math.prod(shape) for shape in shapes)]
    return [values[:, start:end] for start, end in pairwise(ends)]


class _Flat(nn.Module):
    """A network whose named outputs come behind each other, (n, numbers), so that they are computed in one pass."""

    def __init__(self, network: nn.Module, names: Sequence[OutputName]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, batch: Tensor) -> Tensor:
        return torch.cat([values.flatten(1) for values in values_of(self.network, batch, self.names)], 1)
