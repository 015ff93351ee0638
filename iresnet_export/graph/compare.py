"""The graph that a file holds against the one that it should hold: operations, wiring, attributes, and every weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from iresnet_export.graph.align import in_order_of
from iresnet_export.graph.ir import Array, Graph, Node
from iresnet_export.reporting.schemas import GraphReport

_NAMED = 3
"""Tensors that a message names."""

_E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)


@dataclass(frozen=True)
class WeightsReport:
    """`compared`: how many numbers. `worst_ulp`: the largest difference, in units in the last place of the expected value.

    `first_difference` names the first layer, tensor and index that is not as it should be; None if all are. `matched`:
    the artifact has the network's layers, one for one.
    """

    compared: int
    worst_ulp: float
    first_difference: str | None
    matched: bool = True

    @property
    def passed(self) -> bool:
        return self.first_difference is None and self.compared > 0


@dataclass(frozen=True)
class Comparison:
    """Weights and operations are told apart: a foreign file may have fused its layers, and hold every weight nevertheless.

    `graph` is None where the two are of other operators, which cannot be compared one by one.
    """

    weights: WeightsReport
    graph: GraphReport | None

    @property
    def first_difference(self) -> str | None:
        return self.weights.first_difference or (None if self.graph is None else self.graph.first_difference)


def compare(expected: Graph, found: Graph) -> Comparison:
    """Compares node by node, in the network's order; where the network has named tensors, these by their names too, or alone."""
    if expected.operators != found.operators and expected.named:
        return Comparison(_compare_named(expected.named, found.named), None)
    found = in_order_of(expected, found)
    weights = _compare_weights(expected.weighted, found.weighted)
    if expected.named and weights.first_difference is None:
        weights = _compare_named(expected.named, found.named)
    return Comparison(weights, _compare_operations(expected.nodes, found.nodes))


def same_as(graph: Graph) -> Comparison:
    """What comparing a file gives that holds this very graph."""
    tensors = graph.named.values() or [values for node in graph.weighted for values in node.tensors.values()]
    compared = sum(values.size for values in tensors)
    return Comparison(WeightsReport(compared, 0.0, None), GraphReport(len(graph.nodes), None))


def _compare_operations(expected: Sequence[Node], found: Sequence[Node]) -> GraphReport:
    """Operations, their order, what they read, and the attributes of those without weights."""

    def described(node: Node, number: int) -> str:
        name = node.module or node.name
        return f"{node.kind} {number + 1}" + (f" ({name})" if name else "")

    def sources(node: Node) -> str:
        return " and ".join("the image" if number < 0 else described(expected[number], number) for number in node.inputs)

    for number, (wanted, got) in enumerate(zip(expected, found, strict=False)):
        what = described(wanted, number)
        if wanted.kind != got.kind:
            return GraphReport(number, f"where the network has {what}, the artifact has {described(got, number)}")
        if wanted.inputs != got.inputs:
            return GraphReport(number, f"{what} reads {sources(got)}, and not {sources(wanted)}")
        if not wanted.is_weighted and wanted.attributes != got.attributes:
            return GraphReport(number, f"{what} has the attributes {dict(got.attributes)}, and not {dict(wanted.attributes)}")
    if len(expected) != len(found):
        return GraphReport(len(found), f"the network has {len(expected)} operations, the artifact {len(found)}")
    return GraphReport(len(found), None)


def _compare_weights(expected: Sequence[Node], found: Sequence[Node]) -> WeightsReport:
    structure = _structural_difference(expected, found)
    if structure is not None:
        return WeightsReport(0, 0.0, structure, matched=False)
    compared, worst, first = 0, 0.0, None
    for wanted, got in zip(expected, found, strict=True):
        if first is None and wanted.attributes != got.attributes:
            first = _attribute_difference(wanted, got)
        for name, values in wanted.tensors.items():
            other = got.tensors.get(name)
            difference, ulp = _tensor_difference(f"{wanted.module or wanted.name}.{name}", values, other)
            first = first or difference
            worst = max(worst, ulp)
            compared += 0 if other is None else other.size
        if first is None and got.tensors.keys() - wanted.tensors.keys():
            surplus = ", ".join(sorted(got.tensors.keys() - wanted.tensors.keys()))
            first = f"{wanted.name} has a {surplus} which the network's has not"
    return WeightsReport(compared, worst, first)


