"""torch.export programs read back: every operation and weight of a program's graph."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from iresnet_export.errors import ArtifactError
from iresnet_export.graph.ir import (
    ATEN_KINDS,
    KINDS,
    Array,
    Graph,
    Node,
    Wiring,
    array_of,
    conv_attributes,
    float32,
    pool_attributes,
)
from iresnet_export.graph.precision import precision_of
from iresnet_models.errors import first_line

Read = tuple[dict[str, Any], dict[str, Array]]
"""Attributes and tensors."""


def load_program(path: Path) -> ExportedProgram:
    """A torch.export program; ArtifactError if it is not one."""
    try:
        with quiet("torch.export"), path.open("rb") as file:
            return torch.export.load(file)
    except Exception as error:  # torch raises what comes: RuntimeError, KeyError, AssertionError, errors of JSON and of zip
        raise ArtifactError(
            f"{path} is not a whole torch.export program, or of another version of torch than {torch.__version__} "
            f"({first_line(error)}).",
            "Export or copy it again.",
        ) from error


def layer_precisions(program: ExportedProgram) -> list[str]:
    """Of every convolution and linear layer, as its weights are stored."""
    return [precision_of(node.tensors["weight"].dtype) for node in graph_of_program(program).layers]


def graph_of_program(program: ExportedProgram) -> Graph:
    """The nodes of a program's graph, in its order, named as it names its calls."""
    stored = {**program.constants, **program.state_dict}
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target in stored}
    constants = {name: stored[target] for name, target in targets.items()}
    named = {
        targets[call.name]: array_of(constants[call.name])
        for call in program.graph.nodes
        if call.users and call.name in constants and constants[call.name].is_floating_point()
    }
    nodes, wiring = list[Node](), Wiring[str]()
    for call in program.graph.nodes:
        is_unread = (
            call.target is operator.getitem and not call.users
        )  # of an operation with several results, one that nothing reads
        if call.op in ("placeholder", "output", "get_attr") or is_unread:
            continue
        sources = [source.name for source in call.all_input_nodes if source.name not in constants]
        if call.all_input_nodes and not sources and isinstance(call.target, torch._ops.OpOverload):
            constants[call.name] = call.target(*_values(call.args, constants), **_values(call.kwargs, constants))
            continue
        if _carries(call):
            if sources:
                wiring.carry(sources[0], call.name)
            continue
        kind = ATEN_KINDS.get(_operator(call), _operator(call))
        attributes, tensors = dict[str, Any](), dict[str, Array]()
        if kind in _READ:
            attributes, tensors = _READ[kind](_arguments(call), constants)
        elif kind not in KINDS and isinstance(call.target, torch._ops.OpOverload):
            attributes = _plain(_arguments(call), targets)
        read = wiring.node(sources, call.name)
        nodes.append(Node(kind, call.name, read, attributes, tensors, _module_of(call)))
    return Graph(nodes, named=named, operators="aten")


def _module_of(call: fx.Node) -> str:
    """The innermost module that a call stands in; empty for the network itself, and for arithmetic with shapes."""
    if not isinstance(call.meta.get("val"), Tensor):
        return ""
    return str([("", ""), *(call.meta.get("nn_module_stack") or {}).values()][-1][0])


def _plain(arguments: dict[str, Any], targets: dict[str, str]) -> dict[str, Any]:
    """Of an operator that no network of ours has: numbers and texts as they are, stored tensors by their names."""
    return {
        name: fx.map_arg(value, lambda node: targets.get(node.name, ""))
        for name, value in arguments.items()
        if not isinstance(value, fx.Node) or value.name in targets
    }


def _operator(call: fx.Node) -> str:
    """A call's operator, whichever of its overloads; with its name space where that is not PyTorch's own."""
    if not isinstance(call.target, torch._ops.OpOverload):
        return f"python:{getattr(call.target, '__name__', call.target)}"
    name: str = call.target._schema.name
    return name.removeprefix("aten::")


