"""From a network and images to the fold and the ranges of its quantized export, and what they are predicted to cost."""

from __future__ import annotations

import dataclasses
import math
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
from iresnet_export.backends.onnx.format import OnnxOptions
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.errors import InputError
from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import Quantization
from iresnet_export.quantization.observers import calibrated_ranges
from iresnet_export.quantization.placement import Placement, quantized_onnx
from iresnet_export.system.progress import Progress
from iresnet_models.deployed import Deployable
from iresnet_models.folded import FoldedNetwork
from iresnet_models.network import Network
from iresnet_models.preprocessing import noise_pixels, normalised
from iresnet_models.spec import NetworkSpec

_BATCH = 8
_STRONGEST = 16.0
"""Channels are not scaled further up or down than this."""


def most_compared(spec: NetworkSpec) -> int:
    """The most calibration images that serve to compare the quantized network with the float32 one."""
    return 64 if spec.image_size <= 64 else 32


@dataclass(frozen=True)
class Images:
    """Calibration images, each (h, w, 3) pixels when it is asked for, and what they are in words."""

    pixels: Sequence[Tensor] | Dataset[tuple[Tensor, int]]
    count: int
    source: str
    spec: NetworkSpec

    @property
    def compared(self) -> int:
        """How many of them serve to compare the quantized network with the float32 one."""
        return min(self.count, most_compared(self.spec))

    def batches(self, count: int) -> Iterator[Tensor]:
        """The first `count` images in batches of pixels (n, h, w, 3)."""
        from iresnet_data.datasets import all_read

        for start in range(0, count, _BATCH):
            end = min(start + _BATCH, count)
            yield torch.stack(list(all_read(self._pixels_of, range(start, end), others=range(end, self.count))))

    def taken(self, count: int, options: ExportOptions) -> Iterator[Tensor]:
        """The same batches as an artifact of these options takes them."""
        return (pixels if options.with_preprocessing else normalised(pixels, self.spec) for pixels in self.batches(count))

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
        count = 64 if spec.image_size <= 64 else 32
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
        for batch in images.batches(images.compared):
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
    source: Source, networks: Mapping[bool, Deployable], images: Images, options: ExportOptions, progress: Progress
) -> Quantization:
    """The quantization of the better of the folded networks, whose keys say whether they are equalized: measured, not guessed."""
    scheme = options.scheme
    if scheme is None:
        raise InputError(f"{options.precision} has no codes, and nothing to calibrate.")
    calibrator = options.calibrator or scheme.calibrator
    graphs = {
        equalized: onnx_from_network(network, opset=OnnxOptions.of(options).chosen_opset) for equalized, network in networks.items()
    }

    def measured(equalized: bool, count: int) -> Quantization:
        model = graphs[equalized]
        sites = Placement(model, scheme)
        batches = images.taken(count, options)
        ranges = calibrated_ranges(OnnxGraph(model), sites.ranged, batches, count // _BATCH, calibrator, progress)
        undecided = Quantization(
            target=scheme.target,
            calibrator=calibrator,
            images=count,
            image_source=images.source,
            ranges=ranges,
            inputs=sites.inputs,
            equalized=equalized,
            compared=images.compared,
            predicted_sqnr_db=0.0,
            predicted_agreement=0.0,
            precision=scheme.precision,
            floating=tuple(sites.floating),
        )
        progress(f"Predicting what {scheme.precision} costs", 0.0)
        sqnr, agreement = predicted_cost(source, quantized_onnx(model, undecided), images, options)
        return dataclasses.replace(undecided, predicted_sqnr_db=sqnr, predicted_agreement=agreement)

    best = max((measured(equalized, images.compared) for equalized in graphs), key=lambda found: found.predicted_sqnr_db)
    return best if images.count == images.compared else measured(best.equalized, images.count)


def predicted_cost(source: Source, quantized: onnx.ModelProto, images: Images, options: ExportOptions) -> tuple[float, float]:
    """Signal to noise of a quantized graph's logits against the float32 network's, and the share of the same first class."""
    graph = OnnxGraph(quantized)
    found = np.concatenate([graph.run(batch).numpy() for batch in images.taken(images.compared, options)])
    inputs = (normalised(batch, images.spec) for batch in images.batches(images.compared))
    exact = np.concatenate([_logits(source.own, batch) for batch in inputs])
    return sqnr_db(found, exact), float(np.mean(found.argmax(1) == exact.argmax(1)))


def sqnr_db(found: Array, exact: Array) -> float:
    """Signal to quantization noise, in decibels."""
    error = float(np.square(found.astype(np.float64) - exact).mean())
    signal = float(np.square(exact.astype(np.float64)).mean())
    return 10 * math.log10(signal / max(error, np.finfo(np.float64).tiny)) if signal > 0 else 0.0


def _logits(network: Network, inputs: Tensor) -> Array:
    with torch.inference_mode():
        found: Array = network(inputs).numpy()
    return found
