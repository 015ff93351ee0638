"""What a quantized export decides, as data, and the scales and codes that follow from it. Needs no torch.

An activation is `scale * (code - zero_point)`, per tensor; a weight `scale * code`, per output channel (`schemes.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import numpy as np

from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.graph.ir import Array, Graph, Node
from iresnet_export.quantization.kept import is_kept
from iresnet_export.quantization.schemes import CALIBRATORS, SCHEMES, Scheme, Target, scheme_for
from iresnet_export.verification.decisions import AccuracyDrop, drop_of
from iresnet_models.outputs import is_of_output
from iresnet_models.typed import shortly, typed

FORMAT = "iresnet-export/quantization/1"

Range = tuple[float, float]

_FURTHEST = 1e38
WIDEST_INTERVAL_DB = 10.0
"""What so few images say is as good as nothing."""
_SQNR_DB = (-60.0, 4000.0)
"""Noise a thousand times the signal is no network any more; no error at all is 3,080 dB."""

_LONGEST_MS = 1e9
_UNSIGNED_CODES = 255
_LARGEST_BIAS = 2.0**30
_LARGEST_CORRECTION = 2**29
"""Both together are an int32."""


@dataclass(frozen=True)
class Codes:
    """How an activation is coded: a float32 scale, and a zero point whose type is that of the codes."""

    scale: np.float32
    zero_point: np.generic


@dataclass(frozen=True)
class Trial:
    """What one way of quantizing costs on the held-out images.

    Ranges by `calibrator` over so many other `images`, of one of both folds, with biases `corrected` or not.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}

    calibrator: str
    equalized: bool
    images: int
    sqnr_db: float
    agreement: float
    corrected: bool = False

    def in_words(self, measured: int) -> str:
        """Such as `minmax equalized 31.2 dB`, with the number of images that it was tried by if that was not `measured`."""
        few = "" if self.images == measured else f" by {self.images}"
        how = f"{' equalized' if self.equalized else ''}{' with corrected biases' if self.corrected else ''}"
        return f"{self.calibrator}{how}{few} {self.sqnr_db:.1f} dB"


@dataclass(frozen=True)
class Step:
    """What it gives and costs to keep one more `place` in float32, empty for none.

    `sqnr_db`: predicted by the calibrator and fold that are best with none kept. `accuracy_drop`: percentage points that the top-1
    accuracy drops by no more than, at 95 %; None where it was not asked for. `milliseconds`: of ONNX Runtime for one image, the
    median of interleaved runs; None where the file is not for CPUs, and for some of many.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}

    place: str
    sqnr_db: float
    milliseconds: float | None = None
    accuracy_drop: float | None = None

    def in_words(self) -> str:
        """Such as `layer1.0 too 31.2 dB in 9.71 ms`."""
        drop = "" if self.accuracy_drop is None else f", up to {self.accuracy_drop:.2f} points lost"
        time = "" if self.milliseconds is None else f" in {self.milliseconds:.3g} ms"
        return f"{f'{self.place} too' if self.place else 'none of them'} {self.sqnr_db:.1f} dB{drop}{time}"


@dataclass(frozen=True)
class Top1:
    """First classes of labelled `images`: those that the float32 network has `right`, and what quantizing loses and gains."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}

    images: int
    image_source: str
    right: int
    lost: int
    gained: int

    @property
    def drop(self) -> AccuracyDrop:
        """What that says of the accuracy."""
        return drop_of(self.images, self.right, self.lost, self.gained)

    @property
    def is_possible(self) -> bool:
        """Whether images can be counted so."""
        return 0 <= self.lost <= self.right and 0 <= self.gained <= self.images - self.right and 1 <= self.images <= 2**32

    def in_words(self) -> str:
        """Such as `99.00 % of 500 held-out images of digits, 98.80 % quantized: no worse than 0.95 points, at 95 %`."""
        drop = self.drop
        return f"{drop.reference.percent:.2f} % of {self.image_source}, {drop.candidate.percent:.2f} % quantized: {drop.verdict()}"


