"""The proof that a folded network is the unfolded one, made at every export, in units of the network's own rounding error."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from iresnet_data.datasets import training_pixels
from iresnet_data.named_data import remark, short_name
from iresnet_export.artifacts.data_choice import chosen_data, is_named
from iresnet_export.artifacts.source import Source
from iresnet_export.errors import ExportError, InputError
from iresnet_export.graph.align import place_in_words
from iresnet_export.graph.ir import Array
from iresnet_export.graph.network import NetworkProbe
from iresnet_export.system.progress import Progress
from iresnet_export.verification.places import at_places, original_terms
from iresnet_export.verification.reference import in_batches, rms
from iresnet_models.deployed import DTYPES, deployed
from iresnet_models.folded import FoldedNetwork
from iresnet_models.folding import fold_by_plan
from iresnet_models.folding_decisions import GivenScales, plan_fold
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.precisions import Precision
from iresnet_models.preprocessing import noise_pixels, normalised

FOLD_LIMIT = 2.0
"""A fold that is exact errs about as much as the unfolded network does; twice as much is another network."""

_BATCH = 8


@dataclass(frozen=True)
class FoldProof:
    """The folded network's error over the unfolded one's, both against float64, over all logits.

    `error_ratio`: in float32. `own_precision`: in the half precision that is exported, of both; None for others.
    """

    images: int
    image_source: str
    error_ratio: float
    own_precision: float | None = None


@dataclass(frozen=True)
class FoldSample:
    """Inputs of a network (n, 3, h, w), what they are in words, and its outputs for them, in float64 and in float32."""

    source: Source
    images: Tensor
    image_source: str

    @cached_property
    def exact(self) -> Array:
        return in_batches(copy.deepcopy(self.source.network).double(), self.images.double(), self.batch).numpy()

    @cached_property
    def own(self) -> Array:
        return in_batches(self.source.network, self.images, self.batch).numpy()

    @property
    def batch(self) -> int:
        return min(_BATCH, len(self.images))


def fold_sample(source: Source, data: str | None, seed: int = 0) -> FoldSample:
    """Inputs that say how far the network's stream reaches: training images, or seeded noise where there are none."""
    spec = source.spec
    named, data = is_named(data, spec), chosen_data(data, spec, source.weights)
    if data is not None:
        try:
            pixels, _ = training_pixels(data, spec, 32 if spec.image_size > 64 else 64, seed)
            where = f"{len(pixels)} training images of {short_name(data)}"
        except InputError as error:
            if named:
                raise
            # Nobody named these images in this command: what became of them is no reason to fail.
            remark(f"Seeded noise is taken in place of these images: {error}")
            data = None
    if data is None:
        pixels = noise_pixels(spec, 4 if spec.image_size > 64 else 64, seed)
        where = f"{len(pixels)} images of seeded noise"
    return FoldSample(source, normalised(pixels, spec), where)


def proved_fold(
    sample: FoldSample, progress: Progress, *, precision: Precision = "fp32", scales: GivenScales | None = None
) -> tuple[FoldedNetwork, FoldProof]:
    """The exact fold of a network in float32, proved over the sample, in float32 and in the half precision that is exported.

    Raises ExportError, which names the first block that differs, if it errs more than FOLD_LIMIT times as much as the network.
    """
    progress("Folding BatchNorms", 0.0)
    source, size = sample.source, sample.batch
    plan = plan_fold(source.network, sample=sample.images, scales=scales)
    folded = fold_by_plan(source.network, plan)
    progress("Proving the fold", 0.5)
    ratio = _error_ratio(in_batches(folded, sample.images, size).numpy(), sample.own, sample.exact)
    if not ratio <= FOLD_LIMIT:
        where = _first_departure(source, folded, sample.images[:size])
        raise ExportError(_refused(sample, ratio, where))
    half = None
    if precision in ("fp16", "bf16"):
        progress(f"Proving the fold in {precision}", 0.7)
        half = _ratio_in(DTYPES[precision], source, plan, sample.images[:size], sample.exact[:size])
        if not half <= FOLD_LIMIT:
            raise ExportError(_refused(sample, half, f"that is so in {precision} only, not in fp32"))
    progress("Proving the fold", 1.0)
    return folded, FoldProof(len(sample.images), sample.image_source, ratio, half)


def _refused(sample: FoldSample, ratio: float, where: str) -> str:
    return (
        f"The fold of {sample.source.spec.name} was refused: over {sample.image_source} its error is {ratio:.3g} times the "
        f"unfolded network's own, and up to {FOLD_LIMIT:g} is rounding; {where}. Export it in fp32 with --no-fold."
    )


def _ratio_in(dtype: torch.dtype, source: Source, plan: FoldPlan, images: Tensor, exact: Array) -> float:
    """The error ratio where both networks are computed in `dtype`."""
    outputs = []
    for chosen in (plan, None):
        network = deployed(source.network, chosen, dtype)
        outputs.append(in_batches(network, images, len(images)).numpy())
    return _error_ratio(outputs[0], outputs[1], exact)


def fold_details(folded: FoldedNetwork, proof: FoldProof) -> dict[str, Any]:
    """What the manifest says of a fold: everything that is needed to compute it again, and its proof."""
    return {
        "plan": folded.plan.to_json(),
        "exact_everywhere": folded.report.is_exact_everywhere,
        "exactness": folded.report.exactness,
        "proof": dataclasses.asdict(proof),
    }


def _error_ratio(found: Array, own: Array, exact: Array) -> float:
    return rms(found - exact) / max(rms(own - exact), 2.0**-24 * rms(exact))


def _first_departure(source: Source, folded: FoldedNetwork, images: Tensor) -> str:
    """Says at which place the value, in the original's terms, errs more than the limit for the first time."""
    exact = at_places(NetworkProbe(copy.deepcopy(source.network).double()), images.double())
    own, found = at_places(NetworkProbe(source.network), images), at_places(NetworkProbe(folded), images)
    for place, original in original_terms(folded, found).items():
        if not _error_ratio(original(found[place].double()).numpy(), own[place].numpy(), exact[place].numpy()) <= FOLD_LIMIT:
            return f"it departs in {place_in_words(place, source.network)}"
    return f"over the first {len(images)} of them no place errs more than that by itself"
