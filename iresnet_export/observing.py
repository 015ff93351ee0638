"""The operations of a network, however a file writes them: how they are wired, and what they give while it runs.

Every format keeps the operations of the forward pass in their order, under names of its own or none. So the places to look at,
the ends of the blocks, are found by aligning the operations of a file with those of the network, as lines of text are compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, fx, nn

from iresnet_export.layers import Layer, layers_of_network, plain_name, traced
from iresnet_models.deployed import Deployable
from iresnet_models.network import Network

Value = TypeVar("Value")

KINDS = ("conv", "batch_norm", "relu", "add", "mul", "max_pool", "average_pool", "linear")
"""The operations that are aligned; the rest (casts, reshapes, quantization) only carries values along."""

ATEN_KINDS = {
    "conv2d": "conv",
    "convolution": "conv",
    "_convolution": "conv",
    "batch_norm": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "relu": "relu",
    "relu_": "relu",
    "add": "add",
    "add_": "add",
    "mul": "mul",
    "max_pool2d": "max_pool",
    "adaptive_avg_pool2d": "average_pool",
    "mean": "average_pool",
    "linear": "linear",
    "addmm": "linear",
}
"""KINDS by the names of PyTorch's own operators, which TorchScript and torch.export write."""

STEM, POOL, CLASSIFIER = "stem", "pool", "classifier"

_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.BatchNorm2d: "batch_norm",
    nn.MaxPool2d: "max_pool",
    nn.AdaptiveAvgPool2d: "average_pool",
    nn.Linear: "linear",
}


@dataclass(frozen=True)
class Operation:
    """One of KINDS; `name` is the file's own for it, or empty.

    `inputs`: numbers of the operations whose results it reads, in order of their numbers; -1 for the image, and nothing for
    constants. `attributes` of a pool: kernel, stride, padding (top, left, bottom, right) and whether it rounds up.
    """

    kind: str
    name: str = ""
    inputs: tuple[int, ...] = ()
    attributes: tuple[Any, ...] = ()


class Observer(ABC):
    """A loaded artifact whose inner values can be asked for."""

    operations: list[Operation]
    with_preprocessing: bool = False

    @property
    @abstractmethod
    def layers(self) -> list[Layer]:
        """Every weighted layer as the artifact holds it, in execution order."""

    @abstractmethod
    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """What the operations of these numbers give, as float32 or wider, for a batch of what the artifact takes."""


class NetworkObserver(Observer):
    """A network of ours, of any type, in eager PyTorch. `places`: as in `operations_of_network`."""

    def __init__(self, network: Deployable) -> None:
        self.operations, self.places = operations_of_network(network)
        self._network, self._graph = network, traced(network)
        self._nodes = [node for node in self._graph.graph.nodes if operation_of(self._graph, node)[0] in KINDS]

    @property
    def layers(self) -> list[Layer]:
        return layers_of_network(self._network)

    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        return values_of_nodes(self._graph, batch, [self._nodes[number] for number in wanted])


def operations_of_network(network: Deployable) -> tuple[list[Operation], dict[str, int]]:
    """The network's operations in order, and the number of the last one of each place: stem, `layer1.0` ..., pool, classifier."""
    graph, found, last = traced(network), list[Operation](), dict[str, int]()
    wiring = Wiring[fx.Node]()
    for node in graph.graph.nodes:
        kind, name = operation_of(graph, node)
        sources = [source for source in node.all_input_nodes if source.op != "get_attr"]
        if kind in KINDS:
            last[_place(kind, name)] = len(found)
            found.append(Operation(kind, name, wiring.operation(sources, node), _attributes(graph, node)))
        elif sources:
            wiring.carry(sources[0], node)
    return found, last


class Wiring(Generic[Value]):
    """Which operation each value comes from, while a file's nodes are gone through in order."""

    def __init__(self) -> None:
        self._from: dict[Value, int] = {}
        self._count = 0

    def operation(self, inputs: Iterable[Value], output: Value) -> tuple[int, ...]:
        """Numbers a new operation; returns the numbers of those that it reads."""
        read = tuple(sorted(self._from.get(value, -1) for value in inputs))
        self._from[output] = self._count
        self._count += 1
        return read

    def carry(self, source: Value, output: Value) -> None:
        """A node that only carries a value along."""
        if source in self._from:
            self._from[output] = self._from[source]


