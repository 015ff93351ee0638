"""What of a quantized network stays in float32 by choice, by the names that the network has for its places.

Single layers cannot be kept: ONNX Runtime 1.31 quantizes a convolution between codes by itself. A place holds values of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from iresnet_export.errors import InputError

STEM, CLASSIFIER = "stem", "classifier"

_ENDS = ("avgpool", "flatten", "fc", "softmax")


def place_of(name: str) -> str:
    """Of a module or operation: stem, `layer1.0` ..., or classifier, which the pool before it belongs to."""
    first, *more = name.split(".")
    if first.startswith("layer") and more:
        return f"{first}.{more[0]}"
    return CLASSIFIER if first in _ENDS else STEM


def places_of(names: Iterable[str]) -> list[str]:
    """Of operations in order, each once."""
    return list(dict.fromkeys(map(place_of, names)))


def is_kept(name: str, kept: Collection[str]) -> bool:
    """Whether a module or operation stands in a place that is kept."""
    return bool(kept) and place_of(name) in kept


def kept_places(wanted: Sequence[str], places: Sequence[str]) -> tuple[str, ...]:
    """The places of a network that are asked for, in its order; `layer1` stands for all of its blocks.

    Raises InputError for a name that none has, and where nothing would be left to quantize.
    """
    for name in wanted:
        if name not in places and not any(place.startswith(f"{name}.") for place in places):
            raise InputError(
                f"--keep-float {name}: the network has no such place.",
                f"It has {', '.join(places)}; a layer's name stands for all of its blocks.",
            )
    found = tuple(place for place in places if place in wanted or place.partition(".")[0] in wanted)
    if len(found) == len(places):
        raise InputError("--keep-float keeps every place of the network in float32:", "export it with --precision fp32.")
    return found
