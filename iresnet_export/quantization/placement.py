"""Where an ONNX graph is quantized: pairs of QuantizeLinear and DequantizeLinear around what a target computes in codes.

For CPUs every value is quantized that ONNX Runtime or OpenVINO can compute in integers, so that nothing is converted to float
between the first convolution and the last. For TensorRT, as its documentation asks, the inputs of convolutions and linear layers
are, and in int8 the shortcut of every addition; the rest it decides by itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from iresnet_export.errors import ExportError
from iresnet_export.graph.ir import Array, Node
from iresnet_export.quantization.codes import Quantization, constant_codes, quantized_weights
from iresnet_export.quantization.kept import is_kept
from iresnet_export.quantization.schemes import Scheme
from iresnet_models.outputs import is_of_output

_WEIGHTED = ("Conv", "Gemm")
_SAME_CODES = ("MaxPool", "Flatten")
"""Operators that move codes about and so need no range of their own."""
_FUSED_WITH_RELU = ("Conv", "Add", "Mul")
_FLOAT = ("Transpose", "Cast", "Softmax")
"""What comes before the first and after the last quantized value, on CPUs."""


class Placement:
    """The values of a float graph that are quantized by a scheme, and what becomes of the others.

    `kept`: the places that stay in float32 by choice.
    """

    def __init__(self, model: onnx.ModelProto, scheme: Scheme, kept: Collection[str] = ()) -> None:
        graph = model.graph
        self.scheme, self._kept = scheme, kept
        self.floating = floating_layers(model, scheme, kept)
        self.constants = {tensor.name for tensor in graph.initializer}
        nodes = [node for node in graph.node if not is_of_output(node.name)]  # what is given besides changes no code
        self._producers = {node.output[0]: node for node in nodes}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self._consumers[name].append(node)
        self._outputs = {value.name for value in graph.output}
        values = [graph.input[0].name, *self._producers]
        wanted = self._anywhere if scheme.everywhere else self._as_input
        self.quantized = [value for value in values if wanted(value)]
        self.ranged = [value for value in self.quantized if self.codes_from(value) == value]
        """Those that need a range of their own."""
        self.inputs = {node.name: self.codes_from(node.input[0]) for node in nodes if self.quantizes(node)}

    def codes_from(self, value: str) -> str:
        """The value whose codes a value shares: itself, or what it only moves, or rectifies."""
        producer = self._producers.get(value)
        if not self.scheme.everywhere or producer is None or self.keeps(producer):
            return value
        if producer.op_type in _SAME_CODES or self.rectifies_codes(producer):
            return self.codes_from(producer.input[0])
        return value

    def rectifies_codes(self, node: onnx.NodeProto) -> bool:
        """Whether a ReLU reads a value that is quantized itself, since others read it too: it is done on the codes then."""
        is_quantized = self.scheme.everywhere and not self.keeps(node)
        return is_quantized and node.op_type == "Relu" and not self._only_rectified(node.input[0])

    def _only_rectified(self, value: str) -> bool:
        """Whether a value goes into a ReLU and nowhere else, so that the runtime computes both as one."""
        consumers, producer = self._consumers[value], self._producers[value]
        if producer.op_type not in _FUSED_WITH_RELU or [node.op_type for node in consumers] != ["Relu"]:
            return False
        return self.keeps(producer) or not self.keeps(consumers[0])

    def keeps(self, node: onnx.NodeProto) -> bool:
        """Whether a node stays in float32 by choice."""
        return is_kept(node.name, self._kept)

    def _is_float(self, value: str) -> bool:
        """Whether a value is there as it was computed, and not as codes alone."""
        return value not in self._producers or self.keeps(self._producers[value])

    def quantizes(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a convolution or linear layer that is quantized."""
        return node.op_type in _WEIGHTED and node.name not in self.floating

    def _anywhere(self, value: str) -> bool:
        if value in self._outputs or any(node.op_type in _FLOAT or node.op_type == "Sub" for node in self._consumers[value]):
            return False
        if self._is_float(value) and all(self.keeps(node) for node in self._consumers[value]):
            return False
        return value not in self._producers or not self._only_rectified(value)

    def _as_input(self, value: str) -> bool:
        return any(self.quantizes(node) or self._is_shortcut(node, value) for node in self._consumers[value])

    def _is_shortcut(self, node: onnx.NodeProto, value: str) -> bool:
        is_quantized = self.scheme.shortcuts and node.op_type == "Add" and not self.keeps(node)
        return is_quantized and node.input[1] == value and value not in self.constants

    def reads_codes(self, node: onnx.NodeProto, index: int) -> bool:
        """Whether a node's input is the quantized value, where it is quantized at all."""
        if self.scheme.everywhere:
            return True
        return self.quantizes(node) or (index == 1 and self._is_shortcut(node, node.input[1]))


