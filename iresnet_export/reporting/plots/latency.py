"""How latencies are distributed: a hill, the median with its interval, and the upper percentiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from iresnet_export.reporting.collection import Measured
from iresnet_export.reporting.plots.canvas import INK, MUTED, Plot, around, plot, readable, spread
from iresnet_export.reporting.plots.marks import mark_of
from iresnet_export.reporting.plots.rows import Row, Rows, rows_of
from iresnet_export.reporting.words import figures, milliseconds

Values = NDArray[np.float64]
_STEPS = 72


def flat_samples(measured: Measured) -> Values:
    """All samples in milliseconds; empty where the report has none."""
    samples = measured.result.samples or ()
    return np.array([value for part in samples for value in (part if isinstance(part, tuple) else (part,))], dtype=np.float64)


def distribution_plot(identifier: str, title: str, group: Sequence[Measured], names: Sequence[str]) -> Plot:
    """Every candidate's samples, the fastest first."""
    order = sorted(range(len(group)), key=lambda index: _median(group[index]))
    ordered, named = [group[index] for index in order], [names[index] for index in order]
    said = "; ".join(f"{name}: {_said(one)}" for one, name in zip(ordered, named, strict=True))
    return plot(
        identifier, title, f"Medians in milliseconds, the fastest first. {said}.", lambda width: _draw(width, ordered, named)
    )


def _draw(width: int, group: Sequence[Measured], names: Sequence[str]) -> Figure:
    rows = rows_of(
        width,
        [
            Row(name, _said(one), _said(one) if one.doubt else milliseconds(_median(one)), mark_of(one))
            for one, name in zip(group, names, strict=True)
        ],
        "milliseconds a batch",
    )
    extent = [value for one in group for value in _extent(one)]
    log = spread(extent)
    rows.axes.set_xlim(*around(extent, log))
    readable(rows.axes, "x", log=log)
    for index, one in enumerate(group):
        _row(rows, index, one, log)
    return rows.figure


def _row(rows: Rows, index: int, measured: Measured, log: bool) -> None:
    axes, centre, half = rows.axes, rows.centres[index], rows.half
    colour, latency = mark_of(measured).stand_in, measured.result.latency_ms
    base = centre + half * 0.45
    samples = flat_samples(measured)
    if len(samples) >= 5:
        places, heights = _hill(samples, log)
        axes.fill_between(places, base, base - heights * half * 1.25, color=colour, alpha=0.28, linewidth=0)
        axes.plot(places, base - heights * half * 1.25, color=colour, linewidth=1.2)
    if latency is None:
        return
    if latency.interval is not None:
        axes.plot(latency.interval, [base, base], color=colour, linewidth=4, solid_capstyle="butt")
    for value in (latency.p90, latency.p99):
        if value is not None:
            axes.plot([value, value], [base - 5, base + 5], color=MUTED, linewidth=1.4)
    axes.plot([latency.p50, latency.p50], [base - 7, base + 7], color=INK, linewidth=2)


def _hill(samples: Values, log: bool) -> tuple[Values, Values]:
    """A smoothed histogram of the samples from the 0.5th to the 99.5th percentile, of height 1; nothing beyond a sample."""
    values = np.log(samples) if log else samples
    low, high = np.percentile(values, [0.5, 99.5])
    width = max(float(high - low), 1e-3 * abs(float(high)) or 1e-9)
    ends = max(low - 0.15 * width, float(values.min())), min(high + 0.15 * width, float(values.max()))
    if ends[0] >= ends[1]:
        return np.exp(values[:1]) if log else values[:1], np.ones(1)
    counts, edges = np.histogram(values, bins=_STEPS, range=ends)
    kernel = np.exp(-0.5 * (np.arange(-9, 10) / 2.6) ** 2)
    smooth = np.convolve(counts, kernel, mode="same")
    # It falls to nothing at both ends.
    places = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
    heights = np.concatenate([[0.0], smooth / smooth.max(), [0.0]])
    return np.exp(places) if log else places, heights


def _extent(measured: Measured) -> list[float]:
    samples, latency = flat_samples(measured), measured.result.latency_ms
    found = list(np.percentile(samples, [0.5, 99.5])) if len(samples) else []
    if latency is not None:
        found += [value for value in (latency.p50, latency.p90, latency.p99, *(latency.interval or ())) if value is not None]
    return [float(value) for value in found]


def _median(measured: Measured) -> float:
    return measured.result.latency_ms.p50 if measured.result.latency_ms is not None else float("inf")


def _said(measured: Measured) -> str:
    latency = measured.result.latency_ms
    if latency is None:
        return ""
    said = f", {measured.doubt}" if measured.doubt else f", p99 {figures(latency.p99)}" if latency.p99 is not None else ""
    return milliseconds(latency.p50) + said
