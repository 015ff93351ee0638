"""ONNX files read back: every operation, weight, attribute and scale, as the file holds it, of our graphs and of others'."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from iresnet_export.artifacts.onnx_files import readable
from iresnet_export.backends.onnx.constants import computed_constants, functions_of, is_onnx
from iresnet_export.graph.ir import Array, Graph, Node, Wiring, conv_attributes, float32, pool_attributes
from iresnet_export.quantization.placement import codes_of_onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch.onnx.export says which modules an operation stands in: their names from the outermost on, and its own."""

_LONGEST = 10_000
"""Of what it says, in letters."""

Read = tuple[dict[str, Any], dict[str, Array]]
"""Attributes and tensors."""


def graph_of_onnx(model: onnx.ModelProto) -> Graph:
    """The nodes of an ONNX graph, in its order; those of a quantized one hold codes, with their scales.

    Raises ArtifactError for a graph that cannot be read.
    """
    with readable("The ONNX graph"):
        constants, nodes, wiring, sizes = _Constants(model), list[Node](), Wiring[str](), set[str]()
        for node, sources in _computed(model, constants):
            if node.op_type in ("Shape", "Size") or all(source in sizes or source in constants.extents for source in sources):
                sizes.update(node.output)
            if constants.carries(node):
                wiring.carry(sources[0], node.output[0])
                continue
            kind, read = _OPERATORS.get(constants.operator(node), (constants.operator(node), _plain))
            attributes, tensors = read(node, constants)
            is_value = node.output[0] not in sizes and node.op_type not in _CARRYING  # as a Reshape to a computed size is
            module = _module_of(node) if is_value else ""
            nodes.append(Node(kind, node.name, wiring.node(sources, node.output[0]), attributes, tensors, module))
        return Graph(nodes, codes_of_onnx(model), _named(model), "onnx")


def _named(model: onnx.ModelProto) -> dict[str, Array]:
    """The floating-point tensors that a graph stores, and that its outputs follow from."""
    needed = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    floating = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    stored = (tensor for tensor in model.graph.initializer if tensor.name in needed and tensor.data_type in floating)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in stored}


def _module_of(node: onnx.NodeProto) -> str:
    """The innermost module that an operation stands in, as torch.onnx.export tells; empty where nothing is told."""
    told = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
    try:
        scopes = ast.literal_eval(told[:_LONGEST])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    return scopes[-2] if isinstance(scopes, list) and len(scopes) > 1 and isinstance(scopes[-2], str) else ""


