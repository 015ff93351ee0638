"""What a fold decides, as data: the scale of the stream's channels, and which channels of its BatchNorms are exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from iresnet_models.errors import InputError
from iresnet_models.typed import shortly

FORMAT = "iresnet-export/fold/1"

_LARGEST_INDEX = 10_000_000
_SMALLEST, _LARGEST = 2.0**-1000, 2.0**1000
"""Scales and bounds are multiplied and divided in float64, which they must not leave."""

Channels = tuple[int, ...]
Bounds = Mapping[int, float]
"""Channels that never switch, and the |r| up to which that is so, in units of the original stream."""
StageScale = tuple[float, ...] | None
Scales = tuple[StageScale, StageScale, StageScale, StageScale]


@dataclass(frozen=True)
class NormPlan:
    """What is done with `a * r + c`, one BatchNorm that reads the stream. Channels that are not listed fold for every input.

    `off`: the ReLU never lets them through; they are cut out. `linear`: the ReLU always lets them through; their shift is
    clamped to the bound, and the rest goes into the next bias. `signed`: multiplied by -1 in front of the ReLU. `kept`: `a`
    and `c` stay as they are, and the stream has no shift there; any channel may be kept.
    """

    off: Bounds = field(default_factory=dict)
    linear: Bounds = field(default_factory=dict)
    signed: Channels = ()
    kept: Channels = ()

    @property
    def bounds(self) -> Bounds:
        """All channels that are exact up to a bound only."""
        return {**self.off, **self.linear}

    def keeping(self, channels: Iterable[int]) -> NormPlan:
        """The same with these channels kept too: exact for every input, and without a shift."""
        kept = {*self.kept, *channels}
        off, linear = ({key: bound for key, bound in bounds.items() if key not in kept} for bounds in (self.off, self.linear))
        return NormPlan(off, linear, tuple(key for key in self.signed if key not in kept), tuple(sorted(kept)))

    def to_json(self) -> dict[str, Any]:
        bounds = {kind: {str(key): bound for key, bound in getattr(self, kind).items()} for kind in ("off", "linear")}
        lists = {kind: list(getattr(self, kind)) for kind in ("signed", "kept")}
        return {kind: value for kind, value in (bounds | lists).items() if value}

    @classmethod
    def from_json(cls, data: Any) -> NormPlan:
        found = _object(data, set(), {"off", "linear", "signed", "kept"})
        return cls(
            _bounds(found.get("off", {})),
            _bounds(found.get("linear", {})),
            _channels(found.get("signed", [])),
            _channels(found.get("kept", [])),
        )


@dataclass(frozen=True)
class FoldPlan:
    """Everything about a fold that does not follow from its network alone, and the exceptions that do.

    `network` is the SHA-256 of the network's state; `sample` the shape of the sample images (n, 3, h, w); `tau` how many
    times further than over the sample the stream may reach; `scales` the positive scale D of each stage's channels, None
    for 1. `norms` has an entry for every BatchNorm that reads the stream.
    """

    network: str
    tau: float
    sample: tuple[int, int, int, int]
    scales: Scales = (None, None, None, None)
    norms: Mapping[str, NormPlan] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON values, small since only exceptional channels are in it; `from_json` reads it back equal."""
        return {
            "format": FORMAT,
            "network": self.network,
            "tau": self.tau,
            "sample": list(self.sample),
            "scales": [None if scale is None else list(scale) for scale in self.scales],
            "norms": {name: norm.to_json() for name, norm in self.norms.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> FoldPlan:
        """The plan that `to_json` wrote; raises InputError for anything else."""
        try:
            keys = {"format", *(item.name for item in fields(cls))}
            found = _object(data, keys, keys)
            if found["format"] != FORMAT or not isinstance(found["network"], str):
                raise ValueError(f"its format is {shortly(found['format'])} and not {FORMAT!r}")
            norms = {name: NormPlan.from_json(norm) for name, norm in _object(found["norms"]).items()}
            return cls(found["network"], _positive(found["tau"]), _shape(found["sample"]), _scales(found["scales"]), norms)
        except (ValueError, OverflowError) as error:
            raise InputError(f"This is not the plan of a fold that this version knows ({error}): {shortly(data)}.") from error


def _object(data: Any, required: set[str] | None = None, allowed: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError(f"{shortly(data):.50} is no object")
    if missing := (required or set()) - data.keys():
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    if allowed is not None and (foreign := data.keys() - allowed):
        raise ValueError(f"it has a foreign {', '.join(sorted(foreign)):.50}")
    return data


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_INDEX


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"{shortly(value):.50} is not a positive number")
    return float(value)


def _channels(value: Any) -> Channels:
    if not isinstance(value, list) or not all(map(_is_index, value)) or sorted(set(value)) != value:
        raise ValueError(f"{shortly(value):.50} is not an ascending list of channels")
    return tuple(value)


def _bounds(value: Any) -> Bounds:
    found = _object(value)
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in found):
        raise ValueError(f"{shortly(value):.50} does not map channels to bounds")
    return {int(key): _positive(bound) for key, bound in found.items()}


def _shape(value: Any) -> tuple[int, int, int, int]:
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_index, value)):
        raise ValueError(f"{shortly(value):.50} is not the shape of a batch of images")
    n, channels, height, width = value
    return n, channels, height, width


def _scales(value: Any) -> Scales:
    if not isinstance(value, list) or len(value) != 4 or not all(item is None or isinstance(item, list) for item in value):
        raise ValueError(f"{shortly(value):.50} are not four stages' scales")
    first, second, third, fourth = (None if item is None else tuple(map(_positive, item)) for item in value)
    return first, second, third, fourth
