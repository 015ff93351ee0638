"""Speed-ups over the baseline with their intervals; what is a tie is hollow and says so."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from iresnet_export.reporting.collection import Measured
from iresnet_export.reporting.plots.canvas import INK, Plot, around, plot, readable, spread
from iresnet_export.reporting.plots.marks import mark_of
from iresnet_export.reporting.plots.rows import Row, rows_of
from iresnet_export.reporting.schemas import Speedup
from iresnet_export.reporting.words import interval, times

Pair = tuple[Measured, Speedup]


def speedup_plot(identifier: str, title: str, group: Sequence[Measured], names: Sequence[str], baseline: str) -> Plot:
    """Every candidate with a speed-up, the fastest first."""
    pairs = [((one, one.result.speedup), name) for one, name in zip(group, names, strict=True) if one.result.speedup is not None]
    pairs.sort(key=lambda pair: -pair[0][1].p50)
    said = "; ".join(f"{name}: {_said(one)}" for one, name in pairs)
    description = f"Times as fast as {baseline}, with 95 % intervals, the fastest first. {said}."
    return plot(identifier, title, description, lambda width: _draw(width, pairs, baseline))


def _draw(width: int, pairs: Sequence[tuple[Pair, str]], baseline: str) -> Figure:
    rows = rows_of(
        width,
        [Row(name, _said(one), times(one[1].p50) + (", tie" if one[1].is_tie else ""), mark_of(one[0])) for one, name in pairs],
        f"times as fast as {baseline}",
    )
    values = [1.0, *(value for (_, found), _ in pairs for value in (found.p50, *found.ci95))]
    log = spread(values)
    rows.axes.set_xlim(*around(values, log))
    readable(rows.axes, "x", log=log)
    rows.axes.axvline(1, color=INK, linewidth=1.2, zorder=1.5)
    for centre, ((measured, found), _) in zip(rows.centres, pairs, strict=True):
        look = mark_of(measured)
        rows.axes.plot([1, found.p50], [centre, centre], color=look.stand_in, linewidth=2, alpha=0.35, zorder=2)
        rows.axes.plot(
            found.ci95, [centre, centre], color=look.stand_in, linewidth=5, alpha=0.55, solid_capstyle="butt", zorder=2.5
        )
        rows.axes.plot([found.p50], [centre], linestyle="none", zorder=3, **look.points(10, hollow=found.is_tie))
    return rows.figure


def _said(pair: Pair) -> str:
    found = pair[1]
    return f"{times(found.p50)} ({interval(found.ci95)})" + (", tie" if found.is_tie else "")
