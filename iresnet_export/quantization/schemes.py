"""How numbers become codes, for each precision and target that quantized graphs are made for.

| scheme | activations | weights | quantized |
| --- | --- | --- | --- |
| int8 for CPUs | uint8, asymmetric | int8 | every value, biases too |
| int8 for TensorRT | int8 | int8 | inputs of convolutions and of the classifier, and the shortcut of every addition |
| fp8 for TensorRT | E4M3 | E4M3 | inputs of convolutions of up to 32 taps and of the classifier |

Activations have one scale for a tensor, weights one for each output channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import ml_dtypes
import numpy as np

from iresnet_export.errors import InputError
from iresnet_export.graph.ir import Array

Target = Literal["cpu", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)
Calibrator = Literal["minmax", "percentile", "entropy"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)
AUTO = "auto"
"""In place of a calibrator: each is tried, and what measures best on held-out images is kept."""

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
"""8 bits: sign, 4 of the exponent, 3 of the mantissa; 448 at most, and no infinity (Micikevicius et al. 2022)."""

_LEAST_EXPONENT, _MANTISSA_BITS = -6, 3


@dataclass(frozen=True)
class Scheme:
    """One of SCHEMES. `largest`: the code that the furthest value of a symmetric range gets."""

    precision: str
    target: Target
    activations: np.dtype
    weights: np.dtype
    largest: int
    calibrators: tuple[Calibrator, ...] = CALIBRATORS
    """Those that are tried."""
    asymmetric: bool = False
    """Whether activations have a zero point of their own. Else it is 0."""
    everywhere: bool = False
    """Whether every value is quantized that can be, with biases and constants, rather than the inputs of weighted layers."""
    shortcuts: bool = False
    """Whether, where not everything is, the shortcut of every addition is."""
    most_taps: int | None = None
    """Convolutions of more weights than this for each pair of channels stay in float32."""

    def quantizes(self, weight_shape: Sequence[int]) -> bool:
        """Whether a layer with weights (outputs, inputs, ...) is quantized."""
        return self.most_taps is None or math.prod(weight_shape[2:]) <= self.most_taps

    def weight_codes(self, values: Array) -> Array:
        """The codes of values in units of their scale (float64), rounded once, half to even; beyond `largest` they saturate."""
        bounded = values.clip(-self.largest, self.largest)
        return (_rounded_to_e4m3(bounded) if self.weights == E4M3 else np.rint(bounded)).astype(self.weights)


def _rounded_to_e4m3(values: Array) -> Array:
    """To the nearest number of E4M3, in float64: ml_dtypes and torch go by way of float32, and so round twice."""
    _, exponents = np.frexp(values)
    steps = np.ldexp(1.0, np.maximum(exponents - 1, _LEAST_EXPONENT) - _MANTISSA_BITS)
    rounded: Array = np.rint(values / steps) * steps
    return rounded


_INT8, _UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
SCHEMES: dict[tuple[str, Target], Scheme] = {
    ("int8", "cpu"): Scheme("int8", "cpu", _UINT8, _INT8, 127, asymmetric=True, everywhere=True),
    ("int8", "tensorrt"): Scheme("int8", "tensorrt", _INT8, _INT8, 127, shortcuts=True),
    # Codes of floats are as fine for small values as for large ones: cutting off the largest gains nothing, and entropy is
    # measured over codes of one width. TensorRT has no fp8 kernels for 7x7 convolutions (seen in plans of TensorRT-RTX 1.7.1:
    # 25 taps are computed in fp8, 49 in float32 by way of fp8), and adds shortcuts in float32 whatever they are stored in.
    ("fp8", "tensorrt"): Scheme("fp8", "tensorrt", E4M3, E4M3, 448, ("minmax", "percentile"), most_taps=32),
}
QUANTIZED = tuple(dict.fromkeys(precision for precision, _ in SCHEMES))
"""The precisions of codes with scales."""


def scheme_for(precision: str, target: Target) -> Scheme | None:
    """The scheme of a precision for a target; None for a floating-point type. InputError where the target has no such one."""
    if precision not in QUANTIZED:
        return None
    if (precision, target) not in SCHEMES:
        raise InputError(
            f"{precision} is for TensorRT alone: nothing here computes it on a CPU.", "Take trt, or onnx --target tensorrt."
        )
    return SCHEMES[precision, target]
