"""How a candidate looks in every plot: its precision is a colour, its backend a shape; legends name both in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from iresnet_export.reporting.collection import Measured
from iresnet_export.reporting.plots.canvas import COLOURS, SURFACE

SHAPES = {
    "eager": "o",
    "torchscript": "v",
    "torch_export": "<",
    "channels-last": "<",
    "compiled": "p",
    "aotinductor": ">",
    "onnxruntime": "s",
    "openvino": "D",
    "tensorrt": "^",
    "tensorrt-rtx": "^",
    "torch.compile": "p",
}
_PATHS = {
    "o": "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z",
    "s": "M2 2h8v8h-8z",
    "D": "M6 .8l5.2 5.2l-5.2 5.2l-5.2-5.2z",
    "^": "M6 1.2l5 9.2h-10z",
    "v": "M6 10.8l5-9.2h-10z",
    "<": "M1.2 6l9.2-5v10z",
    ">": "M10.8 6l-9.2-5v10z",
    "p": "M6 .8l5.2 3.9l-2 6.1h-6.4l-2-6.1z",
    "h": "M3.3 1.3h5.4l2.7 4.7l-2.7 4.7h-5.4l-2.7-4.7z",
}
"""The shapes of the legends' marks, in a box of 12 pixels."""

LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.8)), (0, (6, 2, 1.5, 2)))
_DASHES = ("", "5 2", "1.5 1.8", "6 2 1.5 2")


@dataclass(frozen=True)
class Mark:
    """`line`: which of the line styles tells apart those that agree in precision and backend. `hollow`: an uncertain figure."""

    colour: str
    shape: str
    line: int = 0

    @property
    def stand_in(self) -> str:
        """The colour to draw in."""
        return COLOURS[self.colour]

    def points(self, size: float = 7, hollow: bool = False) -> dict[str, Any]:
        """Keywords of matplotlib's markers."""
        return {
            "marker": self.shape,
            "markersize": size * (0.9 if self.shape == "D" else 1.1 if self.shape in "^v<>p" else 1),
            "markerfacecolor": SURFACE if hollow else self.stand_in,
            "markeredgecolor": self.stand_in if hollow else SURFACE,
            "markeredgewidth": 1.8 if hollow else 1,
            "clip_on": False,
        }


@dataclass(frozen=True)
class LegendItem:
    """`path` and `colour` draw the mark; `dashes` its line, None where the plot has no lines."""

    text: str
    path: str
    colour: str
    dashes: str | None = None


def mark(precision: str, backend: str, line: int = 0) -> Mark:
    name = backend.partition(" (")[0]  # without its settings
    colour = precision if precision in ("fp32", "fp16", "bf16", "int8") else "other"
    return Mark(colour, SHAPES.get(name, "h"), line % len(LINES))


def mark_of(measured: Measured) -> Mark:
    return mark(measured.result.precision, measured.result.backend)


def distinct(identities: Sequence[tuple[str, str]]) -> list[Mark]:
    """A mark for each (precision, backend); those that agree in both get different lines."""
    seen: dict[tuple[str, str], count[int]] = {}
    return [mark(*identity, next(seen.setdefault(identity, count()))) for identity in identities]


def legend_item(text: str, found: Mark, lines: bool = False) -> LegendItem:
    return LegendItem(text, _PATHS[found.shape], found.colour, _DASHES[found.line] if lines else None)
