"""In which precision a network's work is: as an artifact stores it, layer by layer, weighted by multiply-accumulates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from iresnet_models.operations import layer_multiply_accumulates
from iresnet_models.spec import NetworkSpec

if TYPE_CHECKING:
    import numpy as np

    from iresnet_export.graph.ir import Node

NAMES = {
    "float64": "fp64",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "uint8": "uint8",
    "float8_e4m3fn": "fp8",
}


def precision_shares(layers: Iterable[Node], spec: NetworkSpec, without: Sequence[str] = ()) -> dict[str, float]:
    """Share of the multiply-accumulates by the precision of the weights, largest first; empty for other layers than the spec's.

    `without`: names of layers that are left out of the spec's.
    """
    weighted = list(layers)
    counts = {name: count for name, count in layer_multiply_accumulates(spec).items() if name not in without}
    if len(weighted) != len(counts) or any("weight" not in layer.tensors for layer in weighted):
        return {}
    return shares([precision_of(layer.tensors["weight"].dtype) for layer in weighted], list(counts.values()))


def precision_of(dtype: np.dtype) -> str:
    return NAMES.get(str(dtype), str(dtype))


def shares(precisions: Sequence[str], counts: Sequence[int]) -> dict[str, float]:
    """Each precision's share of the counts, largest first."""
    sums: dict[str, int] = defaultdict(int)
    for precision, count in zip(precisions, counts, strict=True):
        sums[precision] += count
    return {name: count / sum(counts) for name, count in sorted(sums.items(), key=lambda item: -item[1])}


def in_words(found: Mapping[str, float]) -> str:
    """Such as `99.95 % int8, 0.05 % fp32`."""
    return ", ".join(f"{100 * share:.4g} % {name}" for name, share in found.items())


def computed(precisions: Sequence[str], in_float: int) -> str:
    """Of a network whose layers are computed so, `in_float` of which are meant to be in float32: the widest of the others.

    Where fewer are in float32 than are meant to be, that is said: it is not what was exported.
    """
    found = list(precisions)
    if found and found.count("fp32") < in_float:
        return f"{widest(found)} ({found.count('fp32')} of {in_float} layers that are kept in float32)"
    for _ in range(in_float if found else 0):
        found.remove("fp32")
    return widest(found)


def widest(precisions: Sequence[str]) -> str:
    """The precision of a whole network: the widest one that any of its layers is in."""
    order = ["int8", "fp8", "bf16", "fp16", "fp32", "fp64"]
    return max(precisions, key=lambda name: order.index(name) if name in order else len(order), default="fp32")
