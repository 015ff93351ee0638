"""ONNX graphs of ours, computed by torch: what they mean, apart from any runtime.

It serves calibration, which watches every value go by, and the prediction of what quantization costs. Values are freed after their
last use, so memory does not grow with depth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import Tensor

from iresnet_export.errors import ExportError
from iresnet_export.graph.ir import tensor_of

Watch = Callable[[str, Tensor], Tensor | None]
"""Told the name of each value, and the value. What it gives, if anything, is taken in its place."""


class OnnxGraph:
    """An ONNX graph, ready to be computed in one floating-point type. Codes, whole numbers or E4M3's, are in that type too."""

    def __init__(self, model: onnx.ModelProto, dtype: torch.dtype = torch.float32) -> None:
        self._input, self._outputs = model.graph.input[0].name, [value.name for value in model.graph.output]
        self._constants: dict[str, Tensor] = {}
        self._codes: dict[str, torch.dtype] = {}
        for tensor in model.graph.initializer:
            values = tensor_of(numpy_helper.to_array(tensor))
            self._codes[tensor.name] = values.dtype
            self._constants[tensor.name] = values.to(dtype)
        self._dtype = dtype
        self._nodes: list[tuple[onnx.NodeProto, dict[str, Any]]] = []
        for node in model.graph.node:
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants:  # once, not for every batch
                inputs = [self._constants[name] for name in node.input]
                self._constants[node.output[0]] = _dequantized(inputs, attributes)
            else:
                self._nodes.append((node, attributes))
        self._uses = Counter(name for node, _ in self._nodes for name in node.input)

    def run(self, batch: Tensor, watch: Watch | None = None) -> Tensor:
        """The first output for a batch of what the graph takes."""
        return self.run_all(batch, watch)[0]

    def run_all(self, batch: Tensor, watch: Watch | None = None) -> tuple[Tensor, ...]:
        """Every output, in the graph's order."""
        values, left = {self._input: batch.to(self._dtype)}, Counter(self._uses)
        if watch is not None:
            watch(self._input, values[self._input])
        with torch.inference_mode():
            for node, attributes in self._nodes:
                inputs = [values[name] if name in values else self._constants[name] for name in node.input]
                made = self._computed(node, inputs, attributes)
                other = None if watch is None else watch(node.output[0], made)
                values[node.output[0]] = made if other is None else other
                for name in node.input:
                    left[name] -= 1
                    if not left[name] and name in values and name not in self._outputs:
                        del values[name]
        return tuple(values[name] for name in self._outputs)

    def _computed(self, node: onnx.NodeProto, inputs: list[Tensor], attributes: dict[str, Any]) -> Tensor:
        if node.op_type == "QuantizeLinear":
            x, scale, zero = inputs
            return _coded(x / scale, zero, self._codes[node.input[2]])
        if node.op_type not in _OPERATORS:
            raise ExportError(f"The graph holds {node.op_type} at {node.name}, which this project never writes.")
        return _OPERATORS[node.op_type](inputs, attributes)


def _coded(scaled: Tensor, zero: Tensor, codes: torch.dtype) -> Tensor:
    """The nearest codes, those beyond the last one at it. Casts of torch may saturate or not: the limits are set before."""
    if codes.is_floating_point:
        limits = torch.finfo(codes)
        return scaled.clamp(limits.min, limits.max).to(codes).to(scaled.dtype)
    whole = torch.iinfo(codes)
    return (torch.round(scaled) + zero).clamp(whole.min, whole.max)


def _dequantized(inputs: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    codes, scale, zero = inputs
    if scale.dim():
        shape = [1] * codes.dim()
        shape[attributes.get("axis", 1)] = -1
        scale, zero = scale.view(shape), zero.view(shape)
    return (codes - zero) * scale


def _conv(inputs: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    x, weight, *bias = inputs
    pads = attributes["pads"]
    return F.conv2d(
        F.pad(x, (pads[1], pads[3], pads[0], pads[2])) if any(pads) else x,
        weight,
        bias[0] if bias else None,
        attributes["strides"],
        0,
        attributes["dilations"],
        attributes["group"],
    )


def _batch_norm(inputs: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    x, weight, bias, mean, variance = inputs
    return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=attributes["epsilon"])


def _max_pool(inputs: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    return F.max_pool2d(inputs[0], attributes["kernel_shape"], attributes["strides"], attributes["pads"][:2])


_OPERATORS: dict[str, Callable[[list[Tensor], dict[str, Any]], Tensor]] = {
    "DequantizeLinear": _dequantized,
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "MaxPool": _max_pool,
    "Gemm": lambda inputs, _attributes: F.linear(*inputs),
    "Relu": lambda inputs, _attributes: F.relu(inputs[0]),
    "Clip": lambda inputs, _attributes: torch.maximum(inputs[0], inputs[1]),
    "Add": lambda inputs, _attributes: inputs[0] + inputs[1],
    "Sub": lambda inputs, _attributes: inputs[0] - inputs[1],
    "Mul": lambda inputs, _attributes: inputs[0] * inputs[1],
    "Identity": lambda inputs, _attributes: inputs[0],
    "Cast": lambda inputs, _attributes: inputs[0],
    "Transpose": lambda inputs, attributes: inputs[0].permute(*attributes["perm"]),
    "GlobalAveragePool": lambda inputs, _attributes: inputs[0].mean((2, 3), keepdim=True),
    "Flatten": lambda inputs, attributes: inputs[0].flatten(attributes["axis"]),
    "Softmax": lambda inputs, attributes: inputs[0].softmax(attributes["axis"]),
}
