"""TorchScript files read back: every operation and weight of a script's graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iresnet_export.errors import ArtifactError
from iresnet_export.graph.ir import ATEN_KINDS, Array, Graph, Node, Wiring, array_of, conv_attributes, float32, pool_attributes
from iresnet_models.errors import first_line

Read = tuple[dict[str, Any], dict[str, Array]]
"""Attributes and tensors."""


def load_script(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """A TorchScript file on a device; ArtifactError if it is not one."""
    try:
        with deprecation_expected():
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
            return module
    except (RuntimeError, ValueError) as error:
        if _is_packed(path):
            raise ArtifactError(
                f"{path} was made by torch.jit.optimize_for_inference: its weights were packed for oneDNN, and torch.jit.save "
                "leaves such out, so nothing can load it.",
                "Save the script from before that call.",
            ) from error
        raise ArtifactError(
            f"torch {torch.__version__} cannot load {path} as TorchScript ({first_line(error)}). It is damaged, or was made by "
            "another version.",
            "Export or copy it again.",
        ) from error


def _is_packed(path: Path) -> bool:
    """Whether a script's code reads weights that its archive does not hold."""
    from iresnet_export.backends.torchscript.looking import read_script

    try:
        return any(name.startswith("mkldnn_") for name in read_script(path)["operators"])
    except ArtifactError:
        return False


def graph_of_script(module: torch.jit.ScriptModule) -> Graph:
    """The nodes of a script's graph, in its order."""
    nodes, wiring = list[Node](), Wiring[str]()
    for node in frozen(module).graph.nodes():
        inputs = [value for value in node.inputs() if value.node().kind() != "prim::Constant"]
        output = next((value.debugName() for value in node.outputs()), "")
        if _carries(node):
            if inputs:
                wiring.carry(inputs[0].debugName(), output)
            continue
        tensors = [value for value in inputs if value.type().isSubtypeOf(torch._C.TensorType.get())]
        kind = ATEN_KINDS.get(_operator(node), node.kind())
        attributes, constants = _READ.get(kind, _plain)(node)
        read = wiring.node([value.debugName() for value in tensors], output)
        nodes.append(Node(kind, output if constants else "", read, attributes, constants))
    return Graph(nodes)


def operations_of(graph: Any) -> list[Any]:
    """The operations of a frozen module's graph that are nodes of the graph above, in the same order."""
    return [node for node in graph.nodes() if not _carries(node)]


def _operator(node: Any) -> str:
    kind: str = node.kind()
    return kind.removeprefix("aten::") if kind.startswith("aten::") else kind


def _carries(node: Any) -> bool:
    """Whether an operation gives its first input's numbers, in another type, shape or order, whatever they are."""
    if node.kind() == "aten::dropout":
        return list(node.inputs())[2].toIValue() is False
    if _only_refuses(node) or _is_extent(node):
        return True
    return node.kind() in _CARRYING and node.outputsSize() == 1


def _is_extent(node: Any) -> bool:
    """Whether an operation gives no tensor, reads none but for its extents, and chooses nothing by how large they are."""
    if next(node.blocks(), None) is not None:
        return False
    tensor = torch._C.TensorType.get()
    reads = node.kind() not in _EXTENTS and any(value.type().isSubtypeOf(tensor) for value in node.inputs())
    given = [value.type() for value in node.outputs()]
    plain = (torch._C.IntType.get(), torch._C.BoolType.get(), torch._C.ListType(torch._C.IntType.get()))
    return bool(given) and not reads and all(any(kind.isSubtypeOf(one) for one in plain) for kind in given)


def _only_refuses(node: Any) -> bool:
    """Whether a branch ends in an error or does nothing, as checks of what a module is given do."""
    inner = [each.kind() for block in node.blocks() for each in block.nodes()] if node.kind() == "prim::If" else None
    return inner is not None and not node.outputsSize() and set(inner) <= {"prim::Constant", "prim::RaiseException"}


_EXTENTS = ("aten::size", "aten::len", "aten::dim")
_CARRYING = (
    *("prim::Constant", "prim::ListConstruct", "prim::TupleConstruct", "prim::NumToTensor", "aten::size", "aten::Int"),
    *("aten::to", "aten::flatten", "aten::reshape", "aten::view", "aten::permute", "aten::squeeze", "aten::unsqueeze"),
    *("aten::contiguous", "aten::clone", "aten::detach"),
)
"""What these do to a number depends on no other number of the image's. What a change of type loses shows in every output."""


def frozen(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A module whose weights are constants of its graph."""
    if not any(True for _ in module.parameters()):
        return module
    with deprecation_expected():
        made: torch.jit.ScriptModule = torch.jit.freeze(module.eval(), optimize_numerics=False)
        return made


def _conv(node: Any) -> Read:
    inputs = list(node.inputs())
    may_transpose = node.kind() in ("aten::_convolution", "aten::convolution")
    groups = inputs[8 if may_transpose else 6].toIValue()
    attributes = conv_attributes(_integers(inputs[3]), _integers(inputs[4]), _integers(inputs[5]), groups)
    attributes |= {"transposed": 1} if may_transpose and inputs[6].toIValue() else {}
    return attributes, _constants(node, weight=1, bias=2)


def _batch_norm(node: Any) -> Read:
    inputs = list(node.inputs())
    attributes = {"eps": float32(inputs[7].toIValue())} | ({"training_mode": 1} if inputs[5].toIValue() else {})
    return attributes, _constants(node, weight=1, bias=2, running_mean=3, running_var=4)


def _linear(node: Any) -> Read:
    if node.kind() == "aten::addmm":
        inputs = list(node.inputs())
        tensors = _constants(node, bias=0, weight=2)
        factors = {name: inputs[index].toIValue() for index, name in ((3, "beta"), (4, "alpha"))}
        return {name: value for name, value in factors.items() if value != 1}, {
            name: values.T if name == "weight" else values for name, values in tensors.items()
        }
    return {}, _constants(node, weight=1, bias=2)


def _arithmetic(node: Any) -> Read:
    """With a constant, or of two values."""
    inputs = list(node.inputs())
    alpha = inputs[2].toIValue() if len(inputs) > 2 else 1
    return ({} if alpha == 1 else {"alpha": alpha}), _constants(node, constant=0) or _constants(node, constant=1)


def _max_pool(node: Any) -> Read:
    kernel, stride, padding, dilation = (_integers(value) for value in list(node.inputs())[1:5])
    return pool_attributes(kernel, stride or kernel, (*padding, *padding), list(node.inputs())[5].toIValue(), dilation), {}


def _softmax(node: Any) -> Read:
    return {"axis": list(node.inputs())[1].toIValue()}, {}


def _argmax(node: Any) -> Read:
    _, dim, keepdim = (value.toIValue() for value in node.inputs())
    return {"dim": dim, "keepdim": keepdim}, {}


def _plain(node: Any) -> Read:
    return {}, {}


_READ: dict[str, Callable[[Any], Read]] = {
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


def _constants(node: Any, **positions: int) -> dict[str, Array]:
    inputs = list(node.inputs())
    values = {name: inputs[position].toIValue() for name, position in positions.items()}
    return {name: array_of(value) for name, value in values.items() if isinstance(value, Tensor)}


def _integers(value: Any) -> tuple[int, ...]:
    found = value.toIValue() if value.node().kind() == "prim::Constant" else [item.toIValue() for item in value.node().inputs()]
    return tuple(found)


@contextmanager
def deprecation_expected() -> Iterator[None]:
    """torch says at every use that TorchScript is deprecated; a user who asks for it knows or is told by the documentation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
        yield
