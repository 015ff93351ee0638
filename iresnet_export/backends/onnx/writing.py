"""ONNX graphs from networks: one node for each call of the forward pass, named as the network names it.

The forward pass is traced by torch.fx, so that the network is written down once, in iresnet_models. The graph holds
nothing else: no shape arithmetic, no constants, no paths of the machine; the same network gives the same bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from iresnet_export import __version__
from iresnet_export.artifacts.metadata import FREE_SIDES, METADATA_KEY
from iresnet_export.errors import ExportError
from iresnet_export.graph.ir import Array, array_of
from iresnet_export.graph.network import plain_name, traced
from iresnet_models.deployed import Deployable, DeployedNetwork
from iresnet_models.outputs import LOGITS, OF_ANY_NETWORK, OutputName, is_of_output, output_shape

INPUT, OUTPUT = "input", LOGITS


class _Graph:
    """An ONNX graph while it is made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def rename(self, old: str, new: str) -> None:
        """Gives a value another name, wherever it stands; nodes keep theirs."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new

    def weight(self, name: str, values: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weights(self, prefix: str, module: nn.Module, names: Sequence[str]) -> list[str]:
        state = module.state_dict()
        return [self.weight(f"{prefix}.{name}", array_of(state[name])) for name in names if name in state]


def onnx_from_network(
    network: Deployable,
    *,
    opset: int = 20,
    static_batch: int | None = None,
    dynamic_size: bool = False,
    identity: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    """The network in evaluation mode as an ONNX model: `input` (batch, 3, h, w) to `logits` (batch, classes), float32.

    One that takes pixels has an `input` (batch, h, w, 3), uint8; one of several outputs gives them under their names. The batch
    is symbolic unless `static_batch` is given, and so are height and width if there is `dynamic_size`. Initialisers have the names
    of the state dict; a node and its output have that of the module, or of the block and operation. `identity` goes into the
    model's metadata.
    """
    module = traced(network.eval())
    graph, values, names = _Graph(), {}, Counter[str]()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = INPUT
        elif node.op == "call_module":
            layer, target = module.get_submodule(str(node.target)), plain_name(str(node.target))
            values[node] = _EMIT_MODULE[_supported(type(layer), _EMIT_MODULE, target)](graph, target, layer, values[node.args[0]])
        elif node.op == "call_method":
            emit = _EMIT_METHOD[_supported(node.target, _EMIT_METHOD, str(node.target))]
            name = _function_name(node, str(node.target), names)
            values[node] = emit(graph, name, values[node.args[0]], node.args[1:])
        elif node.op == "call_function":
            function = getattr(node.target, "__name__", str(node.target))
            name = _function_name(node, function, names)
            arguments = [values[argument] for argument in node.args if isinstance(argument, fx.Node)]
            values[node] = _EMIT_FUNCTION[_supported(function, _EMIT_FUNCTION, name)](graph, name, arguments)
        elif node.op == "get_attr":
            values[node] = graph.weight(plain_name(str(node.target)), array_of(module.get_buffer(str(node.target))))
        elif node.op == "output":
            found = node.args[0] if isinstance(node.args[0], tuple) else (node.args[0],)
            for value, name in zip(found, names_of_outputs(network), strict=True):
                # What the network itself goes on with keeps its name there.
                own = name in OF_ANY_NETWORK or is_of_output(values[value])
                graph.rename(values[value] if own else graph.add("Identity", [values[value]], f"outputs.{name}"), name)
        else:
            raise ExportError(f"The network's forward pass holds a {node.op} ({node.target}), which cannot be exported to ONNX.")
    return _model(graph, network, opset, static_batch, identity, dynamic_size=dynamic_size)


def names_of_outputs(network: Deployable) -> tuple[OutputName, ...]:
    return network.names if isinstance(network, DeployedNetwork) else (LOGITS,)


def _supported(key: Any, table: dict[Any, Any], where: str) -> Any:
    if key not in table:
        raise ExportError(f"The network holds {key} at {where}, which cannot be exported to ONNX.")
    return key


def _function_name(node: fx.Node, function: str, names: Counter[str]) -> str:
    """`layer1.0.relu`, `layer1.0.relu_1`, ...: the block and the operation."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    scope = plain_name(f"{stack[-1][0]}.").removesuffix(".") if stack else ""
    name = f"{scope}.{function}" if scope else function
    names[name] += 1
    return name if names[name] == 1 else f"{name}_{names[name] - 1}"