@dataclass(frozen=True)
class Quantization:
    """Everything about a quantized export that does not follow from its network and fold.

    `ranges`: lowest and highest value of every activation that is quantized, by its name in the ONNX graph. `inputs`: the
    activation whose codes each quantized convolution or linear layer reads; `floating`: those layers that stay in float32.
    `equalized`: whether the fold's free scales make the channels of the residual stream alike. `predicted_sqnr_db` and
    `predicted_agreement`: signal to error of the logits, and share of the same first class, of this graph against the float32
    network, computed by torch over `compared` of the images, which ranges were not measured with; other images of their kind give
    this signal to error give or take `predicted_interval_db` (95 %). `bias_corrections`: what is added to the codes of a layer's
    biases. `tried`: what it was chosen from, by the same images. `kept`: the places that stay in float32 by choice, and `steps`:
    what keeping each of those cost that were found for a signal to noise or for an accuracy, which is `top1`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}

    target: str
    calibrator: str
    images: int
    image_source: str
    ranges: Mapping[str, Range]
    inputs: Mapping[str, str]
    equalized: bool
    compared: int
    predicted_sqnr_db: float
    predicted_agreement: float
    predicted_interval_db: float
    bias_corrections: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    tried: tuple[Trial, ...] = ()
    precision: str = "int8"
    floating: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    top1: Top1 | None = None

    @property
    def scheme(self) -> Scheme:
        """Raises ArtifactError where a damaged manifest names none that there is."""
        try:
            found = scheme_for(self.precision, cast("Target", self.target))
        except InputError as error:
            raise _damaged(error) from error
        if found is None:
            raise _damaged(f"{self.precision} has no codes")
        return found

    def codes(self, activation: str) -> Codes:
        """The scale and zero point of an activation; ArtifactError where a damaged manifest has none."""
        if activation not in self.ranges:
            raise _damaged(f"it has no range for {activation}")
        return codes_of(self.ranges[activation], self.scheme)

    def to_json(self) -> dict[str, Any]:
        ranges = {name: list(limits) for name, limits in self.ranges.items()}
        corrections = {name: list(codes) for name, codes in self.bias_corrections.items()}
        lists: dict[str, Any] = {"floating": list(self.floating), "kept": list(self.kept)}
        lists |= {name: [dataclasses.asdict(part) for part in getattr(self, name)] for name in ("tried", "steps")}
        made = {"ranges": ranges, "inputs": dict(self.inputs), "bias_corrections": corrections, **lists}
        return {"format": FORMAT, **dataclasses.asdict(self), **made}

    @classmethod
    def from_json(cls, data: Any) -> Quantization:
        """What `to_json` wrote; ArtifactError, which names the field, for anything else."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise _damaged(f"it is no object of the format {FORMAT}")
        try:
            found = typed(cls, {key: value for key, value in data.items() if key != "format"}, "it")
        except InputError as error:
            raise _damaged(error) from error
        wrong = found._impossible()
        if wrong is not None:
            raise _damaged(wrong)
        return found

    def in_words(self) -> dict[str, str]:
        """How it was made, what it is predicted to cost, what was tried, and what stays in float32."""
        measured = max((trial.images for trial in self.tried), default=self.images)
        how = ", of a stream whose channels are equalized" if self.equalized else ""
        how += "; biases corrected" if self.bias_corrections else ""
        found = {
            "quantized": f"ranges by {self.calibrator} over {measured} of {self.image_source}{how}",
            "predicted": f"signal to noise {self.predicted_sqnr_db:.1f} ± {self.predicted_interval_db:.1f} dB, "
            f"{self.predicted_agreement:.1%} of the first classes as in fp32, by {self.compared} "
            f"{'held out' if measured < self.images else 'of the same'}",
            "tried": ", ".join(trial.in_words(measured) for trial in self.tried) if len(self.tried) > 1 else "",
            "top-1 accuracy": "" if self.top1 is None else self.top1.in_words(),
            "kept in float32": ", ".join(self.kept),
            "step by step": ", ".join(step.in_words() for step in self.steps),
        }
        return {name: words for name, words in found.items() if words}

    def _impossible(self) -> str | None:
        """What no export writes: then nothing could be held against it."""
        for name, (low, high) in self.ranges.items():
            if not -_FURTHEST <= low <= high <= _FURTHEST:
                return f"ranges.{name}: a range goes from a lowest to a highest number, not from {low:g} to {high:g}"
        lowest, highest = _SQNR_DB
        if not lowest <= self.predicted_sqnr_db <= highest:
            return f"predicted_sqnr_db: no signal to noise is {self.predicted_sqnr_db:g} dB"
        if not 0 <= self.predicted_agreement <= 1:
            return f"predicted_agreement: no share is {self.predicted_agreement:g}"
        if not 0 <= self.predicted_interval_db <= WIDEST_INTERVAL_DB:
            return f"predicted_interval_db: no interval is {self.predicted_interval_db:g} dB either way"
        if not 1 <= self.compared <= self.images <= 2**32:
            return f"compared, images: it says that {self.compared} of {self.images} images were compared"
        for name, codes in self.bias_corrections.items():
            if any(abs(code) > _LARGEST_CORRECTION for code in codes):
                return f"bias_corrections.{name}: no code is corrected by more than {_LARGEST_CORRECTION:,}"
        for trial in self.tried:
            if not (lowest <= trial.sqnr_db <= highest and 0 <= trial.agreement <= 1 and 1 <= trial.images <= self.images):
                return f"tried: nothing measures {trial.sqnr_db:g} dB and {trial.agreement:g} with {trial.images} images"
        for step in self.steps:
            if not (lowest <= step.sqnr_db <= highest and 0 <= (step.milliseconds or 0.0) <= _LONGEST_MS):
                return f"steps: nothing measures {step.sqnr_db:g} dB in {step.milliseconds} ms"
            if not -100 <= (step.accuracy_drop or 0.0) <= 100:
                return f"steps: no accuracy drops by {step.accuracy_drop:g} points"
        if self.top1 is not None and not self.top1.is_possible:
            return "top1: images are counted that are not there"
        if self.calibrator not in CALIBRATORS:
            return f"calibrator: there is no {shortly(self.calibrator)}"
        if (self.precision, self.target) not in SCHEMES:
            return f"precision, target: there is no {shortly(self.precision)} for {shortly(self.target)}"
        return None


