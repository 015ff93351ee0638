"""Plots with a row for each candidate: names at the left, figures at the right, or both above the row on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iresnet_export.reporting.plots.canvas import INK, LINE, MUTED, RIGHT, SURFACE, WIDE, axes_at, figure_of, footed
from iresnet_export.reporting.plots.marks import Mark

_NAMES, _SHORT_NAMES, _FIGURES = 270, 200, 170
_SHORT, _LONGEST, _LONGEST_NARROW = 24, 38, 43


@dataclass(frozen=True)
class Row:
    """`said`: its figures in words; `brief`: the one that a phone has room for. `mark` is drawn before the name."""

    name: str
    said: str
    brief: str
    mark: Mark


@dataclass(frozen=True)
class Rows:
    """Axes whose vertical unit is the pixel, downwards; `centres` are the rows' middles and `half` half their height."""

    figure: Figure
    axes: Axes
    centres: list[float]
    half: float


def rows_of(width: int, rows: Sequence[Row], foot: str) -> Rows:
    """An empty plot with its names and figures."""
    wide = width == WIDE
    step, head = (36.0, 0.0) if wide else (54.0, 24.0)
    names = _SHORT_NAMES if max(len(row.name) for row in rows) <= _SHORT else _NAMES
    left, right = (names, _FIGURES) if wide else (4, RIGHT)
    height = step * len(rows)
    figure = figure_of(width, height + 50)
    axes = axes_at(figure, left, 6, width - left - right, height)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.grid(visible=True, axis="x")
    footed(axes, foot)
    for index, row in enumerate(rows):
        _name(axes, row, index * step + (step / 2 if wide else 13.0), wide, left, right)
        if head:
            # Names lie over the plot: grid lines pass behind them.
            axes.axhspan(index * step + 1, index * step + head, color=SURFACE, zorder=2.8, linewidth=0)
        if index:
            axes.axhline(index * step, color=LINE, linewidth=0.6)
    half = (step - head) / 2
    return Rows(figure, axes, [index * step + head + half for index in range(len(rows))], half)


def _name(axes: Axes, row: Row, y: float, wide: bool, left: float, right: float) -> None:
    before = -left + 8 if wide else 6
    where = axes.get_yaxis_transform()
    axes.plot(
        [before / axes.bbox.width],
        [y],
        transform=where,
        linestyle="none",
        zorder=4,
        **row.mark.points(8),
    )
    most = _LONGEST if wide else _LONGEST_NARROW - len(row.brief)
    text = row.name if len(row.name) <= most else f"{row.name[: most - 1]}…"
    axes.annotate(text, (0, y), xytext=(before + 13, 0), xycoords=where, textcoords="offset points", va="center", color=INK)
    axes.annotate(
        row.said if wide else row.brief,
        (1, y),
        xytext=(right if wide else 2, 0),
        xycoords=where,
        textcoords="offset points",
        va="center",
        ha="right",
        color=INK if wide else MUTED,
    )
