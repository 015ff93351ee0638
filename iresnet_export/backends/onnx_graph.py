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
from onnx import TensorProto, helper, numpy_helper
from torch import fx, nn

from iresnet_export import __version__
from iresnet_export.errors import ExportError
from iresnet_export.layers import Array, Deployable, Layer, conv_attributes, float32, traced

INPUT, OUTPUT = "input", "logits"
METADATA_KEY = "iresnet-export"
OPSETS = range(18, 26)


class _Graph:
    """An ONNX graph while it is made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def weight(self, name: str, values: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def weights(self, prefix: str, module: nn.Module, names: Sequence[str]) -> list[str]:
        state = module.state_dict()
        return [self.weight(f"{prefix}.{name}", state[name].detach().cpu().numpy()) for name in names if name in state]


def onnx_from_network(
    network: Deployable, *, opset: int = 20, static_batch: int | None = None, identity: dict[str, Any] | None = None
) -> onnx.ModelProto:
    """The network in evaluation mode as an ONNX model: `input` (batch, 3, h, w) to `logits` (batch, classes), float32.

    The batch is symbolic unless `static_batch` is given. Initialisers have the names of the state dict; a node and its
    output have the name of the module, or of the block and operation. `identity` goes into the model's metadata.
    """
    if opset not in OPSETS:
        raise ExportError(f"ONNX opset {opset} is not supported; choose one from {OPSETS.start} to {OPSETS.stop - 1}.")
    module = traced(network.eval())
    graph, values, names = _Graph(), {}, Counter[str]()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            values[node] = INPUT
        elif node.op == "call_module":
            target = str(node.target)
            layer = module.get_submodule(target)
            values[node] = _EMIT_MODULE[_supported(type(layer), _EMIT_MODULE, target)](graph, target, layer, values[node.args[0]])
        elif node.op == "call_function":
            function = getattr(node.target, "__name__", str(node.target))
            name = _function_name(node, function, names)
            arguments = [values[argument] for argument in node.args if isinstance(argument, fx.Node)]
            values[node] = _EMIT_FUNCTION[_supported(function, _EMIT_FUNCTION, name)](graph, name, arguments)
        elif node.op == "get_attr":
            target = str(node.target)
            values[node] = graph.weight(target, module.get_buffer(target).detach().cpu().numpy())
        elif node.op == "output":
            _rename_output(graph, values[node.args[0]])
        else:
            raise ExportError(f"The network's forward pass holds a {node.op} ({node.target}), which cannot be exported to ONNX.")
    return _model(graph, network, opset, static_batch, identity)


def _rename_output(graph: _Graph, name: str) -> None:
    graph.nodes[-1].output[0] = OUTPUT
    if graph.nodes[-1].name != name:
        raise ExportError("The network's last operation does not give its output; this cannot be exported to ONNX.")


def _supported(key: Any, table: dict[Any, Any], where: str) -> Any:
    if key not in table:
        raise ExportError(f"The network holds {key} at {where}, which cannot be exported to ONNX.")
    return key


def _function_name(node: fx.Node, function: str, names: Counter[str]) -> str:
    """`layer1.0.relu`, `layer1.0.relu_1`, ...: the block and the operation."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    scope = stack[-1][0] if stack else ""
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
    "flatten": lambda graph, name, inputs: graph.add("Flatten", inputs, name, axis=1),
}


def _model(
    graph: _Graph, network: Deployable, opset: int, static_batch: int | None, identity: dict[str, Any] | None
) -> onnx.ModelProto:
    spec, batch = network.spec, static_batch or "batch"
    image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [batch, 3, spec.image_size, spec.image_size])
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [batch, spec.num_classes])
    body = helper.make_graph(graph.nodes, spec.name, [image], [logits], graph.initializers)
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
    onnx.checker.check_model(model, full_check=True)
    return model


def layers_of_onnx(model: onnx.ModelProto) -> list[Layer]:
    """Every Conv, BatchNormalization, Gemm and MatMul of a graph, and every Mul and Add of a constant, in its order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    layers = [_read[node.op_type](node, constants) for node in model.graph.node if node.op_type in _read]
    return [layer for layer in layers if layer.tensors or layer.kind not in ("mul", "add")]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _tensors(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], names: Sequence[str]) -> dict[str, Array]:
    inputs = list(node.input)[1:]
    return {name: numpy_helper.to_array(constants[value]) for name, value in zip(names, inputs, strict=False) if value in constants}


def _read_conv(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Layer:
    found = _attributes(node)
    pads = found.get("pads", [0, 0, 0, 0])
    symmetric = pads[:2] == pads[2:] and found.get("auto_pad", b"NOTSET") == b"NOTSET"
    attributes = conv_attributes(
        found.get("strides", [1, 1]), pads[:2] if symmetric else pads, found.get("dilations", [1, 1]), found.get("group", 1)
    )
    return Layer(node.name, "conv", _tensors(node, constants, ("weight", "bias")), attributes)


def _read_batch_norm(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Layer:
    found = _attributes(node)
    attributes = {"eps": float32(found.get("epsilon", 1e-5))}
    if found.get("training_mode", 0):
        attributes["training_mode"] = 1
    return Layer(node.name, "batch_norm", _tensors(node, constants, ("weight", "bias", "running_mean", "running_var")), attributes)


def _read_gemm(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Layer:
    found = _attributes(node)
    tensors = _tensors(node, constants, ("weight", "bias"))
    if "weight" in tensors and not found.get("transB", 0):
        tensors["weight"] = tensors["weight"].T
    attributes = {key: found[key] for key in ("alpha", "beta") if found.get(key, 1.0) != 1.0} | (
        {"transA": 1} if found.get("transA", 0) else {}
    )
    return Layer(node.name, "linear", tensors, attributes)


def _read_matmul(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Layer:
    tensors = _tensors(node, constants, ("weight",))
    return Layer(node.name, "linear", {name: values.T for name, values in tensors.items()}, {})


def _read_constant(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> Layer:
    found = [numpy_helper.to_array(constants[value]) for value in node.input if value in constants]
    return Layer(node.name, "mul" if node.op_type == "Mul" else "add", {"constant": found[0]} if found else {}, {})


_read: dict[str, Callable[[onnx.NodeProto, dict[str, onnx.TensorProto]], Layer]] = {
    "Conv": _read_conv,
    "BatchNormalization": _read_batch_norm,
    "Gemm": _read_gemm,
    "MatMul": _read_matmul,
    "Mul": _read_constant,
    "Add": _read_constant,
}