def floating_layers(model: onnx.ModelProto, scheme: Scheme, kept: Collection[str] = ()) -> list[str]:
    """The convolutions and linear layers of a graph, quantized or not, that stay in float32, by their nodes' names."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    weighted = [node for node in model.graph.node if node.op_type in _WEIGHTED]
    return [node.name for node in weighted if is_kept(node.name, kept) or not scheme.quantizes(shapes.get(node.input[1], ()))]


def quantized_onnx(model: onnx.ModelProto, quantization: Quantization) -> onnx.ModelProto:
    """A float32 graph of ours with everything quantized that its target computes in codes."""
    sites, writer = Placement(model, quantization.scheme, quantization.kept), _Writer(model, quantization)
    missing = set(sites.ranged) ^ set(quantization.ranges)
    if missing:
        raise ExportError(f"The quantization belongs to another graph: {', '.join(sorted(missing)[:3])} differ.")
    if model.graph.input[0].name in sites.quantized:
        writer.quantize(model.graph.input[0].name, model.graph.input[0].name)
    for node in model.graph.node:
        writer.copy(node, sites)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.initializer[:]
    made.graph.node.extend(writer.nodes)
    made.graph.initializer.extend(writer.initializers)
    return made


class _Writer:
    """A quantized graph while it is made."""

    def __init__(self, model: onnx.ModelProto, quantization: Quantization) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._quantization, self._scheme = quantization, quantization.scheme
        self._codes: dict[str, str] = {}
        """By the name of a quantized value, that of the value which its codes are from."""

    def copy(self, node: onnx.NodeProto, sites: Placement) -> None:
        """The node as it is in the quantized graph, with what has to stand before and after it."""
        value = node.output[0]
        if is_of_output(node.name):
            self._give(node, everywhere=sites.scheme.everywhere)
            return
        if sites.rectifies_codes(node):
            self._rectify_codes(node, sites.codes_from(value))
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self._codes and sites.reads_codes(node, index):
                copy.input[index] = _dequantized(name)
        if sites.quantizes(node):
            copy.input[1:] = self._weights(node)
        else:
            for index, name in enumerate(node.input):
                if name in self._known:
                    copy.input[index] = self._constant(name, is_coded=not sites.keeps(node) and node.op_type != "Sub")
        self.nodes.append(copy)
        if value in sites.quantized:
            self.quantize(value, sites.codes_from(value))

    def _give(self, node: onnx.NodeProto, *, everywhere: bool) -> None:
        """A node that gives a value besides, in float32: of what is there as codes what these say, by a conversion of its own."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self._codes and everywhere:
                copy.input[index] = f"{node.name}.dequantized"
                inputs = [f"{name}.codes", *self._parameters(self._codes[name])]
                self._add("DequantizeLinear", inputs, copy.input[index], f"{node.name}.dequantize")
            elif name in self._known:
                self._weight(name, self._known[name])
        self.nodes.append(copy)

    def quantize(self, value: str, codes_from: str) -> None:
        scale, zero = self._parameters(codes_from)
        self._add("QuantizeLinear", [value, scale, zero], f"{value}.codes", f"{value}.quantize")
        self._dequantize(value, codes_from)

    def _dequantize(self, value: str, codes_from: str) -> None:
        self._add("DequantizeLinear", [f"{value}.codes", *self._parameters(codes_from)], _dequantized(value), f"{value}.dequantize")
        self._codes[value] = codes_from

    def _rectify_codes(self, node: onnx.NodeProto, codes_from: str) -> None:
        """A ReLU on codes: nothing below the zero point."""
        _, zero = self._parameters(codes_from)
        value = node.output[0]
        self._add("Clip", [f"{node.input[0]}.codes", zero], f"{value}.codes", node.name)
        self._dequantize(value, codes_from)

    def _parameters(self, value: str) -> tuple[str, str]:
        names = f"{value}.scale", f"{value}.zero_point"
        if not any(tensor.name == names[0] for tensor in self.initializers):
            codes = self._quantization.codes(value)
            self._weight(names[0], np.asarray(codes.scale))
            self._weight(names[1], np.asarray(codes.zero_point))
        return names

    def _weights(self, node: onnx.NodeProto) -> list[str]:
        _, weight, bias = node.input
        activation = self._quantization.codes(self._codes[node.input[0]])
        correction = self._quantization.bias_corrections.get(node.name, ())
        made = quantized_weights(self._known[weight], self._known[bias], activation, self._scheme, correction)
        names = [self._coded(weight, made.weight, made.scale, np.zeros(len(made.scale), self._scheme.weights), axis=0)]
        if made.bias_scale is None:
            return [*names, self._weight(bias, made.bias)]
        return [*names, self._coded(bias, made.bias, made.bias_scale, np.zeros(len(made.scale), np.int32), axis=0)]

    def _constant(self, name: str, *, is_coded: bool) -> str:
        values = self._known[name]
        if not (self._scheme.everywhere and is_coded):
            return self._weight(name, values)
        codes, coded = constant_codes(values, self._scheme)
        return self._coded(name, codes, np.asarray(coded.scale), np.asarray(coded.zero_point))

    def _coded(self, name: str, codes: Array, scale: Array, zero: Array, **attributes: Any) -> str:
        inputs = [self._weight(name, codes), self._weight(f"{name}.scale", scale), self._weight(f"{name}.zero_point", zero)]
        self._add("DequantizeLinear", inputs, _dequantized(name), f"{name}.dequantize", **attributes)
        return _dequantized(name)

    def _weight(self, name: str, values: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        return name

    def _add(self, operator: str, inputs: list[str], output: str, name: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))


