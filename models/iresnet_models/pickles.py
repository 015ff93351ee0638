"""What a pickle asks for, looked at before anything is made of it; the harmless is read past. Nothing in it is run.

torch's reader for weights makes only what is on its own list. Two things on that list take memory without bound (`bytearray(n)`,
and codecs that double what they are given), copies of one long list do the same, and some of what is not on it is harmless: the
settings, dates and numbers that training scripts save beside the weights.
"""

from __future__ import annotations

import io
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import torch

_HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|uuid\.UUID|decimal\.Decimal|fractions\.Fraction"
    r"|pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path|datetime\.(datetime|date|time|timedelta|timezone)"
    r"|collections\.(defaultdict|deque)|builtins\.(slice|range|frozenset|dict|list|int|float|str|bool|tuple|bytes)"
    r"|numpy\.(dtype|ndarray|bool|bool_|float16|float32|float64|int8|int16|int32|int64|uint8)|numpy\.dtypes\.\w+"
    r"|numpy\.(_core|core)\.multiarray\.(scalar|_reconstruct)|numpy\.(_core|core)\.numeric\._frombuffer"
    r"|torch\.torch_version\.TorchVersion"
)
"""Names of what holds plain data. None of it is made: a `Passed` stands for each."""

_COPYING = re.compile(
    r"torch\.(\w+\.)?\w*Tensor|torch\.Size|torch\.storage\.(Typed|Untyped)Storage|builtins\.set|collections\.Counter"
    r"|torch\._utils\._rebuild_(?!tensor(_v[23])?$|parameter)\w+"
)
"""What torch makes with a copy of its arguments, or in a size that they tell."""

_ENCODE = "_codecs.encode"
_BINARY_CODECS = {
    *("hex", "hexcodec", "base64", "base64codec", "quopri", "quopricodec", "quotedprintable", "uu", "uucodec"),
    *("zip", "zlib", "zlibcodec", "bz2", "bz2codec"),
}
_MOST_COPIED = 256 * 2**20
_DEEPEST = 500
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), ("GET", "BINGET", "LONG_BINGET")
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


class RefusedPickleError(Exception):
    """A pickle would take memory or stack without bound; the message says how."""


class _Depths:
    """How deeply what lies on the stack is nested: whoever hashes a tuple in a tuple in a tuple runs out of the C stack."""

    def __init__(self) -> None:
        self._stack: list[int] = []
        self._marks: list[int] = []
        self._memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Takes the next opcode; raises RefusedPickleError where it nests too deeply, IndexError where the stack is too short."""
        if opcode.name in _PUTS:
            self._memo[len(self._memo) if argument is None else int(str(argument))] = self._stack[-1]
            return
        if opcode.name == "MARK":
            self._marks.append(len(self._stack))
            return
        taken: list[int] = []
        if pickletools.markobject in opcode.stack_before:
            start = self._marks.pop()
            taken, self._stack = self._stack[start:], self._stack[:start]
        plain = [kind for kind in opcode.stack_before if kind not in (pickletools.markobject, pickletools.stackslice)]
        for _ in plain:
            taken.append(self._stack.pop())
        if not opcode.stack_after:
            return
        depth = 1 + max(taken, default=0)
        if opcode.name in _GETS:
            depth = self._memo.get(int(str(argument)), 0)
        elif opcode.name in _FILLS:  # what is filled was taken last, and is no deeper for being filled again
            depth = max(taken[-1], 1 + max(taken[:-1], default=0))
        if depth > _DEEPEST:
            raise RefusedPickleError("it is nested too deeply")
        self._stack += [depth] * len(opcode.stack_after)


class _Bounded:
    """Reads of a file no more than is in it: a buffered file takes the memory for all that it is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, start = file, file.tell()
        self._size = file.seek(0, io.SEEK_END)
        file.seek(start)
        self.tell, self.readline = file.tell, file.readline

    def read(self, count: int) -> bytes:
        if count > io.DEFAULT_BUFFER_SIZE:
            count = min(count, self._size - self._file.tell())
        return self._file.read(count)


class Passed:
    """Stands for a harmless object that is read past: whatever it is made with, it does and holds nothing."""

    __slots__ = ()

    def __new__(cls, *_arguments: Any) -> Passed:
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def _no_items(*_arguments: Any) -> list[Any]:
    return []


def _no_entries(*_arguments: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


_STANDS_FOR = {"collections.defaultdict": _no_entries, "collections.deque": _no_items}


def globals_of(file: IO[bytes], pickles: int = 1) -> set[str]:
    """The full names of all that the pickles at the start of a file ask for. Nothing is made.

    Raises RefusedPickleError where what torch would make of them takes memory without bound, and ValueError or
    IndexError for what is no pickle.
    """
    names: set[str] = set()
    memo: dict[int, tuple[str | None, str | None]] = {}
    texts: list[str] = []
    longest, encodings, copies, binary = 0, 0, 0, False
    top: str | None = None  # the name of what lies on the stack's top, and the text that lies there
    text: str | None = None
    for number in range(pickles):
        start = file.tell()
        if number and not file.read(1):
            break
        file.seek(start)
        depths = _Depths()
        for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", _Bounded(file))):
            depths.follow(opcode, argument)
            if opcode.name in _PUTS:
                memo[len(memo) if argument is None else int(str(argument))] = top, text
                continue
            before, top, text = top, None, None
            if opcode.name in ("GLOBAL", "INST"):
                top = _full_name(*str(argument).split(" ", 1))
            elif opcode.name == "STACK_GLOBAL":
                top = _full_name(*texts[-2:]) if len(texts) > 1 else "unknown"
            elif opcode.name in _GETS:
                top, text = memo.get(int(str(argument)), (None, None))
            elif isinstance(argument, str):
                text = argument
                binary = binary or (len(text) < 100 and re.sub(r"[^a-z0-9]", "", text.lower()) in _BINARY_CODECS)
            if isinstance(argument, str | bytes):
                longest = max(longest, len(argument))
            if text is not None:
                texts = [*texts[-1:], text]
            if top is not None:
                names.add(top)
                encodings += top == _ENCODE
                copies += _COPYING.fullmatch(top) is not None
            copies += before == "collections.OrderedDict" and opcode.name not in ("EMPTY_TUPLE", "REDUCE")
    size = file.tell()
    if "builtins.bytearray" in names:
        raise RefusedPickleError("it asks for bytearray, which takes as much memory as it is told")
    if binary and _ENCODE in names:
        raise RefusedPickleError(f"it asks for {_ENCODE} with a codec that is not of text")
    if max(copies, 16) * size > max(_MOST_COPIED, 16 * size) or encodings * longest > _MOST_COPIED:
        raise RefusedPickleError("it asks for many copies of what it holds")
    return names


def is_harmless(name: str) -> bool:
    """Whether it is read past rather than refused."""
    return _HARMLESS.fullmatch(name) is not None


@contextmanager
def read_past(names: set[str]) -> Iterator[None]:
    """While it lasts, torch reads past those of the names that are harmless."""
    stands: list[Any] = [(_STANDS_FOR.get(name, Passed), name) for name in sorted(names) if is_harmless(name)]
    with torch.serialization.safe_globals(stands):
        yield


def _full_name(module: str, name: str = "") -> str:
    """As torch's reader finds it: protocol 2 writes the names of Python 2."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"
