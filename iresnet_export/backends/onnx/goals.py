"""What mixed precision is asked for: a signal to noise, or an accuracy that labelled held-out images show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch

from iresnet_export.artifacts.data_choice import chosen_data
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import Images
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.errors import InputError
from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import Quantization, Step, Top1
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.decisions import drop_bound, images_needed
from iresnet_models.preprocessing import normalised

_TIMES, _LEAST = 5, 500
"""As many labelled images as that times those that show a drop where nothing is lost, and at least so many."""


def require_labelled(source: Source, options: ExportOptions) -> None:
    """InputError unless labelled held-out images are there, and enough of them, to show the drop in accuracy that is asked for."""
    if options.max_accuracy_drop is not None:
        Labelled(source, options, no_progress)


def labelled_images(limit: float) -> tuple[int, int]:
    """How many labelled images show a drop of so many points where nothing is lost, and how many are taken if they are there.

    InputError for less than any number of images shows.
    """
    needed = images_needed(0, 0, 1, limit / 100)
    if needed is None:
        raise InputError(f"--max-accuracy-drop {limit:g}: no data set has as many images as would show that.", "Allow more.")
    return needed, max(_LEAST, _TIMES * needed)


def held_out_in_words(count: int, data: str) -> str:
    return f"{count} held-out images of {data}"


class Labelled:
    """Held-out images whose classes are known."""

    def __init__(self, source: Source, options: ExportOptions, progress: Progress) -> None:
        from iresnet_data.datasets import held_out_set
        from iresnet_data.named_data import short_name

        limit, spec = options.max_accuracy_drop, source.spec
        data = chosen_data(options.calibration_data, spec, None)
        assert limit is not None
        if data is None:
            raise InputError(
                "--max-accuracy-drop needs images whose classes are known, and no data are named.",
                "Name a folder that holds train/ and val/ with --calibration-data FOLDER.",
            )
        needed, most = labelled_images(limit)
        pixels, self._labels = held_out_set(data, spec, most)
        count = len(self._labels)
        if count < needed:
            raise InputError(
                f"--max-accuracy-drop {limit:g}: it takes {needed:,} labelled images to show that, at 95 %, and {short_name(data)} "
                f"holds out {count:,}, which show {100 * drop_bound(0, 0, count):.2g} points at best.",
                "Allow more, or hold out more images.",
            )
        self._images = Images(pixels, count, held_out_in_words(count, short_name(data)), spec)
        self._source, self._options, self._progress = source, options, progress

    def top1(self, quantized: onnx.ModelProto) -> Top1:
        found = np.concatenate([logits.argmax(1) for logits in self._logits(OnnxGraph(quantized))])
        mine, own = found == self._labels, self._is_right
        lost, gained = int((own & ~mine).sum()), int((mine & ~own).sum())
        return Top1(len(own), self._images.source, int(own.sum()), lost, gained)

    @cached_property
    def _is_right(self) -> Array:
        with torch.inference_mode():
            logits = [self._source.own(normalised(batch, self._images.spec)).numpy() for batch in self._images.all()]
        right: Array = np.concatenate(logits).argmax(1) == self._labels
        return right

    def _logits(self, graph: OnnxGraph) -> Iterator[Array]:
        for number, batch in enumerate(self._images.taken(self._images.all(), self._options)):
            self._progress("Counting right first classes", number * self._images.batch / len(self._labels))
            yield graph.run(batch).numpy()


@dataclass(frozen=True)
class Goal:
    """How much is asked for: decibels, or percentage points of accuracy with a minus sign, so that more is better.

    `labelled`: what an accuracy is counted over.
    """

    options: ExportOptions
    labelled: Labelled | None

    @classmethod
    def of(cls, source: Source, options: ExportOptions, progress: Progress) -> Goal:
        return cls(options, None if options.max_accuracy_drop is None else Labelled(source, options, progress))

    @property
    def wanted(self) -> float:
        """Nothing asked for is given by anything."""
        if self.options.max_accuracy_drop is not None:
            return -self.options.max_accuracy_drop
        return -math.inf if self.options.min_sqnr is None else self.options.min_sqnr

    def counted(self, made: Quantization, model: onnx.ModelProto) -> Quantization:
        """With its accuracy, if that is asked for; `model` is the float32 graph that it is of."""
        return made if self.labelled is None else dataclasses.replace(made, top1=self.labelled.top1(quantized_onnx(model, made)))

    def value(self, made: Quantization) -> float:
        return made.predicted_sqnr_db if made.top1 is None else -made.top1.drop.bound

    def value_of_step(self, step: Step) -> float:
        return step.sqnr_db if step.accuracy_drop is None else -step.accuracy_drop

    def is_reached(self, made: Quantization) -> bool:
        return self.value(made) >= self.wanted

    def step(self, place: str, made: Quantization) -> Step:
        return Step(place, made.predicted_sqnr_db, accuracy_drop=None if made.top1 is None else made.top1.drop.bound)

    def missed(self, most: float) -> InputError:
        """`most`: what as little as one quantized place gives."""
        fewest = "with as little as one place quantized"
        if self.labelled is None:
            return InputError(
                f"--min-sqnr {self.wanted:g}: {fewest} {most:.1f} dB are predicted.",
                "Ask for less, or take --precision fp16 or fp32.",
            )
        return InputError(
            f"--max-accuracy-drop {-self.wanted:g}: {fewest} these images show {-most:.2f} points at best, at 95 %.",
            "Allow more, hold out more images, or take --precision fp16 or fp32.",
        )
