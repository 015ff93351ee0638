"""What of a quantized network stays in float32 by choice, by the names that the network has for its places.

Single layers cannot be kept: ONNX Runtime 1.31 quantizes a convolution between codes by itself. A place holds values of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from iresnet_export.errors import InputError
from iresnet_export.quantization.schemes import Scheme
from iresnet_models.typed import shortly

STEM, CLASSIFIER = "stem", "classifier"

_ENDS = ("avgpool", "flatten", "fc", "softmax")


def place_of(name: str) -> str:
    """Of a module or operation: stem, `layer1.0` ..., or classifier, which the pool before it belongs to."""
    first, *more = name.split(".")
    if first.startswith("layer") and more:
        return f"{first}.{more[0]}"
    return CLASSIFIER if first in _ENDS else STEM


def is_kept(name: str, kept: Collection[str]) -> bool:
    """Whether a module or operation stands in a place that is kept."""
    return bool(kept) and place_of(name) in kept


@dataclass(frozen=True)
class Places:
    """A network's places in order, and those of them that have `codes` where all is quantized that a scheme quantizes."""

    all: tuple[str, ...]
    codes: tuple[str, ...]

    @classmethod
    def of(cls, layers: Mapping[str, Sequence[int]], scheme: Scheme) -> Places:
        """From the shapes of the weights of its convolutions and linear layers, by their names."""
        coded = [name for name, shape in layers.items() if scheme.quantizes(shape)]
        return cls(tuple(dict.fromkeys(map(place_of, layers))), tuple(dict.fromkeys(map(place_of, coded))))

    def kept(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those that are asked for; `layer1` stands for all of its blocks.

        Raises InputError for a name that none has, and where nothing would be left to quantize.
        """
        for name in wanted:
            if not any(stands_for(name, place) for place in self.all):
                raise InputError(
                    f"--keep-float {shortly(name)}: the network has no such place.",
                    f"It has {', '.join(self.all)}; a layer's name stands for all of its blocks.",
                )
        found = tuple(place for place in self.all if any(stands_for(name, place) for name in wanted))
        if not set(self.codes) - set(found):
            raise InputError(
                "--keep-float keeps everything in float32 that would be quantized:", "export the network with --precision fp32."
            )
        return found


def stands_for(name: str, place: str) -> bool:
    return place == name or place.startswith(f"{name}.")
