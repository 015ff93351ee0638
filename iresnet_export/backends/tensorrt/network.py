"""TensorRT's own reading of an ONNX file, held against the file before anything is built from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from iresnet_export.backends.tensorrt.flavours import Flavour
from iresnet_export.errors import ExportError, InputError
from iresnet_export.graph.ir import Array
from iresnet_export.graph.precision import widest

_PARSED_AS = {
    "CONVOLUTION": ("Conv",),
    "MATRIX_MULTIPLY": ("Gemm", "MatMul"),
    "ACTIVATION": ("Relu", "Clip"),
    "POOLING": ("MaxPool",),
    "QUANTIZE": ("QuantizeLinear",),
    "DEQUANTIZE": ("DequantizeLinear",),
}
"""TensorRT's layers of which each is one of these ONNX operators; others may be taken apart."""


def parsed_network(flavour: Flavour, builder: Any, data: bytes) -> tuple[Any, Any, onnx.ModelProto]:
    """TensorRT's network, its parser (which must outlive it) and the model itself.

    Raises ExportError where TensorRT cannot read the file, or reads something else than what stands in it.
    """
    trt = flavour.module
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, flavour.logger)
    if not parser.parse(data):
        errors = "; ".join(_described(parser.get_error(index)) for index in range(parser.num_errors))
        raise ExportError(f"{flavour.name} {flavour.version} cannot read the ONNX file: {errors or flavour.errors()}.")
    if network.num_layers == 0:
        raise ExportError(f"{flavour.name} {flavour.version} read the ONNX file as 0 layers: {flavour.errors()}.")
    model = onnx.load_from_string(data)
    _require_same_ends(flavour, network, model)
    _require_same_layers(flavour, network, model)
    return network, parser, model


def _described(error: Any) -> str:
    node = f"{error.node_operator()} at {error.node_name()}: " if error.node_name() else ""
    return f"{node}{error.desc()}"


def _require_same_ends(flavour: Flavour, network: Any, model: onnx.ModelProto) -> None:
    """Names, types and shapes of inputs and outputs; a symbolic extent is -1 to TensorRT."""
    trt = flavour.module
    types: dict[int, Any] = {
        TensorProto.FLOAT: trt.float32,
        TensorProto.FLOAT16: trt.float16,
        TensorProto.BFLOAT16: trt.bfloat16,
        TensorProto.UINT8: trt.uint8,
    }
    for what, count, get, values in (
        ("inputs", network.num_inputs, network.get_input, model.graph.input),
        ("outputs", network.num_outputs, network.get_output, model.graph.output),
    ):
        found = [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in map(get, range(count))]
        wanted = [(value.name, types.get(value.type.tensor_type.elem_type), _shape(value)) for value in values]
        if found != wanted:
            raise ExportError(
                f"{flavour.name} {flavour.version} read the {what} of the ONNX file as {_in_words(found)}, and they are "
                f"{_in_words(wanted)}: {flavour.errors()}."
            )


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(extent.dim_value if extent.HasField("dim_value") else -1 for extent in value.type.tensor_type.shape.dim)


def _in_words(tensors: list[tuple[str, Any, tuple[int, ...]]]) -> str:
    return "; ".join(f"{name} {getattr(dtype, 'name', dtype)} {shape}" for name, dtype, shape in tensors) or "none"


def _require_same_layers(flavour: Flavour, network: Any, model: onnx.ModelProto) -> None:
    layers = Counter(network.get_layer(index).type.name for index in range(network.num_layers))
    operators = Counter(node.op_type for node in model.graph.node)
    for kind, sources in _PARSED_AS.items():
        wanted = sum(operators[source] for source in sources)
        if layers[kind] != wanted:
            raise ExportError(
                f"{flavour.name} {flavour.version} read {layers[kind]} layers of the kind {kind} from the ONNX file, which holds "
                f"{wanted} operators of it ({', '.join(sources)}): {flavour.errors()}."
            )


def require_precision(flavour: Flavour, network: Any, precision: str, floating: Collection[str] = ()) -> list[str]:
    """The precision of every convolution and linear layer of a strongly typed network, which is what it is computed in.

    `floating`: those that are float32 in a quantized network. Raises ExportError if one of them is not in the precision that was
    asked for: TensorRT says nothing of that by itself.
    """
    trt = flavour.module
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(index).name: layer for layer in layers for index in range(layer.num_outputs)}
    names = {trt.float32: "fp32", trt.float16: "fp16", trt.bfloat16: "bf16", trt.int8: "int8", trt.fp8: "fp8"}

    def read_as(tensor: Any) -> str:
        producer = producers.get(tensor.name)
        if producer is not None and producer.type == trt.LayerType.DEQUANTIZE:
            tensor = producer.get_input(0)
        return names.get(tensor.dtype, str(tensor.dtype))

    found = []
    for layer in layers:
        if layer.type in (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY):
            inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
            found.append(widest([read_as(tensor) for tensor in inputs if tensor is not None and len(tensor.shape) > 1]))
            wanted = "fp32" if layer.name in floating else precision
            if found[-1] != wanted:
                raise ExportError(
                    f"{flavour.name} {flavour.version} read {layer.name} of the ONNX file in {found[-1]}, "
                    f"and {wanted} was asked for."
                )
    return found


def mark_outputs(flavour: Flavour, network: Any, names: list[str]) -> None:
    """Makes values inside the network outputs too, by the names of the ONNX nodes' outputs; all of them in float32."""
    trt = flavour.module
    tensors: dict[str, Any] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors |= {layer.get_output(number).name: layer.get_output(number) for number in range(layer.num_outputs)}
    present = {network.get_output(index).name for index in range(network.num_outputs)}
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ExportError(f"{flavour.name} {flavour.version} keeps no tensor called {', '.join(missing)} of the ONNX file.")
    for name in dict.fromkeys(names):
        if name in present:
            continue
        tensor = tensors[name]
        if tensor.dtype != trt.float32:
            tensor = network.add_cast(tensor, trt.float32).get_output(0)
            tensor.name = observed_name(name)
        network.mark_output(tensor)


def observed_name(name: str) -> str:
    return f"{name}.observed"


def require_sparse(model: onnx.ModelProto) -> int:
    """How many convolutions have two zeros in every four weights along their inputs; InputError if none has."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    count = sum(_is_sparse(numpy_helper.to_array(weights[node.input[1]])) for node in convolutions)
    if count == 0:
        raise InputError(
            "--sparse is for weights of which two in every four along a convolution's inputs are zero, and no layer of this "
            "network is so;",
            "leave it out, or prune the network first.",
        )
    return count


def _is_sparse(weight: Array) -> bool:
    outputs, inputs = weight.shape[:2]
    if inputs % 4:
        return False
    groups = np.asarray(weight).reshape(outputs, inputs // 4, 4, -1)
    return bool(((groups != 0).sum(axis=2) <= 2).all())
