"""Constants that an ONNX graph computes from those that it stores, as exporters without optimisation write them.

A weight may stand behind an Identity or a Transpose, be a node itself, or be expanded from a zero. Only what moves numbers about is
computed here; whatever else is made of constants alone is named, and left unknown.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from iresnet_export.graph.ir import Array

_OWN_DOMAINS = ("", "ai.onnx")
_RANDOM = ("Random", "Multinomial", "Bernoulli")
_NUMBERS = 2**28
"""How many may be computed in all: more than a network has, and no more memory than a machine has."""


def functions_of(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Domain and name of every operator that a file defines itself."""
    return {(function.domain, function.name) for function in model.functions}


def is_onnx(node: onnx.NodeProto, functions: set[tuple[str, str]]) -> bool:
    """Whether an operator is ONNX's own, and not one of another domain or of the file's `functions`."""
    return node.domain in _OWN_DOMAINS and (node.domain, node.op_type) not in functions


def computed_constants(model: onnx.ModelProto) -> tuple[dict[str, Array], set[str]]:
    """The values that nodes compute from constants, as far as they are known; and the names of all such values, known or not.

    Only ONNX's own operators: what another domain or the file itself defines may compute anything, and what is random is not
    constant.
    """
    functions = functions_of(model)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, Array] = {}
    derived: set[str] = set()
    left = _NUMBERS

    def constant(name: str) -> bool:
        return name in stored or name in derived

    for node in model.graph.node:
        given = [name for name in node.input if name]
        if any(attribute.type in (attribute.GRAPH, attribute.GRAPHS) for attribute in node.attribute):
            continue  # a graph within may read whatever it likes
        if not is_onnx(node, functions) or node.op_type.startswith(_RANDOM):
            continue
        if node.op_type == "CastLike":
            given = given[:1]  # the other one only lends its type
        if not all(map(constant, given)):
            continue
        derived.update(node.output)
        if node.op_type not in _COMPUTED or len(node.output) != 1:
            continue
        try:
            arrays = [found[name] if name in found else numpy_helper.to_array(stored[name]) for name in given]
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            made = _COMPUTED[node.op_type](arrays, attributes, left)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            continue  # unknown; what cannot be computed at all the runtime refuses
        left -= made.size
        if left < 0:
            break
        found[node.output[0]] = made
    return found, derived


def _constant(_arrays: list[Array], attributes: dict[str, Any], _left: int) -> Array:
    ((name, value),) = attributes.items()
    if name == "value":
        return numpy_helper.to_array(value)
    types: dict[str, Any] = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    return np.asarray(value, types[name])


def _transpose(arrays: list[Array], attributes: dict[str, Any], _left: int) -> Array:
    return arrays[0].transpose(attributes.get("perm"))


def _reshape(arrays: list[Array], attributes: dict[str, Any], _left: int) -> Array:
    values, shape = arrays[0], [int(extent) for extent in arrays[1]]
    if not attributes.get("allowzero", 0):
        shape = [values.shape[axis] if extent == 0 else extent for axis, extent in enumerate(shape)]
    return values.reshape(shape)


def _unsqueeze(arrays: list[Array], attributes: dict[str, Any], _left: int) -> Array:
    axes = attributes["axes"] if len(arrays) == 1 else arrays[1]
    return np.expand_dims(arrays[0], tuple(int(axis) for axis in axes))


def _squeeze(arrays: list[Array], attributes: dict[str, Any], _left: int) -> Array:
    axes = attributes.get("axes") if len(arrays) == 1 else arrays[1]
    return np.squeeze(arrays[0], None if axes is None else tuple(int(axis) for axis in axes))


def _cast(arrays: list[Array], attributes: dict[str, Any], _left: int) -> Array:
    return arrays[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))


def _cast_like(arrays: list[Array], _attributes: dict[str, Any], _left: int) -> Array:
    """Zeros alone are the same in any type; of other numbers the type, and so the rounding, is that of a value not known here."""
    if arrays[0].any():
        raise ValueError("not known")
    return arrays[0]


def _shape(arrays: list[Array], attributes: dict[str, Any], _left: int) -> Array:
    return np.asarray(arrays[0].shape[attributes.get("start", 0) : attributes.get("end")], np.int64)


def _expand(arrays: list[Array], _attributes: dict[str, Any], left: int) -> Array:
    shape = [int(extent) for extent in arrays[1]]
    if len(shape) > 64 or min(shape, default=1) < 0 or math.prod(shape) * max(1, arrays[0].size) > left:
        raise ValueError("too large")
    return np.broadcast_to(arrays[0], np.broadcast_shapes(arrays[0].shape, tuple(shape)))


_COMPUTED: dict[str, Callable[[list[Array], dict[str, Any], int], Array]] = {
    "Constant": _constant,
    "Identity": lambda arrays, _attributes, _left: arrays[0],
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Shape": _shape,
    "Expand": _expand,
}
