"""Response times of a server under load, and how long a fresh process takes to its first answer."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from iresnet_export.reporting.collection import Measured
from iresnet_export.reporting.plots.canvas import INK, MUTED, Plot, around, plot, readable, spread
from iresnet_export.reporting.plots.marks import mark_of
from iresnet_export.reporting.plots.rows import Row, rows_of
from iresnet_export.reporting.schemas import Cold, Server
from iresnet_export.reporting.words import figures, milliseconds


def server_plot(identifier: str, title: str, group: Sequence[tuple[Measured, Server]], names: Sequence[str]) -> Plot:
    """From the median response to the highest percentile there is; a line at the limit that was asked for."""
    said = "; ".join(f"{name}: {_response(found)}" for (_, found), name in zip(group, names, strict=True))
    return plot(identifier, title, f"Response times in milliseconds. {said}.", lambda width: _server(width, group, names))


def _server(width: int, group: Sequence[tuple[Measured, Server]], names: Sequence[str]) -> Figure:
    listed = [
        Row(name, _response(found), milliseconds(found.response_ms.p50), mark_of(one))
        for (one, found), name in zip(group, names, strict=True)
    ]
    rows = rows_of(width, listed, "milliseconds from arrival to answer")
    limits = {found.p99_limit_ms for _, found in group if found.p99_limit_ms}
    values = [value for _, found in group for value in _percentiles(found)] + sorted(limits)
    log = spread(values)
    rows.axes.set_xlim(*around(values, log))
    readable(rows.axes, "x", log=log)
    for limit in limits:
        rows.axes.axvline(limit, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
    for centre, (measured, found) in zip(rows.centres, group, strict=True):
        look, reached = mark_of(measured), _percentiles(found)
        if not reached:
            continue
        rows.axes.plot([reached[0], reached[-1]], [centre, centre], color=look.stand_in, linewidth=3, alpha=0.45)
        for value in reached[1:]:
            rows.axes.plot([value, value], [centre - 6, centre + 6], color=MUTED, linewidth=1.6)
        rows.axes.plot([reached[0]], [centre], linestyle="none", **look.points(10))
    return rows.figure


def cold_plot(identifier: str, title: str, group: Sequence[tuple[Measured, Cold]], names: Sequence[str]) -> Plot:
    """Loading, then the first inference, end to end."""
    said = "; ".join(f"{name}: {_start(found)}" for (_, found), name in zip(group, names, strict=True))
    return plot(
        identifier,
        title,
        f"Medians over fresh processes: loading and first inference. {said}.",
        lambda width: _cold(width, group, names),
    )


def _cold(width: int, group: Sequence[tuple[Measured, Cold]], names: Sequence[str]) -> Figure:
    listed = [Row(name, _start(found), _start(found), mark_of(one)) for (one, found), name in zip(group, names, strict=True)]
    rows = rows_of(width, listed, "milliseconds in a fresh process: loading (full), then the first inference (light)")
    whole = [(found.load_ms.p50 or 0) + (found.first_inference_ms.p50 or 0) for _, found in group]
    rows.axes.set_xlim(0, max(whole) * 1.06 or 1)
    readable(rows.axes, "x")
    if width < 600:
        rows.axes.set_xlabel("milliseconds: loading, then first inference")
    for centre, (measured, found) in zip(rows.centres, group, strict=True):
        colour, load = mark_of(measured).stand_in, found.load_ms.p50 or 0
        rows.axes.barh(centre, load, height=12, color=colour, linewidth=0)
        rows.axes.barh(centre, found.first_inference_ms.p50 or 0, left=load, height=12, color=colour, alpha=0.45, linewidth=0)
    return rows.figure


def _percentiles(found: Server) -> list[float]:
    response = found.response_ms
    return [value for value in (response.p50, response.p90, response.p99, response.p999) if value is not None]


def _response(found: Server) -> str:
    response = found.response_ms
    return milliseconds(response.p50) + ("" if response.p99 is None else f", p99 {figures(response.p99)}")


def _start(found: Cold) -> str:
    return f"{figures(found.load_ms.p50)} + {figures(found.first_inference_ms.p50)} ms"