def _carries(call: fx.Node) -> bool:
    """Whether a call gives its first input's numbers, in another type, shape or order, whatever they are; or gives none."""
    if call.target is operator.getitem:
        return call.args[1:] == (0,)  # of an operation with several results the first is the value
    if not isinstance(call.target, torch._ops.OpOverload):
        return False
    name = _operator(call)
    return name in _CARRYING or (name in ("dropout", "dropout_") and call.args[2] is False)


_CARRYING = (
    *("to", "_to_copy", "flatten", "reshape", "view", "_unsafe_view", "permute", "squeeze", "unsqueeze", "transpose", "unflatten"),
    *("contiguous", "clone", "detach", "detach_", "alias", "lift_fresh_copy", "sym_size"),
    *("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range_for_size"),
)
"""What these do to a number depends on no other number of the image's. What a change of type loses shows in every output."""


def _values(arguments: Any, constants: dict[str, Tensor]) -> Any:
    return fx.map_arg(arguments, lambda node: constants[node.name])


def _arguments(node: fx.Node) -> dict[str, Any]:
    """A call's arguments by their names, with the operator's own defaults."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
    return {**defaults, **given, **node.kwargs}


def _tensors(found: dict[str, Any], constants: dict[str, Tensor], **names: str) -> dict[str, Any]:
    sources = {name: found[argument] for name, argument in names.items()}
    return {
        name: array_of(constants[source.name])
        for name, source in sources.items()
        if isinstance(source, fx.Node) and source.name in constants
    }


def _conv(found: dict[str, Any], constants: dict[str, Tensor]) -> Read:
    stride, padding, dilation = (_pair(found[name]) for name in ("stride", "padding", "dilation"))
    attributes = conv_attributes(stride, padding, dilation, found["groups"])
    attributes |= {"transposed": 1} if found.get("transposed") else {}
    return attributes, _tensors(found, constants, weight="weight", bias="bias")


def _batch_norm(found: dict[str, Any], constants: dict[str, Tensor]) -> Read:
    attributes = {"eps": float32(found["eps"])} | ({"training_mode": 1} if found.get("training") else {})
    names = ("weight", "bias", "running_mean", "running_var")
    return attributes, _tensors(found, constants, **{name: name for name in names})


def _linear(found: dict[str, Any], constants: dict[str, Tensor]) -> Read:
    if "mat2" not in found:
        return {}, _tensors(found, constants, weight="weight", bias="bias")
    tensors = _tensors(found, constants, weight="mat2", bias="self")
    return {name: found[name] for name in ("beta", "alpha") if found[name] != 1}, {
        name: values.T for name, values in tensors.items()
    }


def _arithmetic(found: dict[str, Any], constants: dict[str, Tensor]) -> Read:
    """With a constant, or of two values."""
    attributes = {} if found.get("alpha", 1) == 1 else {"alpha": found["alpha"]}
    return attributes, _tensors(found, constants, constant="self") or _tensors(found, constants, constant="other")


def _max_pool(found: dict[str, Any], constants: dict[str, Tensor]) -> Read:
    kernel, padding, dilation = (_pair(found[name]) for name in ("kernel_size", "padding", "dilation"))
    return pool_attributes(kernel, _pair(found["stride"] or kernel), (*padding, *padding), found["ceil_mode"], dilation), {}


def _softmax(found: dict[str, Any], constants: dict[str, Tensor]) -> Read:
    return {"axis": found["dim"]}, {}


def _argmax(found: dict[str, Any], constants: dict[str, Tensor]) -> Read:
    return {name: found[name] for name in ("dim", "keepdim")}, {}


def _pair(value: Any) -> Any:
    return value if isinstance(value, list | tuple | str) else (value, value)


_READ: dict[str, Callable[[dict[str, Any], dict[str, Tensor]], Read]] = {
    "conv": _conv,
    "batch_norm": _batch_norm,
    "linear": _linear,
    "mul": _arithmetic,
    "add": _arithmetic,
    "sub": _arithmetic,
    "div": _arithmetic,
    "max_pool": _max_pool,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "argmax": _argmax,
}


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keeps loggers of torch from writing to stderr what an error tells as well, or what a user cannot act on."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
