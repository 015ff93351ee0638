"""Mixed precision with a price: which places of a network stay in float32 so that the rest may be quantized, and what they cost.

Each place is ranked by the error that goes away when it alone is kept, over the held-out images. Those that cost most are kept,
one after another, until the signal to noise that was asked for is predicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import onnx

from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import Images, chosen_quantization, float32_logits, predicted_cost
from iresnet_export.backends.onnx.format import OnnxOptions
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.errors import InputError
from iresnet_export.quantization.codes import Quantization, Range, Step
from iresnet_export.quantization.kept import kept_places, places_of
from iresnet_export.quantization.observers import RANGES, observed
from iresnet_export.quantization.placement import Placement, quantized_onnx
from iresnet_export.quantization.schemes import Calibrator
from iresnet_export.system.progress import Progress
from iresnet_models.deployed import Deployable

_ANY_RANGE = (0.0, 1.0)


def quantization_asked_for(
    source: Source, networks: Mapping[bool, Deployable], images: Images, options: ExportOptions, progress: Progress
) -> Quantization:
    """The quantization that costs least, with those places in float32 that the options name or their signal to noise needs.

    The keys of `networks` say whether their stream is equalized. Raises InputError where nothing but float32 gives so much.
    """
    places = places_of(node.name for node in onnx_from_network(networks[False]).graph.node)
    asked = kept_places(options.keep_float, places)
    made = chosen_quantization(source, networks, images, options, progress, kept=asked)
    if options.min_sqnr is None or made.predicted_sqnr_db >= options.min_sqnr:
        return made
    model = onnx_from_network(networks[made.equalized], opset=OnnxOptions.of(options).chosen_opset)
    ranking = _Ranking(model, made, source, images, options, progress)
    steps = [Step("", ranking.sqnr_db(asked))]
    gain = made.predicted_sqnr_db - steps[0].sqnr_db
    for step in ranking.steps(asked, places):
        steps.append(step)
        if step.sqnr_db + gain < options.min_sqnr:
            continue
        kept = tuple(place for place in places if place in asked or place in {step.place for step in steps})
        made = chosen_quantization(source, networks, images, options, progress, kept=kept)
        if made.predicted_sqnr_db >= options.min_sqnr:
            return dataclasses.replace(made, steps=tuple(steps))
    raise InputError(
        f"--min-sqnr {options.min_sqnr:g}: with codes in one place alone it is {steps[-1].sqnr_db:.1f} dB.",
        "Ask for less, or take --precision fp16 or fp32.",
    )


class _Ranking:
    """What quantizing each place of a graph costs, by ranges of one calibrator for all of its values."""

    def __init__(
        self, model: onnx.ModelProto, made: Quantization, source: Source, images: Images, options: ExportOptions, progress: Progress
    ) -> None:
        self._model, self._made, self._images, self._options, self._progress = model, made, images, options, progress
        self._exact = float32_logits(source, images)
        values = [model.graph.input[0].name, *(node.output[0] for node in model.graph.node)]
        batches = images.taken(images.measuring(images.measured), options)
        observers = observed(OnnxGraph(model), values, batches, images.measured // images.batch, progress)
        find = RANGES[cast("Calibrator", made.calibrator)]
        self._ranges: dict[str, Range] = {name: find(observer) for name, observer in observers.items()}

    def steps(self, asked: Sequence[str], places: Sequence[str]) -> Iterator[Step]:
        """Keeping one place more, those that cost most first, until one alone has codes."""
        free = [place for place in places if place not in asked]
        alone: dict[str, float] = {}
        for number, place in enumerate(free):
            self._progress("Ranking what quantizing costs", number / len(free))
            alone[place] = self.sqnr_db((*asked, place))
        kept = list(asked)
        for place in sorted(free, key=lambda place: -alone[place])[:-1]:
            self._progress(f"Keeping {place} in float32", 1.0)
            kept.append(place)
            yield Step(place, self.sqnr_db(kept))

    def sqnr_db(self, kept: Sequence[str]) -> float:
        """Predicted, before biases are corrected."""
        quantized = quantized_onnx(self._model, keeping(self._made, kept, self._model, self._ranges))
        return predicted_cost(quantized, self._exact, self._images, self._options).sqnr_db


def keeping(made: Quantization, kept: Sequence[str], model: onnx.ModelProto, ranges: Mapping[str, Range]) -> Quantization:
    """A quantization of the same graph with other places kept, before biases are corrected.

    What has no range among `ranges` gets any: such a graph takes as long as one with the right ones.
    """
    sites = Placement(model, made.scheme, kept)
    found = {name: ranges.get(name, _ANY_RANGE) for name in sites.ranged}
    return dataclasses.replace(
        made, kept=tuple(kept), ranges=found, inputs=sites.inputs, floating=tuple(sites.floating), bias_corrections={}
    )
