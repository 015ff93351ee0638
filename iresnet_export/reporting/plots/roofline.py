"""The roofline: what the machine allows, by precision, and what each candidate reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from iresnet_export.reporting.plots.canvas import (
    BOTTOM,
    COLOURS,
    LEFT,
    MUTED,
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
from iresnet_export.reporting.plots.marks import Mark, mark
from iresnet_export.reporting.words import figures, share

_HEIGHT = 330


@dataclass(frozen=True)
class Roof:
    """The measured peak of a precision; `bandwidth` in GB/s, None where it was not measured."""

    precision: str
    gflops: float
    bandwidth: float | None


@dataclass(frozen=True)
class Reached:
    """`intensity` in operations a byte; `peak_fraction` from 0 to 1."""

    name: str
    mark: Mark
    intensity: float
    gflops: float
    peak_fraction: float | None


def roofline_plot(identifier: str, title: str, roofs: Sequence[Roof], reached: Sequence[Reached]) -> Plot:
    limits = "; ".join(f"{roof.precision}: {figures(roof.gflops)} GFLOP/s" for roof in roofs)
    points = "; ".join(
        f"{one.name}: {figures(one.gflops)} GFLOP/s" + (f", {share(one.peak_fraction)} of the limit" if one.peak_fraction else "")
        for one in reached
    )
    return plot(identifier, title, f"Measured limits: {limits}. Reached: {points}.", lambda width: _draw(width, roofs, reached))


def _draw(width: int, roofs: Sequence[Roof], reached: Sequence[Reached]) -> Figure:
    figure = figure_of(width, TOP + _HEIGHT + BOTTOM)
    axes = axes_at(figure, LEFT, TOP, width - LEFT - RIGHT, _HEIGHT)
    ridges = [roof.gflops / roof.bandwidth for roof in roofs if roof.bandwidth]
    intensities = [one.intensity for one in reached]
    speeds = [one.gflops for one in reached]
    low, high = min(intensities + ridges) / 3, max(intensities + ridges) * 3
    axes.set_xlim(low, high)
    axes.set_ylim(min(speeds) / 2.5, max(roof.gflops for roof in roofs) * 2)
    readable(axes, "x", log=True)
    readable(axes, "y", log=True)
    places = np.geomspace(low, high, 240)
    for roof in roofs:
        top = np.full_like(places, roof.gflops)
        limit = top if roof.bandwidth is None else np.minimum(top, places * roof.bandwidth)
        colour = COLOURS[mark(roof.precision, "eager").colour]
        axes.plot(places, limit, color=colour, linewidth=1.8)
        axes.annotate(
            f"{roof.precision} limit" + (f": {figures(roof.gflops)} GFLOP/s" if width == WIDE else ""),
            (high, roof.gflops),
            xytext=(-2, 6),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=MUTED,
        )
    headed(axes, "GFLOP/s, additions and multiplications")
    footed(axes, "operations for each byte moved")
    for one in reached:
        axes.plot([one.intensity], [one.gflops], linestyle="none", **one.mark.points(9))
    return figure
