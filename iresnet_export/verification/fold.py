"""The proof that a folded network is the unfolded one, over images that did not choose the fold: no export goes without.

In float64, where a fold rounds nothing that counts, it has to be right: what differs there is a fault, and is refused. In the
artifact's precision it may be too inexact, in units of the noise floor: then the channels that cost most are not folded.
"""

from __future__ import annotations

import copy
import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from iresnet_data.datasets import training_pixels
from iresnet_data.named_data import remark, short_name
from iresnet_export.artifacts.data_choice import chosen_data, is_named
from iresnet_export.artifacts.manifest import Fold, FoldProof
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import Images, equalization_scales
from iresnet_export.errors import ExportError, InputError
from iresnet_export.graph.ir import Array
from iresnet_export.graph.network import NetworkProbe, place_in_words, plain_name
from iresnet_export.system.progress import Progress
from iresnet_export.verification.places import at_places, original_terms
from iresnet_export.verification.reference import in_batches, noise_floor, rms
from iresnet_models.deployed import DTYPES, Deployable, deployed
from iresnet_models.folded import FoldedNetwork
from iresnet_models.folding import fold_by_plan
from iresnet_models.folding_decisions import GivenScales, kept_within_bounds, narrowed, plan_fold, stream_maxima, stream_norms
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.initialization import state_sha256
from iresnet_models.network import Network
from iresnet_models.precisions import Precision
from iresnet_models.preprocessing import noise_pixels, normalised

FOLD_LIMIT = 2.0
"""The fold's rounding error over the unfolded network's: of a correct float32 backend, which stays within 1.24 noise floors of an
unfolded network, twice as much is within the 2.5 that `verify` allows (docs/folding.md)."""

_SHIFTS = (1.0, 0.25, 0.0)
"""A fold that is too inexact keeps the channels whose shift is more than so many times what they reach, one after the other."""

_FAULT = 2.0**-10
"""In noise floors: rounding in float64 is 2^-29 of that in float32, and a fold may lose half a million times more and be right."""

_LEAST = 1e-300
"""In place of a noise floor of zero."""

_PROVED: dict[str, Fold] = {}
"""Folds that this process has proved, by the digest of what they follow from."""

_MOST_PROVED = 64

_OUR_FAULT = "This is a fault of iresnet-export, please report it; --no-fold exports in fp32 without a fold."

_BATCH = 8


@dataclass(frozen=True)
class FoldSample:
    """Inputs of a network (n, 3, h, w) that choose its fold, `others` that prove it, and what those are in words.

    `anew`: nothing counts that this process has proved before.
    """

    source: Source
    images: Tensor
    others: Tensor
    image_source: str
    anew: bool = False

    @cached_property
    def exact(self) -> Array:
        """The unfolded network's outputs for the others, in float64."""
        found = in_batches(copy.deepcopy(self.source.own).double(), self.others.double(), self.batch).numpy()
        if not math.isfinite(rms(found)):
            raise ExportError(
                f"{self.source.spec.name} itself, in float64, gives NaN or infinite outputs for {self.image_source}: its weights "
                "have diverged, and no export of them can be proved."
            )
        return found

    @cached_property
    def noise_floor(self) -> float:
        """The unfolded network's own, in float32 over the others."""
        found = noise_floor(self.source.own, self.others, self.exact, (self.batch,))
        if not math.isfinite(found):
            raise ExportError(_beyond_range(self, "fp32"))
        return max(found, _LEAST)

    @cached_property
    def reach(self) -> dict[str, Tensor]:
        """How far the images that choose take the stream."""
        return stream_maxima(self.source.own, self.images)

    @property
    def batch(self) -> int:
        return min(_BATCH, len(self.others))

    def digest(self, precision: Precision, scales: GivenScales | None) -> str:
        """Of all that a fold and its proof follow from."""
        found = hashlib.sha256(f"{state_sha256(self.source.own)} {self.source.spec} {precision} {self.image_source}".encode())
        for values in (self.images, self.others, *(scales or ())):
            tensor = torch.empty(0) if values is None else torch.as_tensor(values)
            found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.contiguous().numpy().tobytes())
        return found.hexdigest()


