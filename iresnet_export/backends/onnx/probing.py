"""ONNX graphs probed: with more outputs, what they give inside, whether those are floats or codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto, helper
from torch import Tensor

from iresnet_export.artifacts.onnx_files import images_of
from iresnet_export.backends.onnx.reading import graph_of_onnx, nodes_of
from iresnet_export.graph.probe import Probe


class OnnxProbe(Probe):
    """A graph; whatever runs it with further outputs is made when those are first asked for."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self.graph = graph_of_onnx(model)
        self.image = images_of(model)[0]
        self.with_preprocessing = self.image.type.tensor_type.elem_type == TensorProto.UINT8
        self._runs: dict[tuple[int, ...], Callable[[Tensor], list[Tensor]]] = {}

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        key = tuple(wanted)
        if key not in self._runs:
            self._runs[key] = self._run_for(wanted)
        return self._runs[key](batch)

    @abstractmethod
    def _run_for(self, wanted: Sequence[int]) -> Callable[[Tensor], list[Tensor]]:
        """What gives the values of these operations for a batch."""


def with_outputs(model: onnx.ModelProto, wanted: Sequence[int]) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of a graph that also gives what the operations of these numbers give, in float32, and the names of those outputs.

    A value that is quantized is taken as its codes say: a further output of the float value would keep the runtime from
    computing it in integers.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes, present = nodes_of(model), {value.name for value in model.graph.output}
    names = []
    for index in wanted:
        value = nodes[index].output[0]
        if value not in present:
            value = _observed(made, value)
        names.append(value)
    return made, names


def values_of_onnx(model: onnx.ModelProto, wanted: Sequence[int]) -> list[str]:
    """The tensors that hold what the operations of these numbers give; of a quantized value what its codes say."""
    values = [nodes_of(model)[index].output[0] for index in wanted]
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
