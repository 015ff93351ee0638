"""Biases that make up for what quantizing shifts on average (Nagel et al. 2019, section 4.2, measured with images).

Codes round weights and activations, and a layer's outputs are then off by a mean of their own in every channel. What is added to
the codes of its bias takes that mean away, and costs nothing at inference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.graph.ir import Array
from iresnet_export.quantization.codes import Quantization
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.quantization.schemes import Scheme

FEWEST = 16
"""Images, whose mean says something of others."""
_LARGEST = 512
"""Pixels: all images go through a layer before the next one, and larger ones would not fit into memory."""
_SURE = 3.0
"""Standard errors, of the mean over images: what is less may be chance."""
_FLOAT32 = 2.0**-22
"""Relative: as finely as float32 computes with a code. Channels whose weights are all pruned have codes of 2^30."""
_ELSEWHERE = 5.0
"""By so many more the same images may give another mean on another processor: ties between codes round either way."""


@dataclass(frozen=True)
class Shift:
    """By how much a layer's outputs are off, for every channel in units of its bias's codes.

    The mean over images, and how far off that may be: its standard error, and what float32 rounds.
    """

    mean: Array
    error: Array

    @property
    def correction(self) -> Array:
        """What to add to the codes (int32), where the mean is more than chance."""
        return np.where(np.abs(self.mean) > _SURE * self.error, -np.rint(self.mean), 0).astype(np.int32)

    @property
    def is_chance(self) -> bool:
        """Whether it may be what is left of one that was corrected, here or elsewhere."""
        return bool((np.abs(self.mean) <= (_SURE + _ELSEWHERE) * self.error + 1).all())


def is_corrected(scheme: Scheme, images: int, image_size: int) -> bool:
    """Whether an export tries to correct biases: where they are codes, and so many images of this size can tell of others."""
    return scheme.everywhere and images >= FEWEST and image_size <= _LARGEST


def bias_corrections(model: onnx.ModelProto, quantization: Quantization, batch: Tensor) -> dict[str, tuple[int, ...]]:
    """What to add to the codes of biases, layer by layer; layers that need nothing are left out.

    `model`: the float graph; `quantization`: without corrections; `batch`: images as the graph takes them. Each layer is measured
    when those before it are corrected, all in one pass.
    """
    found = {name: shift.correction for name, shift in _shifts(model, quantization, batch, correct=True).items()}
    return {name: tuple(values.tolist()) for name, values in found.items() if values.any()}


def uncorrected(model: onnx.ModelProto, quantization: Quantization, batch: Tensor) -> str | None:
    """The first layer whose outputs are off by more than chance, with the corrections that a quantization holds."""
    shifts = _shifts(model, quantization, batch, correct=False)
    return next((name for name, shift in shifts.items() if not shift.is_chance), None)


def _shifts(model: onnx.ModelProto, quantization: Quantization, batch: Tensor, *, correct: bool) -> dict[str, Shift]:
    layers = {node.output[0]: node for node in model.graph.node if node.name in quantization.inputs}
    quantized = quantized_onnx(model, quantization)
    known = {tensor.name: tensor for tensor in quantized.graph.initializer}
    wanted: dict[str, Tensor] = {}
    found: dict[str, Shift] = {}

    def remember(name: str, values: Tensor) -> None:
        if name in layers:
            wanted[name] = _by_image(values)

    def measure(name: str, values: Tensor) -> Tensor | None:
        if name not in layers:
            return None
        node = layers[name]
        codes, scale = (torch.tensor(numpy_helper.to_array(known[f"{node.input[2]}{what}"])) for what in ("", ".scale"))
        off = ((_by_image(values) - wanted.pop(name)) / scale).numpy()
        chance, rounded = off.std(axis=0, ddof=1) / np.sqrt(len(off)), _FLOAT32 * codes.double().abs().numpy()
        shift = Shift(off.mean(axis=0), np.hypot(chance, rounded))
        found[node.name] = shift
        if not correct:
            return None
        return values + (torch.from_numpy(shift.correction) * scale).view(1, -1, *[1] * (values.dim() - 2))

    OnnxGraph(model).run(batch, remember)
    OnnxGraph(quantized).run(batch, measure)
    return found


def _by_image(values: Tensor) -> Tensor:
    """The mean of every channel, for each image (n, channels), in float64."""
    return torch.stack([image.double().reshape(len(image), -1).mean(1) for image in values])
