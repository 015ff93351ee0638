"""What a TorchScript archive holds, read from its records: nothing in it is loaded or run.

Code lies in it as text, weights as numbers behind lists of them, which are pickles. Those are stepped through here with stand-ins
for whatever they would make: no name in them is looked up, and nothing is called.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iresnet_export.errors import ArtifactError
from iresnet_models.archives import opened

_PICKLES = {"data.pkl": "data", "constants.pkl": "constants"}
"""The lists of tensors, and the folders that their numbers lie in."""
_PICKLE_BYTES = 4 << 20
"""Of one such list: a network of a thousand layers has a third of that."""
_CODE_BYTES = 64 << 20
_CALL = re.compile(r"\b(?:torch|ops\.(?!prim\.(?!mkldnn_))[A-Za-z_]\w*)\.([A-Za-z_]\w*)\(")
"""A call of an operator as TorchScript writes it: `torch.relu(`, `ops.quantized.add(`. `ops.prim` is mostly the language's own."""
_NO_OPERATORS = frozenset({"device", "dtype", "layout"})
_TYPES = {
    "BoolStorage": ("bool", 1),
    "ByteStorage": ("uint8", 1),
    "CharStorage": ("int8", 1),
    "ShortStorage": ("int16", 2),
    "IntStorage": ("int32", 4),
    "LongStorage": ("int64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
}
"""Types of numbers by torch's names for their storages, with the bytes of one."""


@dataclass(frozen=True)
class _Name:
    """What a pickle would import."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Numbers in a record of their own; `bytes_each` is None for a type that is unknown here."""

    type: str
    key: str
    count: int
    bytes_each: int | None


@dataclass(frozen=True)
class _StoredTensor:
    storage: _Storage
    shape: tuple[int, ...]
    offset: int


_OPAQUE = object()
"""Whatever else a pickle makes."""


def read_script(path: Path) -> dict[str, Any]:
    """The `operators` in a script's code and the number of `weights` of each type; ArtifactError for a damaged archive.

    `notes` say what is unknown.
    """
    with opened(path) as archive:
        operators, weights = Counter[str](), Counter[str]()
        code = [name for name in archive.names if name.partition("/")[2].startswith("code/") and name.endswith(".py")]
        if sum(map(archive.size, code)) > _CODE_BYTES:
            raise ArtifactError(f"{path} holds more than the {_CODE_BYTES:,} bytes of code that are ample for a network.")
        for name in code:
            text = archive.read(name).decode("utf-8", "replace")
            operators.update(call for call in _CALL.findall(text) if call not in _NO_OPERATORS)
        for pickle, folder in _PICKLES.items():
            whole = archive.named(pickle)
            if whole is None:
                continue
            for tensor in dict.fromkeys(_tensors_of(archive.read(whole, _PICKLE_BYTES))):
                record = archive.named(f"{folder}/{tensor.storage.key}")
                needed = None if tensor.storage.bytes_each is None else tensor.storage.count * tensor.storage.bytes_each
                if record is None or (needed is not None and archive.size(record) != needed):
                    found = "is missing" if record is None else f"has {archive.size(record):,} bytes and not {needed:,}"
                    raise ArtifactError(f"{path} is not whole: the record of a tensor in it {found}.", "Export or copy it again.")
                weights[tensor.storage.type] += math.prod(tensor.shape)
    notes = {"inputs and outputs": "unknown without loading it"}
    if len(code) > 1:
        notes["operators are"] = "those that its code names, wherever it does; how often each runs is unknown without loading it"
    return {"operators": dict(operators.most_common()), "weights": dict(weights), "notes": notes}


def _tensors_of(pickle: bytes) -> Iterator[_StoredTensor]:
    """The tensors that a pickle would make, in its order; ValueError or LookupError where it is none."""
    machine = _Machine()
    for operation, argument, _ in pickletools.genops(pickle):
        made = machine.step(operation.name, argument)
        if isinstance(made, _StoredTensor):
            yield made


class _Machine:
    """Steps through a pickle. Its stack holds whole numbers, texts, tuples of those, and stand-ins."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> Any:
        """Does one operation; returns what it left on top, if anything."""
        stack = self._stack
        if name in _PUSHES:
            stack.append(argument)
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in _MADE_OF:
            count = _MADE_OF[name]
            taken = [stack.pop() for _ in range(count)][::-1]
            stack.append(self._made(name, taken))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("LIST", "DICT", "OBJ", "INST", "FROZENSET"):
            self._to_mark()
            stack.append(_OPAQUE)
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            self._to_mark()
        elif name in ("APPEND", "BUILD", "POP"):
            stack.pop()
        elif name == "SETITEM":
            stack.pop()
            stack.pop()
        elif name == "POP_MARK":
            self._to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "GLOBAL":
            stack.append(_Name(str(argument).replace(" ", ".")))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            stack.append(_OPAQUE)  # None, truth values, floats, empty containers
        return stack[-1] if name == "REDUCE" else None

    def _to_mark(self) -> list[Any]:
        mark = self._marks.pop()
        taken = self._stack[mark:]
        del self._stack[mark:]
        return taken

    def _made(self, name: str, taken: list[Any]) -> Any:
        if name.startswith("TUPLE"):
            return tuple(taken)
        if name == "BINPERSID":
            return _storage(taken[0])
        if name == "STACK_GLOBAL":
            return _Name(f"{taken[0]}.{taken[1]}")
        if name == "REDUCE" and isinstance(taken[0], _Name):
            return _tensor(taken[1]) if taken[0].name in _TENSORS else _OPAQUE
        return _OPAQUE


_WHOLE_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_PUSHES = frozenset((*_WHOLE_NUMBERS, *_TEXTS))
_MADE_OF = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "BINPERSID": 1, "STACK_GLOBAL": 2, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3}
"""Operations that make one value of that many."""


def _storage(named: Any) -> Any:
    """What torch keeps outside the pickle: ("storage", its type, its record, where it lay, how many numbers)."""
    if not isinstance(named, tuple) or len(named) != 5 or named[0] != "storage":
        return _OPAQUE
    _, kind, key, _, count = named
    if not isinstance(kind, _Name) or not isinstance(key, str) or len(key) > 256 or not _is_extent(count):
        raise ValueError("a tensor's numbers are described in no way that torch does")
    storage = kind.name.rpartition(".")[2]
    type_, each = _TYPES.get(storage, (storage.removesuffix("Storage").lower()[:40], None))
    return _Storage(type_, key, count, each)


def _tensor(arguments: Any) -> Any:
    """A tensor of (storage, offset, shape, ...)."""
    if not isinstance(arguments, tuple) or len(arguments) < 3 or not isinstance(arguments[0], _Storage):
        return _OPAQUE
    storage, offset, shape = arguments[:3]
    sound = isinstance(shape, tuple) and len(shape) <= 64 and all(map(_is_extent, (offset, *shape)))
    if not sound or not _is_extent(math.prod(shape)):
        raise ValueError("a tensor has a shape that none can have")
    return _StoredTensor(storage, shape, offset)


def _is_extent(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


_TENSORS = frozenset(f"torch._utils.{name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_qtensor"))
"""What makes tensors of their numbers: these take the storage, the place in it and the shape."""
