"""The first thing in which a file differs from the one that it should be, in the words of its format."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from typing import Any

_SHOWN = 60
"""Letters of a value that are shown."""


def record_difference(expected: bytes, found: bytes) -> str:
    """Of two archives of torch that differ: the first record that one of them lacks, or holds otherwise."""
    with zipfile.ZipFile(io.BytesIO(expected)) as wanted, zipfile.ZipFile(io.BytesIO(found)) as got:
        for name in wanted.namelist():
            if name not in got.namelist():
                return f"the record {name} is missing"
            here, there = wanted.read(name), got.read(name)
            if here != there and not name.endswith("/.data/serialization_id"):  # a hash of the others
                return f"in the record {name} {_text_difference(name, here, there)}"
        surplus = [name for name in got.namelist() if name not in wanted.namelist()]
    if surplus:
        return f"it holds a record {surplus[0]!a:.100} that no export writes"
    return "its records are as they should be, and the bytes around them are not"


def _text_difference(name: str, wanted: bytes, got: bytes) -> str:
    try:
        if name.endswith(".json"):
            place, one, other = next(json_differences(json.loads(wanted), json.loads(got)))
            return f"{place} is {shown(other)} and not {shown(one)}"
        if name.endswith(".py"):
            lines = itertools.zip_longest(wanted.decode().splitlines(), got.decode().splitlines(), fillvalue="nothing")
            number, one, other = next((number, *pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1])
            return f"line {number} is {shown(other.strip())} and not {shown(one.strip())}"
    except (ValueError, StopIteration, RecursionError):  # the same values, written otherwise
        pass
    if len(wanted) != len(got):
        return f"there are {len(got):,} bytes and not {len(wanted):,}"
    return f"{sum(one != other for one, other in zip(wanted, got, strict=True)):,} of {len(wanted):,} bytes differ"


def json_differences(wanted: Any, got: Any, place: str = "the whole") -> Iterator[tuple[str, Any, Any]]:
    """Every place in which two JSON values differ, with what is wanted there and what is found."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in [*wanted, *(key for key in got if key not in wanted)]:
            if key in wanted and key in got:
                yield from json_differences(wanted[key], got[key], f"{place}.{key}".removeprefix("the whole."))
            else:
                yield f"{place}.{key}".removeprefix("the whole."), wanted.get(key, "nothing"), got.get(key, "nothing")
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for index, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from json_differences(one, other, f"{place}[{index}]")
    elif type(wanted) is not type(got) or wanted != got:
        yield place, wanted, got


def model_difference(expected: bytes, found: bytes) -> str:
    """Of two ONNX files that differ: the first field that is not as it should be."""
    import onnx

    differences = _field_differences(onnx.ModelProto.FromString(expected), onnx.ModelProto.FromString(found), "")
    return next(differences, "it holds bytes that are no field of ONNX")


def _field_differences(wanted: Any, got: Any, place: str) -> Iterator[str]:
    """Of two protocol buffer messages of one type. A part is called by its name where it has one."""
    for field in wanted.DESCRIPTOR.fields:
        name = f"{place} {field.name}".strip()
        here, there = getattr(wanted, field.name), getattr(got, field.name)
        if field.is_repeated:
            for index, (one, other) in enumerate(zip(here, there, strict=False)):
                what = f"{name}[{index}]" + (f" ({one.name})" if getattr(one, "name", "") else "")
                if field.message_type is not None:
                    yield from _field_differences(one, other, what)
                elif one != other:
                    yield f"{what} is {shown(other)} and not {shown(one)}"
            if len(here) != len(there):
                yield f"{name} has {len(there):,} entries and not {len(here):,}"
        elif field.has_presence and wanted.HasField(field.name) != got.HasField(field.name):
            yield f"{name} is {'there' if got.HasField(field.name) else 'missing'}"
        elif field.message_type is not None:
            if not wanted.HasField(field.name):
                continue
            yield from _field_differences(here, there, name)
        elif field.type == field.TYPE_BYTES and here != there and field.name == "raw_data":
            count = sum(one != other for one, other in zip(here, there, strict=False)) + abs(len(here) - len(there))
            yield f"{name}: {count:,} of {len(here):,} bytes differ"
        elif here != there or str(here) != str(there):  # NaN, and -0
            yield f"{name} is {shown(there)} and not {shown(here)}"


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
