"""What an int8 export decides, as data, and the scales that follow from it. Needs no torch.

An activation is `scale * (code - zero_point)`, per tensor; a weight `scale * code`, per output channel, with codes from -127 to
127. For CPUs activations are unsigned and asymmetric (U8S8), for TensorRT signed and symmetric (S8S8).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from iresnet_export.errors import ArtifactError
from iresnet_export.layers import Array, Layer

FORMAT = "iresnet-export/quantization/1"

Range = tuple[float, float]
Target = Literal["cpu", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)
Calibrator = Literal["minmax", "percentile", "entropy"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)

_CODES = 127
_LARGEST_BIAS = 2.0**30


@dataclass(frozen=True)
class Codes:
    """How an activation is coded: a float32 scale, and a zero point whose type is that of the codes."""

    scale: np.float32
    zero_point: np.uint8 | np.int8


@dataclass(frozen=True)
class Quantization:
    """Everything about an int8 export that does not follow from its network and fold.

    `ranges`: lowest and highest value of every activation that is quantized, by its name in the ONNX graph. `inputs`: the
    activation whose codes each convolution or linear layer reads. `equalised`: whether the fold's free scales make the channels
    of the residual stream alike. `predicted_sqnr_db` and `predicted_agreement`: signal to error of the logits, and share of the
    same first class, of this graph against the float32 network over the first `compared` of the images, computed by torch.
    """

    target: str
    calibrator: str
    images: int
    image_source: str
    ranges: Mapping[str, Range]
    inputs: Mapping[str, str]
    equalised: bool
    compared: int
    predicted_sqnr_db: float
    predicted_agreement: float

    def codes(self, activation: str) -> Codes:
        """The scale and zero point of an activation."""
        return codes_of(self.ranges[activation], self.target)

    def to_json(self) -> dict[str, Any]:
        ranges = {name: list(limits) for name, limits in self.ranges.items()}
        return {"format": FORMAT, **dataclasses.asdict(self), "ranges": ranges, "inputs": dict(self.inputs)}

    @classmethod
    def from_json(cls, data: Any) -> Quantization:
        """What `to_json` wrote; ArtifactError for anything else."""
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"its format is {data['format']!r}")
            ranges = {str(name): (float(low), float(high)) for name, (low, high) in data["ranges"].items()}
            plain = {key: value for key, value in data.items() if key not in ("format", "ranges")}
            return cls(ranges=ranges, **plain)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"What the descent says of the quantization is damaged ({error}). Export the artifact again."
            ) from error


def codes_of(limits: Range, target: str) -> Codes:
    """The codes that cover a range, which is widened to hold zero: padding and ReLUs need it exactly."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if target == "tensorrt":
        return Codes(_scale(max(-low, high) / _CODES), np.int8(0))
    scale = _scale((high - low) / 255)
    return Codes(scale, np.uint8(np.clip(np.rint(-low / np.float64(scale)), 0, 255)))


def constant_codes(values: Array, target: str) -> tuple[Array, Codes]:
    """A constant per channel as codes, of one scale around zero, so that 1 and -1 are exact."""
    scale = _scale(float(np.abs(values).max()) / _CODES)
    zero = np.int8(0) if target == "tensorrt" else np.uint8(_CODES + 1)
    codes = np.rint(values.astype(np.float64) / scale).clip(-_CODES, _CODES) + int(zero)
    return codes.astype(zero.dtype), Codes(scale, zero)


@dataclass(frozen=True)
class QuantizedWeights:
    """A layer's int8 `weight`, a float32 `scale` per output channel, and its `bias`: int32 codes where `bias_scale` is given."""

    weight: Array
    scale: Array
    bias: Array
    bias_scale: Array | None


def quantized_weights(weight: Array, bias: Array, activation: Codes, target: str) -> QuantizedWeights:
    """A layer's weights (outputs, ...) and bias (outputs) as codes; for TensorRT the bias stays float32.

    On CPUs the bias is int32 in units of activation scale times weight scale, so a channel of tiny weights gets a scale large
    enough for its bias to fit.
    """
    exact = weight.astype(np.float64)
    largest = np.abs(exact).reshape(len(exact), -1).max(axis=1)
    step = largest / _CODES
    if target != "tensorrt":
        step = np.maximum(step, np.abs(bias.astype(np.float64)) / (np.float64(activation.scale) * _LARGEST_BIAS))
    scale = np.where(step > 0, step, 1).astype(np.float32)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    per_channel = scale.astype(np.float64).reshape(-1, *[1] * (exact.ndim - 1))
    codes = np.rint(exact / per_channel).clip(-_CODES, _CODES).astype(np.int8)
    if target == "tensorrt":
        return QuantizedWeights(codes, scale, bias, None)
    bias_scale = (scale * activation.scale).astype(np.float32)
    return QuantizedWeights(codes, scale, np.rint(bias.astype(np.float64) / bias_scale).astype(np.int32), bias_scale)


def quantized_layers(layers: list[Layer], quantization: Quantization) -> list[Layer]:
    """What an int8 artifact of these layers should hold: codes in place of values, and then the codes of every activation."""
    found = [_quantized(layer, quantization) for layer in layers]
    activations = sorted(quantization.ranges)
    return found + [activation_layer(name, quantization.codes(name)) for name in activations]


def activation_layer(name: str, codes: Codes) -> Layer:
    tensors: dict[str, Array] = {"scale": np.asarray(codes.scale), "zero_point": np.asarray(codes.zero_point)}
    return Layer(name, "quantize", tensors, {})


def _quantized(layer: Layer, quantization: Quantization) -> Layer:
    if layer.kind in ("mul", "add") and quantization.target != "tensorrt":
        codes, coding = constant_codes(layer.tensors["constant"], quantization.target)
        return dataclasses.replace(layer, tensors={"constant": codes, **activation_layer(layer.name, coding).tensors})
    if layer.kind not in ("conv", "linear"):
        return layer
    activation = quantization.codes(quantization.inputs[layer.name])
    made = quantized_weights(layer.tensors["weight"], layer.tensors["bias"], activation, quantization.target)
    zero = np.zeros(len(made.scale), np.int32)
    coded = {"weight": made.weight, "weight_scale": made.scale, "weight_zero_point": zero.astype(np.int8), "bias": made.bias}
    if made.bias_scale is not None:
        coded |= {"bias_scale": made.bias_scale, "bias_zero_point": zero}
    return dataclasses.replace(layer, tensors=coded)


def _scale(value: float) -> np.float32:
    return np.maximum(np.float32(value), np.finfo(np.float32).tiny) if value > 0 else np.float32(1)
