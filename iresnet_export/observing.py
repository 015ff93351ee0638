"""Values inside a network while it runs, so that a divergence can be named by block.

Every format keeps the operations of the forward pass in their order, under names of its own or none. So the places to look at,
the ends of the blocks, are found by aligning the operations of a file with those of the network, as lines of text are compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from torch import Tensor, fx, nn

from iresnet_export.layers import plain_name, traced
from iresnet_models.deployed import Deployable

KINDS = ("conv", "batch_norm", "relu", "add", "mul", "max_pool", "average_pool", "linear")
"""The operations that are aligned; the rest (casts, reshapes, quantization) only carries values along."""

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
    """One of KINDS; `name` is the file's own for it, or empty."""

    kind: str
    name: str = ""


class Observer(ABC):
    """A loaded artifact whose inner values can be asked for."""

    operations: list[Operation]
    takes_pixels: bool = False

    @abstractmethod
    def values(self, batch: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """What the operations of these numbers give, as float32 or wider, for a batch of what the artifact takes."""


def operations_of_network(network: Deployable) -> tuple[list[Operation], dict[str, int]]:
    """The network's operations in order, and the number of the last one of each place: stem, `layer1.0` ..., pool, classifier."""
    graph, found, last = traced(network), list[Operation](), dict[str, int]()
    for node in graph.graph.nodes:
        kind, name = operation_of(graph, node)
        if kind in KINDS:
            last[_place(kind, name, last)] = len(found)
            found.append(Operation(kind, name))
    return found, last


def operation_of(graph: fx.GraphModule, node: fx.Node) -> tuple[str, str]:
    """The kind of a call, and the module that it is or stands in; nothing for other nodes."""
    if node.op == "call_module":
        return _MODULES.get(type(graph.get_submodule(str(node.target))), ""), plain_name(str(node.target))
    if node.op != "call_function":
        return "", ""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    scope = plain_name(f"{stack[-1][0]}.").removesuffix(".") if stack else ""
    return str(getattr(node.target, "__name__", node.target)), scope


def _place(kind: str, name: str, before: dict[str, int]) -> str:
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
