"""What files say, as plain values and then as typed classes: strictly, bounded, with one sentence that names what is wrong."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any, NoReturn, TypeVar

from iresnet_models.errors import InputError

Kind = TypeVar("Kind")

DEEPEST = 64
"""Nothing of ours nests deeper than a dozen levels; whatever walks through what is read must not run out of stack."""

_LARGEST_INTEGER = 2**64


def json_from(text: str) -> Any:
    """Parsed JSON, strictly: ValueError for NaN, infinity, numbers beyond 64 bits, keys that come twice, and deep nesting."""
    try:
        found = json.loads(
            text, parse_constant=_no_number, parse_float=_finite, parse_int=_integer, object_pairs_hook=_without_duplicates
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _require_shallow(found)
    return found


def typed(kind: type[Kind], data: Any, what: str) -> Kind:
    """An instance of a dataclass or pydantic class from plain values. Raises InputError, which calls them `what`.

    Types are not converted: "12" and true are no numbers, NaN and infinity are none either.
    """
    from pydantic import ValidationError

    require_plain(data, what)
    try:
        found: Kind = adapter(kind).validate_json(json.dumps(data))
        return found
    except ValidationError as error:
        raise InputError(f"{what} is damaged: {first_fault(error)}.") from error


def adapter(kind: Any) -> Any:
    """pydantic's reader and writer of a class, made once."""
    return _adapter(kind)


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def choice(kind: type) -> str:
    """How one of several classes that a value may be is called in pydantic's places of errors; no message shows it."""
    return f"<{kind.__name__}>"


def require_plain(data: Any, what: str) -> None:
    """Raises InputError, which calls the data `what` and names the place, for anything but plain, finite, printable values."""
    strange = _strange(data, "", 0)
    if strange is not None:
        raise InputError(f"{what} is damaged: {strange}.")


def shortly(value: object) -> str:
    """A value out of a file as a message may show it: never long, and never an error of its own."""
    try:
        text = ascii(value) if len(value) <= 1000 else f"{value[:100]!a}..."  # type: ignore[arg-type,index]
    except TypeError:
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) and value.bit_length() > 256 else ascii(value)
    except (RecursionError, ValueError, KeyError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _strange(value: Any, place: str, depth: int) -> str | None:
    inside = f"{place}." if place else ""
    if depth > DEEPEST:
        return f"{place[:200]} is nested too deeply"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or _unprintable(key):
                return f"{inside}{shortly(key):.50} is no name"
            if (found := _strange(item, f"{inside}{key:.50}", depth + 1)) is not None:
                return found
        return None
    if isinstance(value, list | tuple):
        if all(type(item) in (float, int) and abs(item) <= _LARGEST_INTEGER for item in value):
            return None  # tens of thousands, in the manifest of a quantized network
        found_in = (_strange(item, f"{inside}{index}", depth + 1) for index, item in enumerate(value))
        return next((found for found in found_in if found is not None), None)
    if isinstance(value, str):
        return f"{place} is no text that can be written" if _unprintable(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{place} is {value}"
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if abs(value) <= _LARGEST_INTEGER else f"{place} is a number of more than 64 bits"
    return f"{place} is a {type(value).__name__}"


def _unprintable(text: str) -> bool:
    """Whether it holds half a surrogate pair, which no encoding can write."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)


def _require_shallow(value: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, dict | list):
                _require_shallow(item, depth + 1)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON; what was not measured is null")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text:.20} is beyond every number: not finite")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or abs(found := int(text)) > _LARGEST_INTEGER:
        raise ValueError(f"{text[:20]}... has more than 64 bits")
    return found


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.50} comes twice")
    return found


def first_fault(error: Any) -> str:
    """The first thing that pydantic's ValidationError found wrong, by its place."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("<"))[:200]
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{place} is not known to this version"
    reason = str(first.get("ctx", {}).get("error", "")) if first["type"] == "value_error" else ""
    said = (reason or f"{first['msg'][0].lower()}{first['msg'][1:]}").rstrip(".")
    return f"{place}: {said}" if place else said
