"""Latency and throughput against the batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from iresnet_export.reporting.plots.canvas import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDE,
    Plot,
    around,
    axes_at,
    figure_of,
    footed,
    headed,
    plot,
    readable,
    spread,
)
from iresnet_export.reporting.plots.marks import LINES, Mark
from iresnet_export.reporting.words import figures

_HEIGHT, _GAP = 250, 40


@dataclass(frozen=True)
class Line:
    """A candidate's (batch, median in milliseconds, images a second), by batch; the unstable ones are in `hollow`."""

    name: str
    mark: Mark
    points: tuple[tuple[int, float, float], ...]
    hollow: frozenset[int] = frozenset()


def batch_plot(identifier: str, title: str, lines: Sequence[Line]) -> Plot:
    said = "; ".join(
        f"{line.name}: " + ", ".join(f"{figures(speed)} images/s at batch {batch}" for batch, _, speed in line.points)
        for line in lines
    )
    return plot(identifier, title, f"Latency of a batch, then throughput. {said}.", lambda width: _draw(width, lines))


def _draw(width: int, lines: Sequence[Line]) -> Figure:
    if width == WIDE:
        figure = figure_of(width, TOP + _HEIGHT + BOTTOM)
        span = (width - 2 * (LEFT + RIGHT) - _GAP) / 2
        panels = [(LEFT, TOP), (2 * LEFT + RIGHT + _GAP + span, TOP)]
    else:
        figure = figure_of(width, 2 * (TOP + _HEIGHT + BOTTOM))
        span = width - LEFT - RIGHT
        panels = [(LEFT, TOP), (LEFT, 2 * TOP + _HEIGHT + BOTTOM)]
    for (left, top), which, text in zip(panels, (1, 2), ("milliseconds a batch", "images a second"), strict=True):
        _panel(axes_at(figure, left, top, span, _HEIGHT), lines, which, text)
    return figure


def _panel(axes: Axes, lines: Sequence[Line], which: int, text: str) -> None:
    values = [point[which] for line in lines for point in line.points]
    batches = sorted({point[0] for line in lines for point in line.points})
    axes.set_xscale("log", base=2)
    axes.set_xlim(batches[0] / 1.15, batches[-1] * 1.15)
    axes.set_ylim(*around(values, spread(values)))
    readable(axes, "y", log=spread(values))
    shown = batches if len(batches) <= 8 else batches[:: -(-len(batches) // 8)]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.grid(visible=False, axis="x")
    headed(axes, text)
    footed(axes, "images in a batch")
    for line in lines:
        x, y = [point[0] for point in line.points], [point[which] for point in line.points]
        axes.plot(x, y, color=line.mark.stand_in, linestyle=LINES[line.mark.line])
        for batch, value in zip(x, y, strict=True):
            axes.plot([batch], [value], linestyle="none", **line.mark.points(hollow=batch in line.hollow))