def fold_sample(source: Source, data: str | None, seed: int = 0) -> FoldSample:
    """Inputs that say how far the network's stream reaches: training images, or seeded noise where there are none.

    Of three images two choose, and one proves.
    """
    spec = source.spec
    named, data = is_named(data, spec), chosen_data(data, spec, source.weights)
    small, kind = spec.longer_side <= 64, "seeded noise"
    if data is not None:
        try:
            pixels, _ = training_pixels(data, spec, 96 if small else 48, seed)
            kind = f"training images of {short_name(data)}"
        except InputError as error:
            if named:
                raise
            # Nobody named these images in this command: what became of them is no reason to fail.
            remark(f"Seeded noise is taken in place of these images: {error}")
            data = None
    if data is None:
        pixels = noise_pixels(spec, 96 if small else 12, seed)
    proving = torch.arange(len(pixels)) % 3 == 1
    images = normalised(pixels, spec)
    if len(images) == 1:  # nothing is left to prove it by
        return FoldSample(source, images, images, f"the only one of the {kind}")
    count = int(proving.sum())
    where = f"{count} {kind}" if data is not None else f"{count} images of {kind}"
    return FoldSample(source, images[~proving], images[proving], where)


def proved_fold(
    sample: FoldSample, progress: Progress, *, precision: Precision = "fp32", scales: GivenScales | None = None
) -> tuple[FoldedNetwork, Fold]:
    """The exact fold of a network in float32, proved by the sample's other images, and in the half precision that is exported.

    As much is folded as stays within FOLD_LIMIT; where nothing can be left out any more, what is measured is recorded. What this
    process has proved of the same weights and images is not proved again: networks are exported to several formats. Raises
    ExportError, which names the first block that differs, for a fold that is wrong, and for values that leave the precision.
    """
    progress("Folding BatchNorms", 0.0)
    digest = sample.digest(precision, scales)
    if not sample.anew and (known := _PROVED.get(digest)) is not None:
        return fold_by_plan(sample.source.own, known.plan), known
    folded, fold = _proved(sample, progress, precision, scales)
    _PROVED[digest] = fold
    if len(_PROVED) > _MOST_PROVED:
        del _PROVED[next(iter(_PROVED))]
    return folded, fold


def _proved(sample: FoldSample, progress: Progress, precision: Precision, scales: GivenScales | None) -> tuple[FoldedNetwork, Fold]:
    network, reasons = sample.source.own, []
    plan = plan_fold(network, sample=sample.images, scales=scales)
    if any(norm.kept for norm in plan.norms.values()):
        reasons.append("a padded convolution reads some whose ReLU always lets them through")
    if any(norm.bounds for norm in plan.norms.values()):
        whole, plan = plan, kept_within_bounds(plan, stream_maxima(network, sample.others))
        if plan != whole:
            reasons.append("other images take some beyond the bound that they were to be folded by")
    folded, proof = _measured(sample, plan, precision, progress)
    if not _holds(proof):
        first = proof
        for shift in _SHIFTS:
            narrower = narrowed(network, plan, sample.reach, shift)
            if narrower != plan:
                plan = narrower
                folded, proof = _measured(sample, plan, precision, progress)
                if _holds(proof):
                    break
        reasons.append(_too_inexact(first, precision))
    if not all(map(math.isfinite, _ratios(proof))):
        raise ExportError(_beyond_range(sample, precision if math.isfinite(proof.error_ratio) else "fp32"))
    progress("Proving the fold", 1.0)
    report, kept = folded.report, kept_in_words(network, plan)
    why = None if kept is None else f"{kept}: {'; '.join(reasons)}"
    return folded, Fold(plan, report.is_exact_everywhere, report.exactness, proof, why)


def folds_for_codes(
    sample: FoldSample, images: Images, options: ExportOptions, progress: Progress
) -> tuple[dict[bool, Deployable], dict[bool, Fold]]:
    """The networks that can be quantized, and their folds; the keys say whether the stream's channels are equalized."""
    networks: dict[bool, Deployable] = {}
    folds: dict[bool, Fold] = {}

    def fold_with(scales: list[Tensor | None] | None) -> FoldedNetwork:
        folded, fold = proved_fold(sample, progress, scales=scales)
        is_whole = not options.with_preprocessing
        networks[scales is not None] = folded if is_whole else deployed(sample.source.own, folded.plan, with_preprocessing=True)
        folds[scales is not None] = fold
        return folded

    scales = equalization_scales(fold_with(None), images)
    if any(scale is not None for scale in scales):
        fold_with(scales)
    return networks, folds


def _measured(sample: FoldSample, plan: FoldPlan, precision: Precision, progress: Progress) -> tuple[FoldedNetwork, FoldProof]:
    """The fold by a plan, which is right, and how inexact it is. Raises ExportError for one that is wrong."""
    source = sample.source
    folded, exact = fold_by_plan(source.own, plan), fold_by_plan(source.own, plan, torch.float64)
    progress("Proving the fold", 0.3)
    _require_right(sample, exact)
    _require_rounded_once(folded, exact)
    progress("Proving the fold", 0.6)
    ratio = noise_floor(folded, sample.others, sample.exact, (sample.batch,)) / sample.noise_floor
    half = None
    if precision in ("fp16", "bf16"):
        progress(f"Proving the fold in {precision}", 0.8)
        half = _ratio_in(DTYPES[precision], sample, exact)
    return folded, FoldProof(len(sample.others), sample.image_source, ratio, half)