def codes_of_onnx(model: onnx.ModelProto) -> list[Node]:
    """The scale and zero point of every activation that a graph quantizes, sorted by name; shared ones once."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found: dict[str, Node] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in known and len(node.input) == 3:
            _, scale, zero = node.input
            if scale not in known or zero not in known:
                continue
            name = scale.removesuffix(".scale")
            layer = Node("quantize", name, tensors={"scale": known[scale], "zero_point": known[zero]})
            if not _same(found.setdefault(name, layer), layer):
                found[f"{name}, otherwise"] = layer  # one value, read in two ways: the network has no such layer
    return [found[name] for name in sorted(found)]


def conversions(model: onnx.ModelProto) -> Counter[tuple[str, bytes, bytes]]:
    """How often a graph turns values to codes, or back, by each scale and zero point that it holds as constants."""
    known = {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer}
    return Counter(
        (node.op_type, known.get(node.input[1], b""), known.get(node.input[2], b"") if len(node.input) > 2 else b"")
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    )


def _same(one: Node, other: Node) -> bool:
    pairs = [(values, other.tensors[name]) for name, values in one.tensors.items()]
    return all(first.dtype == second.dtype and np.array_equal(first, second) for first, second in pairs)


def _dequantized(name: str) -> str:
    return f"{name}.dequantized"