def nodes_of(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The operations that are nodes of the graph above, in the same order."""
    constants = _Constants(model)
    return [node for node, _ in _computed(model, constants) if not constants.carries(node)]


def _computed(model: onnx.ModelProto, constants: _Constants) -> Iterator[tuple[onnx.NodeProto, list[str]]]:
    """What is computed from the image, operation by operation, each with those of its inputs that are.

    Extents are no numbers of the image: what is computed from them alone is left out where it says how a value is reshaped.
    """
    fixed: set[str] = set()
    for node in model.graph.node:
        sources = [name for name in node.input if name and name not in constants and name not in fixed]
        if node.op_type == "CastLike":
            sources = [name for name in sources if name == node.input[0]]  # the other one only lends its type
        if sources and constants.is_extent(node, sources):
            constants.extents.update(node.output)
        elif sources:
            yield node, sources[:1] if node.op_type == "Reshape" and set(sources[1:]) <= constants.extents else sources
        elif constants.derived.issuperset(node.output):
            fixed.update(node.output)
        else:  # made of nothing, or of constants in a way that may give anything
            yield node, []


class _Constants:
    """The constant tensors of a graph, by the name of the value that holds them; quantized ones with their scales."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._functions = functions_of(model)
        self._computed, self.derived = computed_constants(model)
        dequantizing = [node for node in model.graph.node if self.operator(node) == "DequantizeLinear"]
        self._dequantized = {
            node.output[0]: list(node.input)
            for node in dequantizing
            if all(name in self._tensors or name in self._computed for name in node.input)
        }

        self.extents: set[str] = set()
        """Values that are computed from the extents of others alone, as far as the graph was gone through."""
        self._zero_points = {node.input[0]: node.input[2] for node in dequantizing if len(node.input) == 3}

    def operator(self, node: onnx.NodeProto) -> str:
        """ONNX's own operator of that name, or, with its domain, one that ONNX does not define or the file defines itself."""
        return node.op_type if is_onnx(node, self._functions) else f"{node.domain}:{node.op_type}"

    def carries(self, node: onnx.NodeProto) -> bool:
        """Whether an operation gives its first input's numbers, in another type, shape or order, whatever they are."""
        given = [name for name in node.input[1:] if name and node.op_type != "CastLike"]
        if self.operator(node) == "Dropout" and (len(given) > 1 or any(entry.name == "training_mode" for entry in node.attribute)):
            return len(given) == 2 and given[1] in self and not self._array(given[1]).any() and len(node.output) == 1
        is_carrying = self.operator(node) in _CARRYING and len(node.output) == 1
        return is_carrying and all(name in self or name in self.extents for name in given)

    def is_extent(self, node: onnx.NodeProto, sources: Sequence[str]) -> bool:
        """Whether an operation gives extents as they are, or chooses some of them: none that depends on how large another is."""
        if self.operator(node) == "Shape":
            return True
        places = [0] if node.op_type in ("Gather", "Slice", "Reshape") else range(len(node.input))
        chosen = {node.input[place] for place in places if place < len(node.input)}
        return self.operator(node) in _CHOOSING and chosen.issuperset(sources) and self.extents.issuperset(sources)

    def rectifies_codes(self, node: onnx.NodeProto) -> bool:
        """Whether a Clip is a ReLU on codes: nothing below the zero point by which they are read, and no other bound."""
        return not node.attribute and list(node.input[1:]) == [self._zero_points.get(node.output[0])]

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


def _unread(node: onnx.NodeProto, constants: _Constants) -> dict[str, Any]:
    """The first input of a layer beside its image that is no constant which is known; a file of ours has none."""
    unread = next((value for value in list(node.input)[1:] if value and value not in constants), None)
    return {} if unread is None else {"computed input": unread}


def _conv(node: onnx.NodeProto, constants: _Constants) -> Read:
    found = _attributes(node)
    pads = found.get("pads", [0, 0, 0, 0])
    symmetric = pads[:2] == pads[2:] and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    attributes = conv_attributes(
        found.get("strides", [1, 1]), pads[:2] if symmetric else pads, found.get("dilations", [1, 1]), found.get("group", 1)
    )
    return attributes | _unread(node, constants), _tensors(node, constants, ("weight", "bias"))


def _batch_norm(node: onnx.NodeProto, constants: _Constants) -> Read:
    found = _attributes(node)
    attributes = {"eps": float32(found.get("epsilon", 1e-5))}
    if found.get("training_mode", 0):
        attributes["training_mode"] = 1
    return attributes | _unread(node, constants), _tensors(node, constants, ("weight", "bias", "running_mean", "running_var"))


def _gemm(node: onnx.NodeProto, constants: _Constants) -> Read:
    found = _attributes(node)
    tensors = _tensors(node, constants, ("weight", "bias"))
    if "weight" in tensors and not found.get("transB", 0):
        tensors["weight"] = tensors["weight"].T
    attributes = {key: found[key] for key in ("alpha", "beta") if found.get(key, 1.0) != 1.0} | (
        {"transA": 1} if found.get("transA", 0) else {}
    )
    return attributes | _unread(node, constants), tensors


def _matmul(node: onnx.NodeProto, constants: _Constants) -> Read:
    return {}, {name: values.T for name, values in _tensors(node, constants, ("weight",)).items()}


def _arithmetic(node: onnx.NodeProto, constants: _Constants) -> Read:
    """With a constant, or of two values."""
    held = next((value for value in node.input if value in constants), None)
    return {}, {} if held is None else constants.quantized_constant(held)


def _clip(node: onnx.NodeProto, constants: _Constants) -> Read:
    return ({} if constants.rectifies_codes(node) else {"bounds": tuple(node.input[1:])}), {}


def _mean(node: onnx.NodeProto, constants: _Constants) -> Read:
    axes = tuple(_attributes(node).get("axes", ()))
    if len(node.input) > 1:
        axes = tuple(int(axis) for axis in constants.of(node.input[1], "axes").get("axes", ()))
        if sorted(axis % 4 for axis in axes) == [2, 3]:
            return {}, {}
    return {"axes": axes}, {}


def _softmax(node: onnx.NodeProto, constants: _Constants) -> Read:
    return {"axis": _attributes(node).get("axis", -1)}, {}


def _argmax(node: onnx.NodeProto, constants: _Constants) -> Read:
    return _attributes(node), {}


def _max_pool(node: onnx.NodeProto, constants: _Constants) -> Read:
    found = _attributes(node)
    kernel = found.get("kernel_shape", ())
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    dilation = found.get("dilations", ones)
    return pool_attributes(kernel, found.get("strides", ones), found.get("pads", zeros), found.get("ceil_mode", 0), dilation), {}


def _plain(node: onnx.NodeProto, constants: _Constants) -> Read:
    return {}, {}


_OPERATORS: dict[str, tuple[str, Callable[[onnx.NodeProto, _Constants], Read]]] = {
    "Conv": ("conv", _conv),
    "BatchNormalization": ("batch_norm", _batch_norm),
    "Relu": ("relu", _plain),
    "Clip": ("relu", _clip),
    "Add": ("add", _arithmetic),
    "Sub": ("sub", _arithmetic),
    "Mul": ("mul", _arithmetic),
    "Div": ("div", _arithmetic),
    "MaxPool": ("max_pool", _max_pool),
    "GlobalAveragePool": ("average_pool", _plain),
    "ReduceMean": ("average_pool", _mean),
    "Gemm": ("linear", _gemm),
    "MatMul": ("linear", _matmul),
    "Softmax": ("softmax", _softmax),
    "LogSoftmax": ("log_softmax", _softmax),
    "ArgMax": ("argmax", _argmax),
}

_CHOOSING = ("Concat", "Gather", "Slice", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Identity")
"""What these make of extents is some of them, and constants: the same places for every image and batch."""

_CARRYING = (
    *("Identity", "Cast", "CastLike", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Dropout"),
    *("QuantizeLinear", "DequantizeLinear"),
)
"""What these do to a number depends on no other number of the image's. What Cast and the last two lose shows in every output."""
