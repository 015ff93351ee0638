"""A confusion matrix: which classes are taken for which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from iresnet_export.reporting.plots.canvas import COLOURS, INK, LINE, MUTED, WIDE, Plot, axes_at, figure_of, plot
from iresnet_export.reporting.schemas import Evaluated
from iresnet_export.reporting.words import one_line

MOST_CLASSES = 40
"""Names and cells of more cannot be read."""

RIGHT, WRONG = "run1", "run2"
"""Colours of what is right, and of what was taken for another class."""

_LETTER = 7.2
"""Pixels of a letter, of 12 pixels' height."""

_STRONGEST = 0.55
"""Opacity of a cell with all images of its class; more would hide its number."""

_LEVELS = 12


def confusion_plot(identifier: str, title: str, one: Evaluated) -> Plot:
    """Rows are classes, columns what their images were taken for; at most `MOST_CLASSES`, each with its images known."""
    said = [
        f"{one.label(each.actual)} is taken for {one.label(each.predicted)} {each.images:,} times"
        for each in (one.confusions.listed if one.confusions else ())[:10]
    ]
    description = f"{'; '.join(said)}." if said else "No image was taken for another class than its own."
    return plot(identifier, title, description, lambda width: _draw(width, one))


def _draw(width: int, one: Evaluated) -> Figure:
    classes = one.classes or ()
    place = {each.number: index for index, each in enumerate(classes)}
    cells = {(place[each.number], place[each.number]): each.right for each in classes if each.right}
    for each in one.confusions.listed if one.confusions else ():
        if each.actual in place and each.predicted in place:
            cells[place[each.actual], place[each.predicted]] = each.images
    longest = 20 if width == WIDE else 10
    names = [_short(each.label, longest) for each in classes]
    room = 16 + _LETTER * max(map(len, names))
    side = min(width - room - 4, 56.0 * len(classes) if width == WIDE else width)
    figure = figure_of(width, room + side + 24)
    axes = axes_at(figure, room, 22, side, side)
    axes.set_xlim(0, len(classes))
    axes.set_ylim(len(classes), 0)
    axes.grid(False)
    _fill(axes, cells, [each.images for each in classes])
    _number(axes, cells, side / len(classes))
    _name(axes, names, side / len(classes))
    axes.annotate("class, and across what its images were taken for", (0, 1), xytext=(-room, 12), xycoords="axes fraction",
                  textcoords="offset points", color=MUTED, va="center")  # fmt: skip
    return figure


def _fill(axes: Axes, cells: dict[tuple[int, int], int], images: Sequence[int]) -> None:
    """Cells by their share of the class's images; small shares are drawn stronger than they are. One path for all of a shade."""
    shades: dict[tuple[str, int], list[Path]] = defaultdict(list)
    for (row, column), number in cells.items():
        share = min(1.0, number / images[row]) if images[row] else 0.0
        level = max(1, round(_LEVELS * share**0.5))
        square = Path([(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1), (column, row)], closed=True)
        shades[RIGHT if row == column else WRONG, level].append(square)
    for (colour, level), squares in shades.items():
        path = Path.make_compound_path(*squares)
        axes.add_patch(PathPatch(path, facecolor=COLOURS[colour], linewidth=0, alpha=_STRONGEST * level / _LEVELS))
    count = len(images)
    for edge in range(count + 1):
        axes.plot([0, count], [edge, edge], color=LINE, linewidth=0.6)
        axes.plot([edge, edge], [0, count], color=LINE, linewidth=0.6)


def _number(axes: Axes, cells: dict[tuple[int, int], int], side: float) -> None:
    """How many images, where all numbers fit their cells."""
    texts = {place: f"{number:,}" for place, number in cells.items()}
    if not texts or _LETTER * max(map(len, texts.values())) > side - 2:
        return
    for (row, column), text in texts.items():
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center_baseline", color=INK)


def _name(axes: Axes, names: Sequence[str], side: float) -> None:
    """Names of rows and columns; of every second class, or fewer, where there is no room for all."""
    step = 1
    while step * side < 13:
        step += 1
    named = range(0, len(names), step)
    places, labels = [index + 0.5 for index in named], [names[index] for index in named]
    level = all(_LETTER * len(name) < step * side - 2 for name in labels)
    axes.set_yticks(places, labels)
    axes.set_xticks(places, labels, rotation=0 if level else 90)
    axes.tick_params(length=0, pad=4)


def _short(name: str, most: int) -> str:
    plain = one_line(name)
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