def _compare_named(expected: Mapping[str, Array], found: Mapping[str, Array]) -> WeightsReport:
    """Tensors by their names. Where one is missing the file may have fused some: what is equal is counted, and no more."""
    missing = [name for name in expected if name not in found or found[name].shape != expected[name].shape]
    differences = {name: _tensor_difference(name, expected[name], found[name]) for name in expected if name not in missing}
    unequal = [name for name, (difference, _) in differences.items() if difference is not None]
    compared = sum(expected[name].size for name in differences if not missing or name not in unequal)
    if missing:
        others = sorted([*missing, *unequal])
        named = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
        return WeightsReport(
            compared, 0.0, f"not comparable by name: {len(others)} of {len(expected)} tensors ({named})", matched=False
        )
    worst = max((ulp for _, ulp in differences.values()), default=0.0)
    return WeightsReport(compared, worst, differences[unequal[0]][0] if unequal else None)


def _structural_difference(expected: Sequence[Node], found: Sequence[Node]) -> str | None:
    for wanted, got in zip(expected, found, strict=False):
        if wanted.kind != got.kind:
            return f"where the network has {wanted.name} ({wanted.kind}), the artifact has {got.name} ({got.kind})"
        if "weight" in wanted.tensors and "weight" not in got.tensors:
            return f"{wanted.name}.weight is not in the artifact as a constant"
    if len(expected) != len(found):
        return f"the network has {len(expected)} layers with weights, the artifact {len(found)}"
    return None


def _attribute_difference(wanted: Node, got: Node) -> str:
    keys = [key for key in {**wanted.attributes, **got.attributes} if wanted.attributes.get(key) != got.attributes.get(key)]
    return f"{wanted.name}: " + ", ".join(
        f"{key} is {got.attributes.get(key)} and not {wanted.attributes.get(key)}" for key in keys
    )


def _tensor_difference(name: str, wanted: Array, got: Array | None) -> tuple[str | None, float]:
    if got is None:
        return f"{name} is not in the artifact as a constant", 0.0
    if got.shape != wanted.shape:
        return f"{name} has the shape {got.shape} and not {wanted.shape}", 0.0
    if got.dtype == wanted.dtype and np.array_equal(_comparable(wanted), _comparable(got)):
        return None, 0.0
    if _are_codes(got) or _are_codes(wanted):
        return _code_difference(name, wanted, got)
    exact = wanted.astype(np.float64)
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            rounded = wanted.astype(got.dtype)
            distance = np.abs(got.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(got.dtype)).astype(np.float64)
    except (TypeError, ValueError):  # texts, truth values, and types of four bits
        return f"{name} is stored as {got.dtype} and not as {wanted.dtype}", float("inf")
    wrong = rounded != got  # NaN is wrong too
    worst = float(np.nanmax(np.where(np.isfinite(distance), distance, np.inf)))
    return (_described(name, wanted, got, wrong) if wrong.any() else None), worst


def _code_difference(name: str, wanted: Array, got: Array) -> tuple[str | None, float]:
    """Codes of one type are equal or wrong. How far apart they are is counted in codes."""
    if got.dtype != wanted.dtype:
        return f"{name} is stored as {got.dtype} and not as {wanted.dtype}", float("inf")
    numbers = _comparable(wanted), _comparable(got)
    return _described(name, wanted, got, numbers[0] != numbers[1]), float(np.abs(numbers[0] - numbers[1]).max())


def _are_codes(values: Array) -> bool:
    return np.issubdtype(values.dtype, np.integer) or values.dtype == _E4M3


def _comparable(values: Array) -> Array:
    """Codes as whole numbers in the order of what they mean; fp8's by their bits, so that -0 is not 0, and NaN is itself."""
    if values.dtype == _E4M3:
        bits = values.view(np.uint8).astype(np.int64)
        return np.where(bits < 128, bits, 127 - bits)
    return values.astype(np.int64) if np.issubdtype(values.dtype, np.integer) else values


def _described(name: str, wanted: Array, got: Array, wrong: npt.NDArray[np.bool_]) -> str:
    """The first wrong number of a tensor, and how many there are."""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = ", ".join(map(str, index))
    count = int(wrong.sum())
    others = f" (and {count - 1} more in this tensor)" if count > 1 else ""
    return f"{name}[{where}] is {got[index]!s} and not {wanted[index]!s}{others}"
