"""From a network and images to the fold and the ranges of its quantized export, and what they are predicted to cost.

Some images are held out of the ranges: every choice is made by them, and what they cost is the prediction. The images that
ranges come from would flatter whatever cuts off what they do not show.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from iresnet_export.artifacts.data_choice import chosen_data
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.bias_correction import bias_corrections, is_corrected
from iresnet_export.backends.onnx.format import OnnxOptions
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.errors import InputError
from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import Quantization, Trial
from iresnet_export.quantization.cost import chance_of_fewer, sqnr_db, sqnr_interval_db
from iresnet_export.quantization.observers import RANGES, observed
from iresnet_export.quantization.placement import Placement, quantized_onnx
from iresnet_export.quantization.schemes import AUTO
from iresnet_export.system.progress import Progress
from iresnet_models.deployed import Deployable
from iresnet_models.folded import FoldedNetwork
from iresnet_models.preprocessing import noise_pixels, normalised
from iresnet_models.spec import NetworkSpec

_STRONGEST = 16.0
"""Channels are not scaled further up or down than this."""
_WORSE = 0.05
"""A chance, of deciding so by luck alone."""


def held_out_count(count: int, spec: NetworkSpec) -> int:
    """How many of so many images are held out: a quarter, and no more than are quickly evaluated. An only one serves for both."""
    return min(max(1, count // 4), 128 if spec.longer_side <= 64 else 32)


def few_images(spec: NetworkSpec) -> int:
    """As many images as tell a good fold from a bad one."""
    return 64 if spec.longer_side <= 64 else 32


@dataclass(frozen=True)
class Images:
    """Calibration images, each (h, w, 3) pixels when it is asked for, and what they are in words. The first are held out."""

    pixels: Sequence[Tensor] | Dataset[tuple[Tensor, int]]
    count: int
    source: str
    spec: NetworkSpec

    @property
    def compared(self) -> int:
        """How many are held out, to compare the quantized network with the float32 one."""
        return held_out_count(self.count, self.spec)

    @property
    def measured(self) -> int:
        """How many ranges are measured with."""
        return max(1, self.count - self.compared)

    @property
    def few(self) -> int:
        """As many of these as tell a good fold from a bad one."""
        return min(self.measured, few_images(self.spec))

    @property
    def batch(self) -> int:
        """How many go through a network at once."""
        return 32 if self.spec.longer_side <= 64 else 8

    def held_out(self) -> Iterator[Tensor]:
        """Those that compare, in batches of pixels (n, h, w, 3)."""
        return self._batches(0, self.compared)

    def measuring(self, count: int) -> Iterator[Tensor]:
        """The first `count` of those that ranges are measured with, in batches of pixels (n, h, w, 3)."""
        first = self.count - self.measured
        return self._batches(first, first + count)

    def all(self) -> Iterator[Tensor]:
        """All of them, in batches of pixels (n, h, w, 3)."""
        return self._batches(0, self.count)

    def taken(self, batches: Iterator[Tensor], options: ExportOptions) -> Iterator[Tensor]:
        """Batches of pixels as an artifact of these options takes them."""
        return (pixels if options.with_preprocessing else normalised(pixels, self.spec) for pixels in batches)

    def together(self, options: ExportOptions) -> Tensor:
        """The few, in one batch as an artifact of these options takes them."""
        return torch.cat(list(self.taken(self.measuring(self.few), options)))

    def _batches(self, first: int, last: int) -> Iterator[Tensor]:
        from iresnet_data.datasets import all_read

        for start in range(first, last, self.batch):
            end = min(start + self.batch, last)
            yield torch.stack(list(all_read(self._pixels_of, range(start, end), others=range(end, self.count))))

    def _pixels_of(self, index: int) -> Tensor:
        item = self.pixels[index]
        return item if isinstance(item, Tensor) else item[0]


def calibration_images(source: Source, options: ExportOptions) -> Images:
    """The images that the options ask for; seeded noise for untrained weights alone, since noise says nothing of photographs."""
    spec, data = source.spec, chosen_data(options.calibration_data, source.spec, source.weights)
    if data is None and source.checkpoint is not None:
        own = "" if source.trained_on is None else f" This one was trained on {source.trained_on}, as its file says."
        raise InputError(
            f"{options.precision} needs images to measure how far activations reach, best some that the network was trained on."
            f"{own}",
            "Name a folder that holds train/ with --calibration-data FOLDER.",
        )
    if data is None:
        count = 64 if spec.longer_side <= 64 else 32
        return Images(list(noise_pixels(spec, count, seed=0)), count, f"{count} images of seeded noise", spec)
    from iresnet_data.datasets import calibration_set
    from iresnet_data.named_data import short_name

    found: Any = calibration_set(data, spec, options.calibration_images)
    return Images(found, len(found), f"{len(found)} training images of {short_name(data)}", spec)


def equalization_scales(folded: FoldedNetwork, images: Images) -> list[Tensor | None]:
    """Scales of the residual stream's channels, stage by stage, that bring them half way (geometrically) to one range.

    `folded` has scales of 1. All the way would be best for the stream, and worst for the weights that read it (Nagel et al. 2019,
    section 4.1). None where a stage's stream is read by ReLUs alone.
    """
    reach: list[Tensor | None] = [None] * 4
    handles = [
        block.register_forward_hook(_furthest(reach, stage))
        for stage, blocks in enumerate(folded.stages)
        for block in blocks
        if not block.layout.final_relu
    ]
    with torch.inference_mode():
        for batch in images.measuring(images.few):
            folded(normalised(batch, images.spec))
    for handle in handles:
        handle.remove()
    return [None if found is None else _halfway(found) for found in reach]


def _furthest(reach: list[Tensor | None], stage: int) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def record(_module: nn.Module, _inputs: tuple[Tensor], output: Tensor) -> None:
        found = output.abs().amax((0, 2, 3)).double()
        known = reach[stage]
        reach[stage] = found if known is None else torch.maximum(known, found)

    return record


def _halfway(reach: Tensor) -> Tensor | None:
    heard = reach[reach > 0]
    if not len(heard):
        return None
    wanted = (heard.median() / reach.clamp(min=float(heard.min()))).sqrt()
    return wanted.clamp(1 / _STRONGEST, _STRONGEST)


def chosen_quantization(
    source: Source,
    networks: Mapping[bool, Deployable],
    images: Images,
    options: ExportOptions,
    progress: Progress,
    *,
    wanted: Quantization | None = None,
    kept: Sequence[str] = (),
) -> Quantization:
    """The quantization that costs least on the held-out images, of all calibrators and of both folds; or the way that is `wanted`.

    The keys of `networks` say whether their stream is equalized. Which of them is better, a few images tell; how their ranges are
    found, all of them; then, whether corrected biases are better still. `kept`: the places that stay in float32.
    """
    scheme = options.scheme
    if scheme is None:
        raise InputError(f"{options.precision} has no codes, and nothing to calibrate.")
    kept = kept if wanted is None else wanted.kept
    calibrators = scheme.calibrators if options.calibrator == AUTO else (options.calibrator,)
    graphs = {
        equalized: onnx_from_network(network, opset=OnnxOptions.of(options).chosen_opset) for equalized, network in networks.items()
    }
    exact = float32_logits(source, images)

    def measured(equalized: bool, count: int) -> Iterator[Quantization]:
        model = graphs[equalized]
        sites = Placement(model, scheme, kept)
        batches = images.taken(images.measuring(count), options)
        observers = observed(OnnxGraph(model), sites.ranged, batches, count // images.batch, progress)
        for calibrator in calibrators:
            undecided = Quantization(
                target=scheme.target,
                calibrator=calibrator,
                images=images.count,
                image_source=images.source,
                ranges={name: RANGES[calibrator](observer) for name, observer in observers.items()},
                inputs=sites.inputs,
                equalized=equalized,
                compared=images.compared,
                predicted_sqnr_db=0.0,
                predicted_agreement=0.0,
                predicted_interval_db=0.0,
                precision=scheme.precision,
                floating=tuple(sites.floating),
                kept=tuple(kept),
            )
            progress(f"Predicting what {scheme.precision} costs by {calibrator}", 0.0)
            cost = predicted_cost(quantized_onnx(model, undecided), exact, images, options)
            trial = Trial(calibrator, equalized, count, cost.sqnr_db, cost.agreement)
            yield dataclasses.replace(undecided, tried=(trial,), **cost.predicted)

    def corrected(made: Quantization) -> Quantization:
        model = graphs[made.equalized]
        progress("Correcting biases", 0.0)
        if wanted and wanted.bias_corrections:  # in units of the codes that the recorded ranges give
            made = dataclasses.replace(made, bias_corrections=wanted.bias_corrections, ranges=wanted.ranges)
        else:
            made = dataclasses.replace(made, bias_corrections=bias_corrections(model, made, images.together(options)))
        cost = predicted_cost(quantized_onnx(model, made), exact, images, options)
        trial = dataclasses.replace(made.tried[0], sqnr_db=cost.sqnr_db, agreement=cost.agreement, corrected=True)
        return dataclasses.replace(made, tried=(trial,), **cost.predicted)

    found = [made for equalized in graphs for made in measured(equalized, images.few)]
    if images.few < images.measured:
        found += measured((wanted or preferred(_trials(found), images.compared)).equalized, images.measured)
    best = wanted or preferred(_trials(found), images.compared)
    way = images.measured, best.calibrator, best.equalized
    chosen = next(made for made in found if (made.tried[0].images, made.calibrator, made.equalized) == way)
    if is_corrected(scheme, images.few, images.spec.longer_side):
        found.append(corrected(chosen))
        if wanted.bias_corrections if wanted else preferred(_trials(found), images.compared) == found[-1].tried[0]:
            chosen = found[-1]
    return dataclasses.replace(chosen, tried=_trials(found))


def _trials(found: Sequence[Quantization]) -> tuple[Trial, ...]:
    return tuple(trial for made in found for trial in made.tried)


def preferred(tried: Sequence[Trial], compared: int) -> Trial:
    """Of those that were measured with the most images the one of least error, which does not decide worse than the others do.

    Worse is what chance would give less than one time in twenty (Fisher's exact test).
    """
    most = max(trial.images for trial in tried)
    last = [trial for trial in tried if trial.images == most]
    agreeing = [round(trial.agreement * compared) for trial in last]
    able = [
        trial
        for trial, agrees in zip(last, agreeing, strict=True)
        if chance_of_fewer(agrees, compared, max(agreeing), compared) >= _WORSE
    ]
    return max(able, key=lambda trial: trial.sqnr_db)


@dataclass(frozen=True)
class Cost:
    """Signal to noise of a quantized graph's logits against the float32 network's, its interval, and the share of equal classes."""

    sqnr_db: float
    interval_db: float
    agreement: float

    @property
    def predicted(self) -> dict[str, Any]:
        """As fields of a Quantization."""
        return {f"predicted_{name}": value for name, value in dataclasses.asdict(self).items()}


def predicted_cost(quantized: onnx.ModelProto, exact: Array, images: Images, options: ExportOptions) -> Cost:
    """Over the held-out images, whose float32 logits are `exact`, computed by torch."""
    graph = OnnxGraph(quantized)
    found = np.concatenate([graph.run(batch).numpy() for batch in images.taken(images.held_out(), options)])
    return Cost(sqnr_db(found, exact), sqnr_interval_db(found, exact), float(np.mean(found.argmax(1) == exact.argmax(1))))


def float32_logits(source: Source, images: Images) -> Array:
    """Of the held-out images, by the unfolded network."""
    with torch.inference_mode():
        return np.concatenate([source.own(normalised(batch, images.spec)).numpy() for batch in images.held_out()])