def _damaged(what: object) -> ArtifactError:
    return ArtifactError(f"What the manifest says of the quantization is damaged ({what}).", "Export the artifact again.")


def codes_of(limits: Range, scheme: Scheme) -> Codes:
    """The codes that cover a range, which is widened to hold zero: padding and ReLUs need it exactly."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if not scheme.asymmetric:
        return Codes(_scale(max(-low, high) / scheme.largest), scheme.activations.type(0))
    scale = _scale((high - low) / _UNSIGNED_CODES)
    return Codes(scale, scheme.activations.type(np.clip(np.rint(-low / np.float64(scale)), 0, _UNSIGNED_CODES)))


def constant_codes(values: Array, scheme: Scheme) -> tuple[Array, Codes]:
    """A constant per channel as codes, of one scale around zero, so that 1 and -1 are exact."""
    scale = _scale(float(np.abs(values).max()) / scheme.largest)
    zero = scheme.activations.type(scheme.largest + 1 if scheme.asymmetric else 0)
    codes = scheme.weight_codes(values.astype(np.float64) / scale)
    return (codes.astype(np.int32) + int(zero)).astype(zero.dtype) if scheme.asymmetric else codes, Codes(scale, zero)


@dataclass(frozen=True)
class QuantizedWeights:
    """A layer's `weight` as codes, a float32 `scale` per output channel, and its `bias`: int32 codes if `bias_scale` is given."""

    weight: Array
    scale: Array
    bias: Array
    bias_scale: Array | None