def _require_rounded_once(made: nn.Module, exact: FoldedNetwork) -> None:
    """So that a fold which is right in float64 is rounded in any other type, and not wrong."""
    found = {plain_name(name): value for name, value in made.state_dict().items()}
    for name, value in exact.state_dict().items():
        if not torch.equal(found[name], value.to(found[name].dtype)):
            raise ExportError(
                f"The fold of {exact.spec.name} was refused: {name} is not its float64 value rounded once. {_OUR_FAULT}"
            )


def _require_right(sample: FoldSample, exact: FoldedNetwork) -> None:
    found = in_batches(exact, sample.others.double(), sample.batch).numpy()
    floors = rms(found - sample.exact) / sample.noise_floor
    if not floors <= _FAULT:
        where = _first_departure(sample.source, exact, sample.others[: sample.batch])
        raise ExportError(
            f"The fold of {exact.spec.name} was refused: over {sample.image_source} it differs by {floors:.3g} noise floors from "
            f"the unfolded network in float64, where it should compute the same; {where}. {_OUR_FAULT}"
        )


def _ratio_in(dtype: torch.dtype, sample: FoldSample, exact: FoldedNetwork) -> float | None:
    """The error ratio where both networks are computed in a half precision, one batch of the others, in one form.

    None where the unfolded network leaves the precision's range, and the folded one does not.
    """
    images, wanted = sample.others[: sample.batch], sample.exact[: sample.batch]

    def error(plan: FoldPlan | None) -> float:
        made = deployed(sample.source.own, plan, dtype)
        if plan is not None:
            _require_rounded_once(made, exact)
        return rms(in_batches(made, images, len(images)).numpy() - wanted)

    found = error(exact.plan)
    try:
        own = error(None)
    except InputError:  # its statistics have no value in this type
        own = math.inf
    if math.isfinite(found) and not math.isfinite(own):
        return None
    return found / max(own, 2.0**-24 * rms(wanted), _LEAST)


def _ratios(proof: FoldProof) -> list[float]:
    return [ratio for ratio in (proof.error_ratio, proof.own_precision) if ratio is not None]


def _holds(proof: FoldProof) -> bool:
    return all(ratio <= FOLD_LIMIT for ratio in _ratios(proof))  # NaN does not


def _too_inexact(proof: FoldProof, precision: Precision) -> str:
    ratio, where = proof.error_ratio, ""
    if ratio <= FOLD_LIMIT and proof.own_precision is not None:
        ratio, where = proof.own_precision, f" in {precision}"
    return f"without them its error{where} is {ratio:.3g} times the unfolded network's own, and up to {FOLD_LIMIT:g} is rounding"


def kept_in_words(network: Network, plan: FoldPlan) -> str | None:
    """How much a plan leaves unfolded; None where that is nothing."""
    widths = {site.name: site.norm.num_features for site in stream_norms(network)}
    kept = [len(norm.kept) for norm in plan.norms.values() if norm.kept]
    if not kept:
        return None
    return (
        f"{sum(kept)} of {sum(widths.values())} channels of the stream's BatchNorms keep scale and shift, in {len(kept)} of "
        f"{len(widths)}"
    )


def _beyond_range(sample: FoldSample, precision: str) -> str:
    return (
        f"{sample.source.spec.name} cannot be exported in {precision}: over {sample.image_source} its values leave the range of "
        f"{precision}. Choose a wider precision, or look at its weights."
    )


def _first_departure(source: Source, exact: FoldedNetwork, images: Tensor) -> str:
    """Says at which place the fold, in float64 and in the original's terms, differs from the network for the first time."""
    wanted = at_places(NetworkProbe(copy.deepcopy(source.own).double()), images.double())
    own, found = at_places(NetworkProbe(source.own), images), at_places(NetworkProbe(exact), images.double())
    for place, original in original_terms(exact, found).items():
        value = wanted[place].numpy()
        floor = max(rms(own[place].numpy() - value), 2.0**-24 * rms(value))
        if not rms(original(found[place]).numpy() - value) <= _FAULT * floor:
            return f"it departs in {place_in_words(place, source.own)}"
    return f"over the first {len(images)} of them no place differs by itself"
