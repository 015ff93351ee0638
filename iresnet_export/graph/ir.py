"""One intermediate graph for a network and for every file of it, whatever the format: its operations, their wiring and weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]
Value = TypeVar("Value")

KINDS = (
    *("conv", "batch_norm", "relu", "add", "sub", "mul", "div", "max_pool", "average_pool", "linear"),
    *("softmax", "log_softmax", "argmax"),
)
"""The operations that a network consists of, or is wrapped in. Each format's reader lists by name what only carries values along
(casts, reshapes, quantization); whatever else a file computes is a node too, of a kind of its own name, which no network has."""

WEIGHTED = ("conv", "batch_norm", "linear")

ATEN_KINDS = {
    "conv2d": "conv",
    "convolution": "conv",
    "_convolution": "conv",
    "batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "relu": "relu",
    "relu_": "relu",
    "add": "add",
    "add_": "add",
    "sub": "sub",
    "mul": "mul",
    "div": "div",
    "max_pool2d": "max_pool",
    "max_pool2d_with_indices": "max_pool",
    "adaptive_avg_pool2d": "average_pool",
    "mean": "average_pool",
    "linear": "linear",
    "addmm": "linear",
    "softmax": "softmax",
    "_softmax": "softmax",
    "log_softmax": "log_softmax",
    "_log_softmax": "log_softmax",
    "argmax": "argmax",
}
"""KINDS by the names of PyTorch's own operators, which TorchScript and torch.export write."""


@dataclass(frozen=True)
class Node:
    """One of KINDS, or an operation that is none of them by the file's name for it, with its constants.

    `name`: the module's in a network, the file's own in a file, or empty. `inputs`: numbers of the nodes whose results it reads, in
    order of their numbers; -1 for the image, and nothing for constants. `tensors`, in torch's shapes: `weight` (outputs,
    inputs / groups, height, width) of a convolution, (outputs, inputs) of a linear layer, and their `bias`; BatchNorm's four; the
    `constant` (1, channels, 1, 1) of an addition, subtraction or multiplication; of quantized ones scales and zero points too.
    `module`: the innermost module of the network that it stands in, where a file tells; empty for arithmetic with shapes.
    """

    kind: str
    name: str = ""
    inputs: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)
    module: str = ""

    @property
    def is_weighted(self) -> bool:
        return self.kind in WEIGHTED or bool(self.tensors)


@dataclass(frozen=True)
class Graph:
    """The nodes in execution order. `codes`: scale and zero point of every quantized activation, by name, sorted.

    `named`: the floating-point tensors that it computes with, by the file's own names. `operators`: whose operators the nodes are
    that are none of KINDS; those of two such sets cannot be compared. Empty for networks that consist of KINDS alone.
    """

    nodes: Sequence[Node]
    codes: Sequence[Node] = ()
    named: Mapping[str, Array] = field(default_factory=dict)
    operators: Literal["", "aten", "onnx"] = ""

    @property
    def weighted(self) -> list[Node]:
        """The nodes that have constants, and then the codes of activations."""
        return [*(node for node in self.nodes if node.is_weighted), *self.codes]

    @property
    def kinds(self) -> set[str]:
        return {node.kind for node in self.nodes}

    @property
    def modules(self) -> dict[str, int]:
        """For each module the number of its last node, in the order of those."""
        last = {node.module: number for number, node in enumerate(self.nodes) if node.module}
        return dict(sorted(last.items(), key=lambda item: item[1]))

    @property
    def layers(self) -> Iterator[Node]:
        """The convolutions and linear layers: where a network's multiply-accumulates are."""
        return (node for node in self.nodes if node.kind in ("conv", "linear"))


class Wiring(Generic[Value]):
    """Which node each value comes from, while a file's nodes are gone through in order."""

    def __init__(self) -> None:
        self._from: dict[Value, int] = {}
        self._count = 0

    def node(self, inputs: Iterable[Value], output: Value) -> tuple[int, ...]:
        """Numbers a new node; returns the numbers of those that it reads."""
        read = tuple(sorted(self._from.get(value, -1) for value in inputs))
        self._from[output] = self._count
        self._count += 1
        return read

    def carry(self, source: Value, output: Value) -> None:
        """An operation that only carries a value along."""
        if source in self._from:
            self._from[output] = self._from[source]


def conv_attributes(stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    """A convolution's attributes in one form, whichever format they come from."""
    return {"stride": tuple(stride), "padding": tuple(padding), "dilation": tuple(dilation), "groups": int(groups)}


def pool_attributes(
    kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil: object, dilation: Sequence[int] = (1, 1)
) -> dict[str, Any]:
    """A max pool's attributes in one form, whichever format they come from; `padding` is (top, left, bottom, right)."""
    return {
        "kernel": tuple(kernel),
        "stride": tuple(stride),
        "padding": tuple(padding),
        "ceil": bool(ceil),
        "dilation": tuple(dilation),
    }


def float32(value: float) -> float:
    """A number as float32 holds it, which is all that ONNX keeps of an attribute."""
    return float(np.float32(value))


def pair(value: Any) -> tuple[Any, ...]:
    """Height and width, where one number may stand for both."""
    return (value, value) if isinstance(value, int) else tuple(value)


def array_of(tensor: Tensor) -> Array:
    """A tensor's values as an array, bfloat16 too."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def tensor_of(values: Array) -> Tensor:
    """An array's values as a tensor of its own, float8 too."""
    import torch

    if values.dtype == ml_dtypes.float8_e4m3fn:
        return torch.from_numpy(values.view(np.uint8).copy()).view(torch.float8_e4m3fn)
    return torch.from_numpy(values.copy())
