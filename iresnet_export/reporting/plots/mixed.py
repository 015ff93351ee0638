"""What places that stay in float32 give, against what they cost, and the steps that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from iresnet_export.reporting.plots.accuracy import pareto_front
from iresnet_export.reporting.plots.canvas import (
    BOTTOM,
    INK,
    LEFT,
    MUTED,
    RIGHT,
    TOP,
    Plot,
    axes_at,
    figure_of,
    footed,
    headed,
    plot,
    readable,
)
from iresnet_export.reporting.plots.marks import Mark
from iresnet_export.reporting.words import figures

MARK = Mark("run1", "o")
_HEIGHT = 300


@dataclass(frozen=True)
class TimedStep:
    """Milliseconds of one image; decibels of signal to noise, predicted."""

    name: str
    latency: float
    gain: float


def mixed_plot(identifier: str, title: str, steps: Sequence[TimedStep]) -> Plot:
    said = "; ".join(f"{one.name}: {one.gain:.1f} dB, {figures(one.latency)} ms" for one in steps)
    front = ", ".join(one.name for one in pareto_front(steps))
    return plot(identifier, title, f"{said}. On the Pareto front: {front}.", lambda width: _draw(width, steps))


def _draw(width: int, steps: Sequence[TimedStep]) -> Figure:
    figure = figure_of(width, TOP + _HEIGHT + BOTTOM)
    axes = axes_at(figure, LEFT, TOP, width - LEFT - RIGHT, _HEIGHT)
    latencies, levels = [one.latency for one in steps], [one.gain for one in steps]
    for limit, values, after in ((axes.set_xlim, latencies, 0.3), (axes.set_ylim, levels, 0.1)):
        extent = max(values) - min(values) or 1.0
        limit(min(values) - 0.1 * extent, max(values) + after * extent)
    for which in ("x", "y"):
        readable(axes, which)
    headed(axes, "predicted signal to noise, dB")
    footed(axes, "milliseconds an image")
    front = pareto_front(steps)
    places = [one.latency for one in front], [one.gain for one in front]
    axes.plot(*places, color=MUTED, linewidth=1.4, linestyle=(0, (3, 3)), drawstyle="steps-post")
    for one in steps:
        axes.plot([one.latency], [one.gain], linestyle="none", **MARK.points(11, hollow=one not in front))
        axes.annotate(one.name, (one.latency, one.gain), xytext=(9, 9), textcoords="offset points", color=INK, fontsize=12)
    return figure
