"""Accuracy against latency, and the candidates that no other beats in both: the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from matplotlib.figure import Figure

from iresnet_export.reporting.plots.canvas import (
    BOTTOM,
    INK,
    LEFT,
    MUTED,
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
from iresnet_export.reporting.plots.marks import Mark
from iresnet_export.reporting.words import figures, percent

_HEIGHT = 330


@dataclass(frozen=True)
class Point:
    """Milliseconds an image; top-1 in percent with its interval."""

    name: str
    mark: Mark
    latency: float
    top1: float
    ci95: tuple[float, float] | None = None

    @property
    def gain(self) -> float:
        return self.top1


class Placed(Protocol):
    """What has a price in milliseconds and gives something for it."""

    @property
    def latency(self) -> float: ...
    @property
    def gain(self) -> float: ...


P = TypeVar("P", bound=Placed)


def pareto_front(points: Sequence[P]) -> list[P]:
    """Those that no other beats in one figure without losing in the other, the fastest first."""
    front: list[P] = []
    for point in sorted(points, key=lambda one: (one.latency, -one.gain)):
        if not front or point.gain > front[-1].gain:
            front.append(point)
    return front


def accuracy_plot(identifier: str, title: str, points: Sequence[Point]) -> Plot:
    said = "; ".join(
        f"{one.name}: {figures(one.latency)} ms, {percent(one.top1)}" for one in sorted(points, key=lambda one: one.latency)
    )
    front = ", ".join(one.name for one in pareto_front(points))
    return plot(identifier, title, f"{said}. On the Pareto front: {front}.", lambda width: _draw(width, points))


def _draw(width: int, points: Sequence[Point]) -> Figure:
    figure = figure_of(width, TOP + _HEIGHT + BOTTOM)
    axes = axes_at(figure, LEFT, TOP, width - LEFT - RIGHT, _HEIGHT)
    latencies = [one.latency for one in points]
    log = spread(latencies)
    axes.set_xlim(*around(latencies, log, 0.12))
    readable(axes, "x", log=log)
    ends = [value for one in points for value in (one.top1, *(one.ci95 or ()))]
    room = max(0.5, 0.12 * (max(ends) - min(ends)))
    axes.set_ylim(max(0.0, min(ends) - room), min(100.5, max(ends) + room))
    readable(axes, "y")
    headed(axes, "top-1 accuracy, percent")
    footed(axes, "milliseconds an image")
    front = pareto_front(points)
    last = axes.get_xlim()[1]
    axes.plot(
        [*(one.latency for one in front), last],
        [*(one.top1 for one in front), front[-1].top1],
        color=MUTED,
        linewidth=1.4,
        linestyle=(0, (3, 3)),
        drawstyle="steps-post",
    )
    for one in points:
        if one.ci95 is not None:
            axes.plot([one.latency, one.latency], one.ci95, color=one.mark.stand_in, linewidth=1.6, alpha=0.5)
        axes.plot([one.latency], [one.top1], linestyle="none", **one.mark.points(11 if one in front else 8))
    if width == WIDE:
        for one in front[:3]:
            axes.annotate(one.name, (one.latency, one.top1), xytext=(9, 11), textcoords="offset points", color=INK, fontsize=12)
    return figure
