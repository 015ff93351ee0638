"""ONNX graphs read back: every weight, attribute and scale, as the file holds it, of our graphs and of others'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx import helper, numpy_helper

from iresnet_export.backends.onnx_constants import computed_constants
from iresnet_export.layers import Array, Kind, Layer, conv_attributes, float32
from iresnet_export.quantization.qdq import quantized_activations


def layers_of_onnx(model: onnx.ModelProto) -> list[Layer]:
    """Every Conv, BatchNormalization, Gemm and MatMul of a graph, and every Mul, Add and Sub of a constant, in its order.

    Those of a quantized graph hold codes, with their scales; its activations' scales and zero points follow.
    """
    constants = _Constants(model)
    nodes = (node for node in model.graph.node if node.op_type in _READ and not constants.derived.issuperset(node.output))
    layers = [_READ[node.op_type](node, constants) for node in nodes]
    weighted = [layer for layer in layers if layer.tensors or layer.kind not in ("mul", "add", "sub")]
    return weighted + quantized_activations(model)


class _Constants:
    """The constant tensors of a graph, by the name of the value that holds them; quantized ones with their scales."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._computed, self.derived = computed_constants(model)
        self._dequantized = {
            node.output[0]: list(node.input)
            for node in model.graph.node
            if node.op_type == "DequantizeLinear" and all(name in self._tensors or name in self._computed for name in node.input)
        }

    def __contains__(self, value: str) -> bool:
        return value in self._tensors or value in self._computed or value in self._dequantized

    def of(self, value: str, name: str) -> dict[str, Array]:
        """The tensor of a value under `name`, with its scale and zero point if it is quantized; nothing if it is no constant."""
        if value in self._dequantized:
            names = (name, f"{name}_scale", f"{name}_zero_point")
            return dict(zip(names, map(self._array, self._dequantized[value]), strict=False))
        return {name: self._array(value)} if value in self else {}

    def is_surplus_zero(self, value: str) -> bool:
        """Whether a constant is nothing but zeros that the graph computes: some exporters make biases of layers that have none."""
        return value in self._computed and value not in self._tensors and not self._computed[value].any()

    def quantized_constant(self, value: str) -> dict[str, Array]:
        """A constant per channel, with its scale and zero point if it is quantized."""
        if value not in self._dequantized:
            return {"constant": self._array(value)}
        return dict(zip(("constant", "scale", "zero_point"), map(self._array, self._dequantized[value]), strict=False))

    def _array(self, name: str) -> Array:
        return self._computed[name] if name in self._computed else numpy_helper.to_array(self._tensors[name])


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _tensors(node: onnx.NodeProto, constants: _Constants, names: Sequence[str]) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for value, name in zip(list(node.input)[1:], names, strict=False):
        if not (name == "bias" and constants.is_surplus_zero(value)):
            found |= constants.of(value, name)
    return found


def _conv(node: onnx.NodeProto, constants: _Constants) -> Layer:
    found = _attributes(node)
    pads = found.get("pads", [0, 0, 0, 0])
    symmetric = pads[:2] == pads[2:] and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    attributes = conv_attributes(
        found.get("strides", [1, 1]), pads[:2] if symmetric else pads, found.get("dilations", [1, 1]), found.get("group", 1)
    )
    return Layer(node.name, "conv", _tensors(node, constants, ("weight", "bias")), attributes)


def _batch_norm(node: onnx.NodeProto, constants: _Constants) -> Layer:
    found = _attributes(node)
    attributes = {"eps": float32(found.get("epsilon", 1e-5))}
    if found.get("training_mode", 0):
        attributes["training_mode"] = 1
    return Layer(node.name, "batch_norm", _tensors(node, constants, ("weight", "bias", "running_mean", "running_var")), attributes)


def _gemm(node: onnx.NodeProto, constants: _Constants) -> Layer:
    found = _attributes(node)
    tensors = _tensors(node, constants, ("weight", "bias"))
    if "weight" in tensors and not found.get("transB", 0):
        tensors["weight"] = tensors["weight"].T
    attributes = {key: found[key] for key in ("alpha", "beta") if found.get(key, 1.0) != 1.0} | (
        {"transA": 1} if found.get("transA", 0) else {}
    )
    return Layer(node.name, "linear", tensors, attributes)


def _matmul(node: onnx.NodeProto, constants: _Constants) -> Layer:
    tensors = _tensors(node, constants, ("weight",))
    return Layer(node.name, "linear", {name: values.T for name, values in tensors.items()}, {})


def _with_constant(node: onnx.NodeProto, constants: _Constants) -> Layer:
    held = next((value for value in node.input if value in constants), None)
    kinds: dict[str, Kind] = {"Mul": "mul", "Add": "add", "Sub": "sub"}
    return Layer(node.name, kinds[node.op_type], {} if held is None else constants.quantized_constant(held), {})


_READ: dict[str, Callable[[onnx.NodeProto, _Constants], Layer]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Mul": _with_constant,
    "Add": _with_constant,
    "Sub": _with_constant,
}