def _conv(graph: _Graph, name: str, module: Any, x: str) -> str:
    height, width = module.padding
    return graph.add(
        "Conv",
        [x, *graph.weights(name, module, ("weight", "bias"))],
        name,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=[height, width, height, width],
        dilations=list(module.dilation),
        group=module.groups,
    )


def _batch_norm(graph: _Graph, name: str, module: Any, x: str) -> str:
    tensors = graph.weights(name, module, ("weight", "bias", "running_mean", "running_var"))
    return graph.add("BatchNormalization", [x, *tensors], name, epsilon=module.eps)


def _max_pool(graph: _Graph, name: str, module: Any, x: str) -> str:
    kernel, stride, pad = module.kernel_size, module.stride, module.padding
    return graph.add("MaxPool", [x], name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=0)


def _linear(graph: _Graph, name: str, module: Any, x: str) -> str:
    return graph.add("Gemm", [x, *graph.weights(name, module, ("weight", "bias"))], name, transB=1)


def _average_pool(graph: _Graph, name: str, module: Any, x: str) -> str:
    if module.output_size not in (1, (1, 1)):
        raise ExportError(f"{name} pools to {module.output_size} and not to one value, which cannot be exported to ONNX.")
    return graph.add("GlobalAveragePool", [x], name)


_EMIT_MODULE: dict[type[nn.Module], Callable[[_Graph, str, Any, str], str]] = {
    nn.Conv2d: _conv,
    nn.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: _max_pool,
    nn.Linear: _linear,
    nn.AdaptiveAvgPool2d: _average_pool,
    nn.Dropout: lambda _graph, _name, _module, x: x,  # does nothing in evaluation mode
}

_EMIT_FUNCTION: dict[str, Callable[[_Graph, str, list[str]], str]] = {
    "relu": lambda graph, name, inputs: graph.add("Relu", inputs, name),
    "add": lambda graph, name, inputs: graph.add("Add", inputs, name),
    "mul": lambda graph, name, inputs: graph.add("Mul", inputs, name),
    "sub": lambda graph, name, inputs: graph.add("Sub", inputs, name),
    "softmax": lambda graph, name, inputs: graph.add("Softmax", inputs, name, axis=1),
    "flatten": lambda graph, name, inputs: graph.add("Flatten", inputs, name, axis=1),
}

_TYPES = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}

_EMIT_METHOD: dict[str, Callable[[_Graph, str, str, Any], str]] = {
    "permute": lambda graph, name, x, order: graph.add("Transpose", [x], name, perm=list(order)),
    "to": lambda graph, name, x, dtype: graph.add("Cast", [x], name, to=_TYPES[dtype[0]]),
}


def _model(
    graph: _Graph,
    network: Deployable,
    opset: int,
    static_batch: int | None,
    identity: dict[str, Any] | None,
    *,
    dynamic_size: bool,
) -> onnx.ModelProto:
    spec, batch = network.spec, static_batch or "batch"
    takes_pixels = isinstance(network, DeployedNetwork) and network.mean is not None
    kind = TensorProto.UINT8 if takes_pixels else TensorProto.FLOAT
    taken: list[int | str] = list(spec.image_shape(as_pixels=takes_pixels))
    shapes: dict[str, list[int | str]] = {name: list(output_shape(name, spec, *spec.sides)) for name in names_of_outputs(network)}
    if dynamic_size:
        first = 0 if takes_pixels else 1
        taken[first : first + 2] = FREE_SIDES
        for name, shape in shapes.items():
            shape[1:] = [f"{name}_{side}" for side in FREE_SIDES[: len(shape) - 1]]
    image = helper.make_tensor_value_info(INPUT, kind, [batch, *taken])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape]) for name, shape in shapes.items()]
    body = helper.make_graph(graph.nodes, spec.name, [image], outputs, graph.initializers)
    operators = helper.make_opsetid("", opset)
    model = helper.make_model(
        body,
        opset_imports=[operators],
        ir_version=helper.find_min_ir_version_for([operators]),
        producer_name="iresnet-export",
        producer_version=__version__,
    )
    if identity is not None:
        helper.set_model_props(model, {METADATA_KEY: json.dumps(identity)})
    return model
