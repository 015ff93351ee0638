"""The weighted layers of a network in the order in which they run: what every exporter must carry over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from iresnet_export.errors import ExportError
from iresnet_models.deployed import Deployable

Kind = Literal["conv", "batch_norm", "linear", "mul", "add", "sub", "quantize"]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A convolution, BatchNorm or linear layer, or an operation with a constant: its tensors by their name, and its attributes.

    `name` is the module's name in the network; a layer read back from an artifact has that artifact's name for it. A
    multiplication, addition or subtraction of a constant per channel has the one tensor `constant` (1, channels, 1, 1). `quantize`
    is the scale and zero point of an activation.
    Shapes are torch's: (outputs, inputs / groups, height, width) for a convolution, (outputs, inputs) for a linear layer.
    """

    name: str
    kind: Kind
    tensors: dict[str, Array]
    attributes: dict[str, Any]


def traced(network: Deployable) -> fx.GraphModule:
    """The network's forward pass as a graph of calls."""
    return fx.symbolic_trace(network)


def layers_of_network(network: Deployable) -> list[Layer]:
    """The layers as the network has them, in execution order."""
    graph = traced(network)
    return [layer for node in graph.graph.nodes for layer in _layers_of_call(graph, node)]


def plain_name(name: str) -> str:
    """A module's name within the network, whatever the network is wrapped in for its artifact."""
    return name.removeprefix("network.")


def array_of(tensor: Tensor) -> Array:
    """A tensor's values as an array, bfloat16 too."""
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def tensor_of(values: Array) -> Tensor:
    """An array's values as a tensor of its own, float8 too."""
    if values.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(values.view(np.uint8).copy()).view(torch.float8_e4m3fn)
    return torch.from_numpy(values.copy())


def _layers_of_call(graph: fx.GraphModule, node: fx.Node) -> Iterator[Layer]:
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        if any(True for _ in module.parameters()):
            yield _layer(plain_name(str(node.target)), module)
    for argument in node.args if node.op == "call_function" else ():
        if isinstance(argument, fx.Node) and argument.op == "get_attr":
            constant = array_of(graph.get_buffer(str(argument.target)))
            yield Layer(plain_name(str(argument.target)), _constant_kind(node), {"constant": constant}, {})


def _constant_kind(node: fx.Node) -> Kind:
    name = getattr(node.target, "__name__", str(node.target))
    if name not in ("mul", "add", "sub"):
        raise ExportError(f"The network's forward pass uses a constant in {name}, which no exporter of this project knows.")
    kinds: dict[str, Kind] = {"mul": "mul", "add": "add", "sub": "sub"}
    return kinds[name]


def _layer(name: str, module: nn.Module) -> Layer:
    tensors = {key: array_of(value) for key, value in module.state_dict().items() if key != "num_batches_tracked"}
    if isinstance(module, nn.Conv2d):
        return Layer(name, "conv", tensors, conv_attributes(module.stride, module.padding, module.dilation, module.groups))
    if isinstance(module, nn.BatchNorm2d):
        return Layer(name, "batch_norm", tensors, {"eps": float32(module.eps)})
    if isinstance(module, nn.Linear):
        return Layer(name, "linear", tensors, {})
    raise ExportError(f"{name} is a {type(module).__name__}, which no exporter of this project knows.")


def float32(value: float) -> float:
    """A number as float32 holds it, which is all that ONNX keeps of an attribute."""
    return float(np.float32(value))


def conv_attributes(stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    """A convolution's attributes in one form, whichever format they come from."""
    return {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": int(groups)}