def values_of_nodes(graph: fx.GraphModule, batch: Tensor, wanted: Sequence[fx.Node]) -> list[Tensor]:
    """What the nodes of a graph give for a batch."""
    kept: dict[fx.Node, Tensor] = {}
    chosen = set(wanted)

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in chosen:
                kept[n] = result
            return result

    with torch.inference_mode():
        Keeping(graph).run(batch)
    return [kept[node] for node in wanted]


def _attributes(graph: fx.GraphModule, node: fx.Node) -> tuple[Any, ...]:
    module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    if not isinstance(module, nn.MaxPool2d):
        return ()
    kernel, stride, padding = (_pair(value) for value in (module.kernel_size, module.stride, module.padding))
    return pool_attributes(kernel, stride, (*padding, *padding), module.ceil_mode)


def pool_attributes(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil: object) -> tuple[Any, ...]:
    """A max pool's attributes in one form, whichever format they come from; `padding` is (top, left, bottom, right)."""
    return tuple(kernel), tuple(stride), tuple(padding), bool(ceil)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


@dataclass(frozen=True)
class GraphReport:
    """`operations`: how many were compared. `first_difference` names the first that is not as it should be; None if all are."""

    operations: int
    first_difference: str | None


def compare_graphs(expected: Sequence[Operation], found: Sequence[Operation]) -> GraphReport:
    """Operations, their order, what they read, and the attributes of those without weights."""

    def described(operation: Operation, number: int) -> str:
        return f"{operation.kind} {number + 1}" + (f" ({operation.name})" if operation.name else "")

    def sources(operation: Operation) -> str:
        return " and ".join("the image" if number < 0 else described(expected[number], number) for number in operation.inputs)

    for number, (wanted, got) in enumerate(zip(expected, found, strict=False)):
        what = described(wanted, number)
        if wanted.kind != got.kind:
            return GraphReport(number, f"where the network has {what}, the artifact has {described(got, number)}")
        if wanted.inputs != got.inputs:
            return GraphReport(number, f"{what} reads {sources(got)}, and not {sources(wanted)}")
        if wanted.attributes != got.attributes:
            return GraphReport(number, f"{what} has the attributes {got.attributes}, and not {wanted.attributes}")
    if len(expected) != len(found):
        return GraphReport(len(found), f"the network has {len(expected)} operations, the artifact {len(found)}")
    return GraphReport(len(found), None)


def operation_of(graph: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """The kind of a call, and the module that it is or stands in; nothing for other nodes."""
    if node.op == "call_module":
        return _MODULES.get(type(graph.get_submodule(str(node.target))), ""), plain_name(str(node.target))
    if node.op != "call_function":
        return "", ""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    scope = plain_name(f"{stack[-1][0]}.").removesuffix(".") if stack else ""
    return str(getattr(node.target, "__name__", node.target)), scope


def _place(kind: str, name: str) -> str:
    parts = name.split(".")
    if parts[0].startswith("layer") and len(parts) > 1:
        return ".".join(parts[:2])
    if kind == "average_pool":
        return POOL
    return CLASSIFIER if kind == "linear" else STEM


def aligned(expected: Sequence[Operation], found: Sequence[Operation], places: dict[str, int]) -> dict[str, int]:
    """For each place the number of the operation of `found` that gives its value, where there is one."""
    partner: dict[int, int] = {}
    kinds = [operation.kind for operation in expected], [operation.kind for operation in found]
    for block in SequenceMatcher(None, *kinds, autojunk=False).get_matching_blocks():
        partner |= {block.a + step: block.b + step for step in range(block.size)}
    return {place: partner[index] for place, index in places.items() if index in partner}


def place_in_words(place: str, network: Network) -> str:
    """Such as `stage 3 block 1 (end)`."""
    if place in (STEM, POOL, CLASSIFIER):
        return place
    stage, index = place.removeprefix("layer").split(".")
    role = network.stages[int(stage) - 1][int(index)].layout.role
    return f"stage {stage} block {index}" + ("" if role == "block" else f" ({role})")
