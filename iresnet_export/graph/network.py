"""A network as a graph: its forward pass traced, with the names of its modules, and its inner values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from iresnet_export.errors import ExportError
from iresnet_export.graph.ir import KINDS, Graph, Node, Wiring, array_of, conv_attributes, float32, pair, pool_attributes
from iresnet_export.graph.probe import Probe
from iresnet_models.deployed import Deployable
from iresnet_models.network import Network
from iresnet_models.outputs import is_of_output

STEM, POOL, CLASSIFIER = "stem", "pool", "classifier"

_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "batch_norm",
    nn.MaxPool2d: "max_pool",
    nn.AdaptiveAvgPool2d: "average_pool",
    nn.Linear: "linear",
}


class NetworkProbe(Probe):
    """A network of ours, of any type, in eager PyTorch. Its places are the ends of its blocks."""

    def __init__(self, network: Deployable) -> None:
        self._network, self._traced = network, traced(network)
        self._calls = [call for call in self._traced.graph.nodes if operation_of(self._traced, call)[0] in KINDS]
        self.graph = _graph_of(self._traced)

    @cached_property
    def places(self) -> dict[str, int]:
        inner = ((number, node) for number, node in enumerate(self.graph.nodes) if node.kind != "softmax")
        return {place_of(node): number for number, node in inner if not is_of_output(node.name)}

    def in_words(self, place: str) -> str:
        return place_in_words(place, self._network) if isinstance(self._network, Network) else place

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        return values_of_calls(self._traced, batch, [self._calls[number] for number in wanted])


def place_of(node: Node) -> str:
    """Of a network's node: stem, `layer1.0` ..., pool or classifier."""
    parts = node.name.split(".")
    if parts[0].startswith("layer") and len(parts) > 1:
        return ".".join(parts[:2])
    if node.kind == "average_pool":
        return POOL
    return CLASSIFIER if node.kind == "linear" else STEM


def place_in_words(place: str, network: Network) -> str:
    """Such as `stage 3 block 1 (end)`."""
    if place in (STEM, POOL, CLASSIFIER):
        return place
    stage, index = place.removeprefix("layer").split(".")
    role = network.stages[int(stage) - 1][int(index)].layout.role
    return f"stage {stage} block {index}" + ("" if role == "block" else f" ({role})")


def graph_of_network(network: Deployable) -> Graph:
    """The network's graph. Raises ExportError for a layer that no exporter of this project knows."""
    return _graph_of(traced(network))


def traced(network: Deployable) -> fx.GraphModule:
    """The network's forward pass as a graph of calls."""
    return fx.symbolic_trace(network)


def operation_of(graph: fx.GraphModule, call: fx.Node) -> tuple[str, str]:
    """The kind of a call, and the module that it is or stands in; nothing for other nodes."""
    if call.op == "call_module":
        return _MODULES.get(type(graph.get_submodule(str(call.target))), ""), plain_name(str(call.target))
    if call.op != "call_function":
        return "", ""
    stack = list((call.meta.get("nn_module_stack") or {}).values())
    scope = plain_name(f"{stack[-1][0]}.").removesuffix(".") if stack else ""
    return str(getattr(call.target, "__name__", call.target)), scope


def plain_name(name: str) -> str:
    """A module's name within the network, whatever the network is wrapped in for its artifact."""
    return name.removeprefix("network.")


def values_of_calls(graph: fx.GraphModule, batch: Tensor, wanted: Sequence[fx.Node]) -> list[Tensor]:
    """What the calls of a graph give for a batch, each as it is before a later call changes it in place."""
    kept: dict[fx.Node, Tensor] = {}
    chosen = set(wanted)

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in chosen:
                kept[n] = result.clone()
            return result

    with torch.inference_mode():
        Keeping(graph).run(batch)
    return [kept[call] for call in wanted]


def _graph_of(graph: fx.GraphModule) -> Graph:
    nodes, wiring = list[Node](), Wiring[fx.Node]()
    for call in graph.graph.nodes:
        kind, name = operation_of(graph, call)
        sources = [source for source in call.all_input_nodes if source.op != "get_attr"]
        if kind in KINDS:
            read = wiring.node(sources, call)
            nodes.append(_of_module(graph, call, read) if call.op == "call_module" else _of_function(graph, call, kind, name, read))
        elif (unknown := _constants_of(graph, call)) is not None:
            raise ExportError(f"The network's forward pass uses {unknown}, which no exporter of this project knows.")
        elif sources:
            wiring.carry(sources[0], call)
    return Graph(nodes)


def _constants_of(graph: fx.GraphModule, call: fx.Node) -> str | None:
    """What an operation that is no node does with constants; None where it has none."""
    if call.op == "call_module" and any(True for _ in graph.get_submodule(str(call.target)).parameters()):
        return f"{call.target}, a {type(graph.get_submodule(str(call.target))).__name__}"
    held = any(source.op == "get_attr" for source in call.all_input_nodes)
    return f"a constant in {getattr(call.target, '__name__', call.target)}" if held else None


def _of_function(graph: fx.GraphModule, call: fx.Node, kind: str, scope: str, read: tuple[int, ...]) -> Node:
    held = next((source for source in call.all_input_nodes if source.op == "get_attr"), None)
    if held is None:
        return Node(kind, scope, read, {"axis": call.args[1]} if kind == "softmax" else {})
    target = str(held.target)
    return Node(kind, plain_name(target), read, tensors={"constant": array_of(graph.get_buffer(target))})


def _of_module(graph: fx.GraphModule, call: fx.Node, read: tuple[int, ...]) -> Node:
    module, name = graph.get_submodule(str(call.target)), plain_name(str(call.target))
    tensors = {key: array_of(value) for key, value in module.state_dict().items() if key != "num_batches_tracked"}
    attributes: dict[str, Any] = {}
    if isinstance(module, nn.Conv2d):
        attributes = conv_attributes(module.stride, module.padding, module.dilation, module.groups)
    elif isinstance(module, nn.BatchNorm2d):
        attributes = {"eps": float32(module.eps)}
    elif isinstance(module, nn.MaxPool2d):
        sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
        kernel, stride, padding, dilation = (pair(value) for value in sizes)
        attributes = pool_attributes(kernel, stride, (*padding, *padding), module.ceil_mode, dilation)
    return Node(_MODULES[type(module)], name, read, attributes, tensors)
