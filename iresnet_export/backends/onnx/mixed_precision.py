"""Mixed precision with a price: which places of a network stay in float32 so that the rest may be quantized, and what they cost.

Places are ranked over the held-out images in two orders: by the signal to noise that is lost where each alone is quantized, and by
what is won where each alone is kept. Those that cost most are kept, one after another, in the order that gives more of so many,
until as much is predicted, or as little accuracy shown to be lost, as was asked for; then those are given up, from the last on,
without which it is too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import cast

import onnx
from torch import nn

from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import Images, chosen_quantization, float32_logits, predicted_cost
from iresnet_export.backends.onnx.format import OnnxOptions
from iresnet_export.backends.onnx.goals import Goal
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.quantization.codes import Quantization, Range, Step
from iresnet_export.quantization.kept import Places
from iresnet_export.quantization.observers import RANGES, observed
from iresnet_export.quantization.placement import Placement, quantized_onnx
from iresnet_export.quantization.schemes import Calibrator
from iresnet_export.system.progress import Progress
from iresnet_models.deployed import Deployable

_ANY_RANGE = (0.0, 1.0)


def places_of(source: Source, options: ExportOptions) -> Places:
    """Of a network that is to be quantized."""
    assert options.scheme is not None
    layers = {
        name: tuple(module.weight.shape) for name, module in source.own.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    return Places.of(layers, options.scheme)


def quantization_asked_for(
    source: Source, networks: Mapping[bool, Deployable], images: Images, options: ExportOptions, progress: Progress
) -> Quantization:
    """The quantization that costs least, with those places in float32 that the options name or what they ask for needs.

    The keys of `networks` say whether their stream is equalized. Raises InputError where nothing but float32 gives so much.
    """
    places, goal = places_of(source, options), Goal.of(source, options, progress)
    asked = places.kept(options.keep_float)

    graph = cache(lambda equalized: _graph(networks[equalized], options))

    def made_with(kept: tuple[str, ...]) -> Quantization:
        made = chosen_quantization(source, networks, images, options, progress, kept=kept)
        return made if goal.labelled is None else goal.counted(made, graph(made.equalized))

    made = made_with(asked)
    if goal.is_reached(made):
        return made
    ranking = _Ranking(graph(made.equalized), made, asked, source, images, goal, progress)
    orders = ranking.orders([place for place in places.codes if place not in asked])
    first, shortfall = goal.step("", made), 0.0
    most = goal.value(made)
    for count in range(1, len(orders[0])):
        costly = max((order[:count] for order in orders), key=ranking.sqnr_db)
        foreseen = ranking.value(costly)
        most = max(most, foreseen - shortfall)
        if foreseen < goal.wanted + shortfall:
            continue
        needed = ranking.needed(costly, goal.wanted + shortfall)
        made = made_with(tuple(place for place in places.all if place in asked or place in needed))
        steps = ranking.steps(needed)
        if goal.is_reached(made):
            return dataclasses.replace(made, steps=(first, *steps))
        # Calibrated anew it is less than the ranking foresaw: the next ones have to foresee so much more.
        shortfall = goal.value_of_step(steps[-1]) - goal.value(made)
        most = max(goal.value_of_step(first), goal.value(made))
    raise goal.missed(most)


def _graph(network: Deployable, options: ExportOptions) -> onnx.ModelProto:
    return onnx_from_network(network, opset=OnnxOptions.of(options).chosen_opset)


def measured_steps(
    source: Source,
    networks: Mapping[bool, Deployable],
    images: Images,
    options: ExportOptions,
    wanted: Quantization,
    goal: Goal,
    progress: Progress,
    *,
    within: float,
) -> tuple[tuple[Step, ...], str | None]:
    """The steps of a quantization with what each gives now, and a place that was kept without need, if any.

    Two ways of calibrating that lie `within` so many decibels are as good: which of them the steps were measured by is not
    recorded, and that is taken which gives them best. No milliseconds. Need is told for a signal to noise alone: what decides
    for an accuracy are a few images.
    """
    if not wanted.steps:
        return (), None
    asked = places_of(source, options).kept(options.keep_float)
    best = chosen_quantization(source, networks, images, options, progress, kept=asked)
    ways = {(best.calibrator, best.equalized): best}
    for trial in best.tried:
        way = trial.calibrator, trial.equalized
        if way not in ways and trial.sqnr_db >= best.predicted_sqnr_db - within:
            alone = dataclasses.replace(options, calibrator=cast("Calibrator", trial.calibrator))
            ways[way] = chosen_quantization(source, {way[1]: networks[way[1]]}, images, alone, progress, kept=asked)
    places = [step.place for step in wanted.steps[1:]]

    def measured(made: Quantization) -> tuple[float, tuple[Step, ...], _Ranking]:
        model = _graph(networks[made.equalized], options)
        made = goal.counted(made, model)
        ranking = _Ranking(model, made, asked, source, images, goal, progress)
        steps = (goal.step("", made), *ranking.steps(places))
        off = max(abs(step.sqnr_db - told.sqnr_db) for step, told in zip(steps, wanted.steps, strict=True))
        return off, steps, ranking

    _, steps, ranking = min(map(measured, ways.values()), key=lambda found: found[0])
    if goal.labelled is not None:
        return steps, None
    # Where calibrating anew gave less than was foreseen, so much more had to be foreseen.
    shortfall = max(0.0, steps[-1].sqnr_db - wanted.predicted_sqnr_db)
    enough = goal.wanted + shortfall + within
    needless = (place for place in places if ranking.value([other for other in places if other != place]) > enough)
    return steps, next(needless, None)


class _Ranking:
    """What quantizing each place of a graph costs, beside those that were `asked` to stay in float32.

    By ranges of the calibrator that was best for all of its values; what correcting biases gave is taken to be given again.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        made: Quantization,
        asked: Sequence[str],
        source: Source,
        images: Images,
        goal: Goal,
        progress: Progress,
    ) -> None:
        self._model, self._made, self._asked, self._images = model, made, asked, images
        self._goal, self._options, self._progress = goal, goal.options, progress
        self._exact = float32_logits(source, images)
        self._drops: dict[frozenset[str], float] = {}
        self._predicted: dict[frozenset[str], float] = {}
        values = [model.graph.input[0].name, *(node.output[0] for node in model.graph.node)]
        batches = images.taken(images.measuring(images.measured), self._options)
        observers = observed(OnnxGraph(model), values, batches, images.measured // images.batch, progress)
        find = RANGES[cast("Calibrator", made.calibrator)]
        self._ranges: dict[str, Range] = {name: find(observer) for name, observer in observers.items()}
        self._gain = made.predicted_sqnr_db - self._uncorrected(())

    def orders(self, places: Sequence[str]) -> tuple[list[str], list[str]]:
        """Those first that cost most: as quantizing each by itself shows, and as keeping each by itself does.

        What little the first order says of places that only matter together, the second one does, and the other way round.
        """
        lost: dict[str, float] = {}
        won: dict[str, float] = {}
        for number, place in enumerate(places):
            self._progress("Ranking what quantizing costs", number / len(places))
            lost[place] = -self.sqnr_db([other for other in places if other != place])
            won[place] = self.sqnr_db([place])
        return sorted(places, key=lambda place: -lost[place]), sorted(places, key=lambda place: -won[place])

    def needed(self, kept: Sequence[str], wanted: float) -> list[str]:
        """Without those, from the last on, that what is wanted does not need."""
        found = list(kept)
        for place in reversed(kept):
            fewer = [other for other in found if other != place]
            if self.value(fewer) >= wanted:
                found = fewer
        return found

    def steps(self, kept: Sequence[str]) -> list[Step]:
        """What keeping these gives, one after another."""
        named = [kept[: count + 1] for count in range(len(kept))]
        return [Step(some[-1], self.sqnr_db(some), accuracy_drop=self._accuracy_drop(some)) for some in named]

    def value(self, kept: Sequence[str]) -> float:
        """What these places in float32 too give of what is asked for."""
        return self.sqnr_db(kept) if (drop := self._accuracy_drop(kept)) is None else -drop

    def sqnr_db(self, kept: Sequence[str]) -> float:
        """Predicted, with these places kept too."""
        if (known := frozenset(kept)) not in self._predicted:
            self._predicted[known] = self._gain + self._uncorrected(kept)
        return self._predicted[known]

    def _accuracy_drop(self, kept: Sequence[str]) -> float | None:
        if self._goal.labelled is None:
            return None
        if (known := frozenset(kept)) not in self._drops:
            self._drops[known] = self._goal.labelled.top1(self._quantized(kept)).drop.bound
        return self._drops[known]

    def _uncorrected(self, kept: Sequence[str]) -> float:
        self._progress("Predicting what keeping places gives", 1.0)
        return predicted_cost(self._quantized(kept), self._exact, self._images, self._options).sqnr_db

    def _quantized(self, kept: Sequence[str]) -> onnx.ModelProto:
        return quantized_onnx(self._model, keeping(self._made, [*self._asked, *kept], self._model, self._ranges))


def keeping(made: Quantization, kept: Sequence[str], model: onnx.ModelProto, ranges: Mapping[str, Range]) -> Quantization:
    """A quantization of the same graph with other places kept, before biases are corrected.

    What has no range among `ranges` gets any: such a graph takes as long as one with the right ones.
    """
    sites = Placement(model, made.scheme, kept)
    found = {name: ranges.get(name, _ANY_RANGE) for name in sites.ranged}
    return dataclasses.replace(
        made, kept=tuple(kept), ranges=found, inputs=sites.inputs, floating=tuple(sites.floating), bias_corrections={}
    )
