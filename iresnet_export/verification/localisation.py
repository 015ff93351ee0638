"""Where an artifact parts from its network: every block's output against float64, in units of the network's own rounding there.

Folded networks are compared in the original's terms: scale and shift of the stream are undone.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.base import Runtime
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.probing import with_outputs
from iresnet_export.backends.onnx.reading import graph_of_onnx
from iresnet_export.graph.align import aligned
from iresnet_export.quantization.schemes import QUANTIZED
from iresnet_export.system.progress import Progress
from iresnet_export.system.torch_settings import without_tf32
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_export.verification.deployment import Deployment, probe_of
from iresnet_export.verification.places import at_places, original_terms
from iresnet_export.verification.reference import Reference, filled, looked_into, onednn_off
from iresnet_export.verification.tf32 import with_tf32
from iresnet_models.preprocessing import normalised

OUTPUT = "output"
"""The place behind the classifier."""
_BATCH = 8
_QUANTIZED_LIMIT = 1.5
"""Quantized backends differ from the evaluated graph by ties between codes alone, and these keep its error as large as it is."""


@dataclass(frozen=True)
class PlaceError:
    """A place in the architecture's own words; signal to noise of candidate and of rounding alone there, in decibels.

    `ratio`: the candidate's root-mean-square error over that of rounding alone; None where the artifact has no such value.
    """

    place: str
    sqnr_db: float | None
    floor_db: float | None
    ratio: float | None


@dataclass(frozen=True)
class Localisation:
    """Every place from the input to the output, and the first that departs; None if none does."""

    places: tuple[PlaceError, ...]
    first: str | None

    @property
    def is_whole(self) -> bool:
        """Whether the artifact has a value at every place."""
        return all(entry.ratio is not None for entry in self.places)


def localise(
    artifact: Artifact,
    runtime: Runtime,
    deployment: Deployment,
    reference: Reference,
    precision: str,
    device: torch.device,
    trust: bool,
    progress: Progress,
    batch: tuple[int, int] | None = None,
) -> Localisation | None:
    """Compares block by block, in batches between those two where they are given; None where inner values cannot be had."""
    probe = runtime.probe(artifact, device, trust=trust)
    if probe is None:
        return None
    source, own = reference.source, deployment.probe
    exact = probe_of(copy.deepcopy(source.network).double(), source.spec)
    forms = list(_rounding_forms(deployment, precision))
    places = own.places
    found = aligned(own.graph, probe.graph, places)
    terms = original_terms(deployment.network, places)
    count = min(len(reference.pixels), looked_into(source.spec))
    smallest, largest = batch or (1, _BATCH)
    size = max(smallest, min(_BATCH, largest))
    sums = {place: _Sums(len(forms)) for place in places}
    for start in range(0, count, size):
        progress("Comparing block by block", start / count)
        pixels = reference.pixels[start : min(start + size, count)]
        inputs = normalised(pixels, source.spec)
        wanted = dict(zip(exact.places, exact.values(inputs.double(), list(exact.places.values())), strict=True))
        for number, (run, own_terms) in enumerate(forms):
            for place, values in run(pixels, inputs).items():
                original = terms[place](values.double()) if own_terms else values.double()
                sums[place].rounding[number] += _squares(original - wanted[place])
        taken = filled(pixels if probe.with_preprocessing else inputs, size).to(device)
        with without_tf32():
            given = probe.values(taken, list(found.values()))
        for place, values in zip(found, given, strict=True):
            values = values[: len(pixels)] if len(values) == size else values  # some modules put images second
            if values.shape == wanted[place].shape or not own.graph.operators:  # other operators may leave a module otherwise
                sums[place].add(terms[place](values.double().cpu()), wanted[place])
    progress("Comparing block by block", 1.0)
    limit = _QUANTIZED_LIMIT if precision in QUANTIZED else NOISE_LIMIT
    errors = [sums[place].error(exact.in_words(place)) for place in places]
    departing = (entry.place for entry in errors if entry.ratio is not None and not entry.ratio <= limit)
    return Localisation(tuple(errors), next(departing, None))


RoundingForm = tuple[Callable[[Tensor, Tensor], dict[str, Tensor]], bool]
"""From pixels and inputs to the values at all places, of a form that only rounds; and whether those are in the artifact's terms."""


def _rounding_forms(deployment: Deployment, precision: str) -> Iterator[RoundingForm]:
    source, network, with_preprocessing = deployment.source, deployment.network, deployment.with_preprocessing
    if deployment.quantization is not None:
        model = deployment.quantized_model
        wanted = aligned(deployment.probe.graph, graph_of_onnx(model), deployment.probe.places)
        observed, names = with_outputs(model, list(wanted.values()))
        graph = OnnxGraph(observed)

        def evaluated(pixels: Tensor, inputs: Tensor) -> dict[str, Tensor]:
            values: dict[str, Tensor] = {}
            keep = lambda name, value: values.update({name: value}) if name in names else None  # noqa: E731
            graph.run(pixels if with_preprocessing else inputs, keep)
            return {place: values[name] for place, name in zip(wanted, names, strict=True)}

        yield evaluated, True
        return
    if precision != "fp32":
        own = probe_of(with_tf32(network), source.spec) if precision == "tf32" else deployment.probe
        yield lambda pixels, inputs: at_places(own, pixels if with_preprocessing else inputs), True
        return
    plain = probe_of(source.network, source.spec)
    other = probe_of(copy.deepcopy(source.network).to(memory_format=torch.channels_last), source.spec)
    yield lambda _pixels, inputs: at_places(plain, inputs), False
    yield lambda _pixels, inputs: at_places(other, inputs.to(memory_format=torch.channels_last)), False

    def without_onednn(_pixels: Tensor, inputs: Tensor) -> dict[str, Tensor]:
        with onednn_off():
            return at_places(plain, inputs)

    yield without_onednn, False


class _Sums:
    """Sums of squares at one place, batch by batch."""

    def __init__(self, forms: int) -> None:
        self.signal, self.candidate = 0.0, math.nan
        self.rounding = [0.0] * forms
        self.counted = 0

    def add(self, values: Tensor, wanted: Tensor) -> None:
        same = values.shape == wanted.shape
        error = _squares(values - wanted) if same else math.inf
        self.candidate = error if math.isnan(self.candidate) else self.candidate + error
        self.signal += _squares(wanted)
        self.counted += wanted.numel()

    def error(self, place: str) -> PlaceError:
        if not self.counted:
            return PlaceError(place, None, None, None)
        floor = max(*self.rounding, 2.0**-48 * self.signal)
        ratio = math.sqrt(self.candidate / floor) if floor > 0 else math.inf
        return PlaceError(place, _decibels(self.signal, self.candidate), _decibels(self.signal, floor), ratio)


def _squares(values: Tensor) -> float:
    found = float(values.square().sum())
    return found if math.isfinite(found) else math.inf


def _decibels(signal: float, error: float) -> float | None:
    return 10 * math.log10(signal / error) if signal > 0 and 0 < error < math.inf else None
