"""Parity block by block: signal to noise along the network's depth, beside that of the reference's rounding."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator

from iresnet_export.reporting.plots.canvas import (
    BOTTOM,
    INK,
    LEFT,
    RIGHT,
    TOP,
    WIDE,
    Plot,
    axes_at,
    figure_of,
    footed,
    headed,
    plot,
    readable,
)
from iresnet_export.reporting.plots.marks import LINES, Mark
from iresnet_export.reporting.schemas import Place

_HEIGHT = 320
_STAGE = re.compile(r"stage (\d+) block")


@dataclass(frozen=True)
class Manifest:
    """A candidate's places, from the input to the output; `first` is where it departs."""

    name: str
    mark: Mark
    places: tuple[Place, ...]
    first: str | None


def parity_plot(identifier: str, title: str, found: Sequence[Manifest]) -> Plot:
    said = "; ".join(_said(one) for one in found)
    return plot(identifier, title, f"Higher is nearer to float64. {said}.", lambda width: _draw(width, found))


def _said(one: Manifest) -> str:
    values = [place.sqnr_db for place in one.places if place.sqnr_db is not None]
    around = f"{min(values):.0f} to {max(values):.0f} dB" if values else "no figures"
    return f"{one.name}: {around}, " + (f"departs at {one.first}" if one.first else "departs nowhere")


def _draw(width: int, found: Sequence[Manifest]) -> Figure:
    figure = figure_of(width, TOP + _HEIGHT + BOTTOM)
    axes = axes_at(figure, LEFT, TOP, width - LEFT - RIGHT, _HEIGHT)
    longest = max(found, key=lambda one: len(one.places)).places
    axes.set_xlim(-0.5, len(longest) - 0.5)
    values = [value for one in found for place in one.places for value in (place.sqnr_db, place.floor_db) if value is not None]
    axes.set_ylim(min(0.0, min(values) - 5), max(values) + 8)
    readable(axes, "y")
    _stages(figure, longest)
    headed(axes, "signal to noise, dB")
    footed(axes, "blocks, from the input to the output")
    for one in found:
        _line(figure, one, "floor_db", 1.0, faint=True)
    for one in found:
        _line(figure, one, "sqnr_db", 1.8)
        for index, place in enumerate(one.places):
            if place.place == one.first and place.sqnr_db is not None:
                axes.plot(
                    [index], [place.sqnr_db], "o", markersize=18, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.6
                )
                side = -1 if index > len(longest) / 2 else 1
                place_it: dict[str, Any] = {
                    "xytext": (16 * side, 14),
                    "textcoords": "offset points",
                    "ha": "left" if side > 0 else "right",
                }
                axes.annotate(f"departs: {place.place}", (index, place.sqnr_db), color=INK, va="center", **place_it)
    return figure


def _line(figure: Figure, one: Manifest, key: str, linewidth: float, faint: bool = False) -> None:
    axes = figure.axes[0]
    points = [(index, getattr(place, key)) for index, place in enumerate(one.places) if getattr(place, key) is not None]
    x, y = [index for index, _ in points], [value for _, value in points]
    if faint:
        axes.plot(x, y, color=one.mark.stand_in, linewidth=linewidth, linestyle=(0, (2, 3)), alpha=0.8)
        return
    axes.plot(x, y, color=one.mark.stand_in, linewidth=linewidth, linestyle=LINES[one.mark.line])
    axes.plot(x, y, linestyle="none", **one.mark.points(6 if len(points) <= 40 else 4))


def _stages(figure: Figure, places: Sequence[Place]) -> None:
    """A tick in the middle of every stage, and one each for stem and head; lines part them."""
    axes = figure.axes[0]
    names = [(match[1] if (match := _STAGE.match(place.place)) else place.place) for place in places]
    starts = [index for index, name in enumerate(names) if index == 0 or name != names[index - 1]]
    middles, labels = [], []
    short = {"classifier": "head", "pool": "pool", "stem": "stem"}
    narrow = figure.get_size_inches()[0] * 72 < WIDE
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        middles.append((start + end - 1) / 2)
        label = f"stage {names[start]}" if names[start].isdigit() else short.get(names[start], names[start])
        labels.append(label.replace("stage ", "") if narrow else label)
        if start:
            axes.axvline(start - 0.5, color=axes.xaxis.get_gridlines()[0].get_color(), linewidth=1)
    axes.grid(visible=False, axis="x")
    if narrow:
        kept = [index for index, label in enumerate(labels) if label not in ("pool", "stem") or len(places) <= 12]
        middles, labels = [middles[index] for index in kept], [labels[index] for index in kept]
    axes.xaxis.set_major_locator(FixedLocator(middles))
    axes.xaxis.set_major_formatter(FixedFormatter(labels))
