"""What a pickle asks for, looked at before anything is made of it, and the harmless of it read past. Nothing in it is run.

torch's reader for weights makes only what is on its own list. Two things on that list take memory without bound (`bytearray(n)`, and
codecs that double what they are given), copies of one long list do the same, and some of what is not on it is harmless: the
settings, dates and numbers that training scripts save beside the weights.
"""

from __future__ import annotations

import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

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

_CHEAP = re.compile(
    r"collections\.OrderedDict|torch\.(\w+Storage|device|serialization\._get_layout)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.(b?float|u?int|complex|q?u?int)\d*\w*|torch\.(half|double|long|short|bool)"
)
"""What torch makes without a copy of its arguments."""

_ENCODE = "_codecs.encode"
_BINARY_CODECS = {
    *("hex", "hexcodec", "base64", "base64codec", "quopri", "quopricodec", "quotedprintable", "uu", "uucodec"),
    *("zip", "zlib", "zlibcodec", "bz2", "bz2codec"),
}
_MOST_COPIED = 256 * 2**20


class RefusedPickleError(Exception):
    """A pickle would take memory without bound; the message says how."""


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

    Raises RefusedPickleError where what torch would make of them takes memory without bound, and ValueError for what is no pickle.
    """
    names: set[str] = set()
    memo: dict[int, str | None] = {}
    texts: list[str] = []
    longest, encodings, copies, binary = 0, 0, 0, False
    top: str | None = None
    for number in range(pickles):
        place = file.tell()
        if number and not file.read(1):
            break
        file.seek(place)
        for opcode, argument, _place in pickletools.genops(file):
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                memo[len(memo) if argument is None else int(str(argument))] = top
                continue
            before, top = top, None
            if opcode.name in ("GLOBAL", "INST"):
                top = _full_name(*str(argument).split(" ", 1))
            elif opcode.name == "STACK_GLOBAL":
                top = _full_name(*texts[-2:]) if len(texts) > 1 else "unknown"
            elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
                top = memo.get(int(str(argument)))
            elif isinstance(argument, str | bytes):
                longest = max(longest, len(argument))
                if isinstance(argument, str):
                    texts = [*texts[-1:], argument]
                    binary = binary or (len(argument) < 100 and re.sub(r"[^a-z0-9]", "", argument.lower()) in _BINARY_CODECS)
            if top is not None:
                names.add(top)
                encodings += top == _ENCODE
                copies += not (top == _ENCODE or _CHEAP.fullmatch(top) or _HARMLESS.fullmatch(top))
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
