"""ONNX graphs observed: what they hold, and with more outputs what they give inside, whether those are floats or codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper
from torch import Tensor

from iresnet_export.backends.onnx_files import images_of, readable
from iresnet_export.backends.onnx_reading import layers_of_onnx
from iresnet_export.layers import Layer
from iresnet_export.observing import Observer, Operation, Wiring, pool_attributes

_KINDS = {
    "Conv": "conv",
    "BatchNormalization": "batch_norm",
    "Relu": "relu",
    "Clip": "relu",  # on codes
    "Add": "add",
    "Mul": "mul",
    "MaxPool": "max_pool",
    "GlobalAveragePool": "average_pool",
    "ReduceMean": "average_pool",
    "Gemm": "linear",
    "MatMul": "linear",
}
_FLOATING = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class OnnxObserver(Observer):
    """A graph; whatever runs it with further outputs is made when those are first asked for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        with readable("The ONNX graph"):
            self.operations = operations_of_onnx(model)
        self.image = images_of(model)[0]
        self.with_preprocessing = self.image.type.tensor_type.elem_type == TensorProto.UINT8
        self._runs: dict[tuple[int, ...], Callable[[Tensor], list[Tensor]]] = {}

    @property
    def layers(self) -> list[Layer]:
        with readable("The ONNX graph"):
            return layers_of_onnx(self._model)

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        key = tuple(wanted)
        if key not in self._runs:
            self._runs[key] = self._run_for(wanted)
        return self._runs[key](batch)

    @abstractmethod
    def _run_for(self, wanted: Sequence[int]) -> Callable[[Tensor], list[Tensor]]:
        """What gives the values of these operations for a batch."""


def operations_of_onnx(model: onnx.ModelProto) -> list[Operation]:
    """The operations of a graph, in its order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    floating = {tensor.name for tensor in model.graph.initializer if tensor.data_type in _FLOATING}
    found, wiring = list[Operation](), Wiring[str]()
    for node in model.graph.node:
        sources = [name for name in node.input if name and name not in constants]
        if node.op_type == "CastLike":
            sources = [name for name in sources if name == node.input[0]]  # the other one only lends its type
        if not sources:  # a constant, or what is computed from constants
            constants.update(node.output)
        elif node.op_type in _KINDS:
            read = wiring.operation(sources, node.output[0])
            found.append(Operation(_KINDS[node.op_type], node.name, read, _attributes(node, floating)))
        else:
            for value in node.output:
                wiring.carry(sources[0], value)
    return found


def _attributes(node: onnx.NodeProto, floating: set[str]) -> tuple[Any, ...]:
    if node.op_type == "Clip" and floating & set(node.input):
        return ("bounds", *node.input[1:])  # of floats it is no ReLU
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "ReduceMean":
        return ("axes", *given.get("axes", ()))
    if node.op_type != "MaxPool":
        return ()
    kernel = given.get("kernel_shape", ())
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    return pool_attributes(kernel, given.get("strides", ones), given.get("pads", zeros), given.get("ceil_mode", 0))


def with_outputs(model: onnx.ModelProto, wanted: Sequence[int]) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of a graph that also gives what the operations of these numbers give, in float32, and the names of those outputs.

    A value that is quantized is taken as its codes say: a further output of the float value would keep the runtime from
    computing it in integers.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes, present = _nodes(model), {value.name for value in model.graph.output}
    names = []
    for index in wanted:
        value = nodes[index].output[0]
        if value not in present:
            value = _observed(made, value)
        names.append(value)
    return made, names


def values_of_onnx(model: onnx.ModelProto, wanted: Sequence[int]) -> list[str]:
    """The tensors that hold what the operations of these numbers give; of a quantized value what its codes say."""
    values = [_nodes(model)[index].output[0] for index in wanted]
    return [value if (found := _dequantize(model, value)) is None else found.output[0] for value in values]


def _dequantize(model: onnx.ModelProto, value: str) -> onnx.NodeProto | None:
    """What reads a value's codes, if it is quantized or is codes itself."""
    nodes = model.graph.node
    codes = next((node.output[0] for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == value), value)
    return next((node for node in nodes if node.op_type == "DequantizeLinear" and node.input[0] == codes), None)


def _observed(model: onnx.ModelProto, value: str) -> str:
    """Adds an output for a value, and returns its name."""
    name, graph = f"{value}.observed", model.graph
    dequantize = _dequantize(model, value)
    if dequantize is not None:
        graph.node.append(helper.make_node("DequantizeLinear", list(dequantize.input), [name], name=name))
    else:
        graph.node.append(helper.make_node("Cast", [value], [name], name=name, to=TensorProto.FLOAT))
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return name


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type in _KINDS]
