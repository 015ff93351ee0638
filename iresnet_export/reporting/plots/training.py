"""Training curves: loss, accuracy and learning rate by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
)
from iresnet_export.reporting.plots.marks import Mark
from iresnet_export.reporting.schemas import Epoch
from iresnet_export.reporting.words import percent

_HEIGHT, _GAP = 220, 18
_RUNS = (Mark("run1", "o"), Mark("run2", "s"), Mark("run3", "D"), Mark("run4", "^"))
_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("val_loss", "train_loss")),
    ("top-1, percent", ("val_acc1", "train_acc1", "ema_val_acc1")),
    ("learning rate", ("lr",)),
)
_DASHED = {"train_loss", "train_acc1"}


@dataclass(frozen=True)
class Run:
    name: str
    epochs: tuple[Epoch, ...]


def run_mark(index: int) -> Mark:
    """How the run of this number looks."""
    return _RUNS[index % len(_RUNS)]


def training_plot(identifier: str, title: str, runs: Sequence[Run]) -> Plot:
    said = "; ".join(f"{run.name}: {_said(run)}" for run in runs)
    return plot(
        identifier,
        title,
        f"Held out drawn through, training dashed, averaged weights dotted. {said}.",
        lambda width: _draw(width, runs),
    )


def _said(run: Run) -> str:
    last = run.epochs[-1]
    return f"{last.epoch} epochs, top-1 at the end {percent(last.val_acc1) or 'unknown'}"


def _draw(width: int, runs: Sequence[Run]) -> Figure:
    panels = [
        panel
        for panel in _PANELS
        if any(getattr(epoch, key) is not None for key in panel[1] for run in runs for epoch in run.epochs)
    ]
    if width == WIDE:
        figure = figure_of(width, TOP + _HEIGHT + BOTTOM)
        span = (width - len(panels) * (LEFT + RIGHT) - (len(panels) - 1) * _GAP) / len(panels)
        places = [(LEFT + index * (span + LEFT + RIGHT + _GAP), float(TOP)) for index in range(len(panels))]
    else:
        step = TOP + _HEIGHT + BOTTOM
        figure = figure_of(width, step * len(panels))
        span, places = width - LEFT - RIGHT, [(float(LEFT), float(TOP + index * step)) for index in range(len(panels))]
    for (left, top), (text, keys) in zip(places, panels, strict=True):
        _panel(axes_at(figure, left, top, span, _HEIGHT), runs, keys, text)
    return figure


def _panel(axes: Axes, runs: Sequence[Run], keys: Sequence[str], text: str) -> None:
    values = [value for run in runs for epoch in run.epochs for key in keys if (value := getattr(epoch, key)) is not None]
    axes.set_ylim(
        *(around(values, False) if "loss" in text or "rate" in text else (max(0.0, min(values) - 5), min(101.0, max(values) + 5)))
    )
    readable(axes, "y", most=5)
    headed(axes, text)
    footed(axes, "epoch")
    axes.grid(visible=False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for index, run in enumerate(runs):
        colour, marker = run_mark(index).stand_in, run_mark(index).shape
        for key in keys:
            points = [(epoch.epoch, getattr(epoch, key)) for epoch in run.epochs if getattr(epoch, key) is not None]
            style = (0, (4, 2)) if key in _DASHED else (0, (1.2, 1.8)) if key.startswith("ema") else "-"
            line = axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linestyle=style)[0]
            if key not in _DASHED and not key.startswith("ema") and len(points) <= 30:
                line.set(marker=marker, markersize=5, clip_on=False)
    axes.margins(x=0.04)
