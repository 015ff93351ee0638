"""A reliability diagram: how often a network is right where it is so confident."""

from __future__ import annotations

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
from iresnet_export.reporting.plots.marks import Mark
from iresnet_export.reporting.schemas import Calibration
from iresnet_export.reporting.words import share

MARK = Mark("run1", "o")
_HEIGHT, _COUNTS, _GAP = 300, 70, 44


def reliability_plot(identifier: str, title: str, found: Calibration) -> Plot:
    said = "; ".join(
        f"of {one.images:,} images with a confidence near {share(one.confidence)}, {share(one.accuracy)} are right"
        for one in found.bins
    )
    return plot(identifier, title, f"Expected calibration error {share(found.ece)}: {said}.", lambda width: _draw(width, found))


def _draw(width: int, found: Calibration) -> Figure:
    figure = figure_of(width, TOP + _HEIGHT + _GAP + _COUNTS + BOTTOM)
    across = min(width - LEFT - RIGHT, 560) if width == WIDE else width - LEFT - RIGHT
    axes = axes_at(figure, LEFT, TOP, across, _HEIGHT)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1.4, linestyle=(0, (3, 3)))
    for one in found.bins:
        if one.accuracy_ci95 is not None:
            bounds = [100 * bound for bound in one.accuracy_ci95]
            axes.plot([100 * one.confidence] * 2, bounds, color=MARK.stand_in, linewidth=1.6, alpha=0.5)
    places = [100 * one.confidence for one in found.bins], [100 * one.accuracy for one in found.bins]
    axes.plot(*places, linestyle="none", **MARK.points(9))
    headed(axes, "right, percent of the images")
    counts = axes_at(figure, LEFT, TOP + _HEIGHT + _GAP, across, _COUNTS)
    counts.set_xlim(0, 100)
    total = sum(one.images for one in found.bins) or 1
    widths = [98 * (one.high - one.low) for one in found.bins]
    middles = [50 * (one.low + one.high) for one in found.bins]
    counts.bar(middles, [100 * one.images / total for one in found.bins], widths, color=COLOURS["other"], alpha=0.6, linewidth=0)
    headed(counts, "percent of all images")
    footed(counts, "confidence, percent")
    for drawn in (axes, counts):
        readable(drawn, "x")
        readable(drawn, "y", most=6 if drawn is axes else 3)
    return figure