def quantized_weights(
    weight: Array, bias: Array, activation: Codes, scheme: Scheme, correction: Sequence[int] = ()
) -> QuantizedWeights:
    """A layer's weights (outputs, ...) and bias (outputs) as codes; where not everything is quantized the bias stays float32.

    A quantized bias is int32 in units of activation scale times weight scale, so a channel of tiny weights gets a scale large
    enough for its bias to fit. `correction` (outputs) is added to its codes. Raises ArtifactError for one of another length.
    """
    exact = weight.astype(np.float64)
    largest = np.abs(exact).reshape(len(exact), -1).max(axis=1)
    step = largest / scheme.largest
    if scheme.everywhere:
        step = np.maximum(step, np.abs(bias.astype(np.float64)) / (np.float64(activation.scale) * _LARGEST_BIAS))
    scale = np.where(step > 0, step, 1).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    codes = scheme.weight_codes(exact / scale.astype(np.float64).reshape(-1, *[1] * (exact.ndim - 1)))
    if correction and not scheme.everywhere:
        raise _damaged(f"it corrects codes of biases, and {scheme.precision} for {scheme.target} has none")
    if len(correction) not in (0, len(scale)):
        raise _damaged(f"it corrects {len(correction)} biases of a layer that has {len(scale)}")
    if not scheme.everywhere:
        return QuantizedWeights(codes, scale, bias, None)
    bias_scale = (scale * activation.scale).astype(np.float32)
    bias_codes = np.rint(bias.astype(np.float64) / bias_scale) + (np.asarray(correction, np.float64) if correction else 0)
    return QuantizedWeights(codes, scale, bias_codes.astype(np.int32), bias_scale)


def quantized_graph(graph: Graph, quantization: Quantization) -> Graph:
    """What a quantized artifact of this graph should hold: codes in place of weights, and the codes of every activation.

    Raises ArtifactError where the quantization leaves out layers that its scheme quantizes.
    """
    activations = [activation_codes(name, quantization.codes(name)) for name in sorted(quantization.ranges)]
    coded = [_quantized(node, quantization) if node.tensors and not is_of_output(node.name) else node for node in graph.nodes]
    return Graph(coded, activations)


def activation_codes(name: str, codes: Codes) -> Node:
    tensors: dict[str, Array] = {"scale": np.asarray(codes.scale), "zero_point": np.asarray(codes.zero_point)}
    return Node("quantize", name, tensors=tensors)


def _quantized(layer: Node, quantization: Quantization) -> Node:
    scheme, kept = quantization.scheme, is_kept(layer.name, quantization.kept)
    if layer.kind in ("mul", "add") and scheme.everywhere and not kept:
        codes, coding = constant_codes(layer.tensors["constant"], scheme)
        return dataclasses.replace(layer, tensors={"constant": codes, **activation_codes(layer.name, coding).tensors})
    if layer.kind not in ("conv", "linear"):
        return layer
    quantizes = scheme.quantizes(layer.tensors["weight"].shape) and not kept
    if quantizes != (layer.name in quantization.inputs) or quantizes == (layer.name in quantization.floating):
        does = "quantizes" if quantizes else "does not quantize"
        raise _damaged(f"{scheme.precision} for {scheme.target} {does} {layer.name}, and it says otherwise")
    if not quantizes:
        return layer
    activation = quantization.codes(quantization.inputs[layer.name])
    correction = quantization.bias_corrections.get(layer.name, ())
    made = quantized_weights(layer.tensors["weight"], layer.tensors["bias"], activation, scheme, correction)
    zero = np.zeros(len(made.scale), np.int32)
    coded = {
        "weight": made.weight,
        "weight_scale": made.scale,
        "weight_zero_point": zero.astype(scheme.weights),
        "bias": made.bias,
    }
    if made.bias_scale is not None:
        coded |= {"bias_scale": made.bias_scale, "bias_zero_point": zero}
    return dataclasses.replace(layer, tensors=coded)


def _scale(value: float) -> np.float32:
    return np.maximum(np.float32(value), np.finfo(np.float32).tiny) if value > 0 else np.float32(1)
