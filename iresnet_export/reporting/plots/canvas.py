"""Figures on one grid and in one style, as inline SVG whose colours are the page's CSS variables.

matplotlib draws in stand-in colours, each of which becomes a variable, so that one drawing serves the light and the dark
theme. Every plot is drawn twice, for a screen and for a phone, since text that is scaled down cannot be read; the style
sheet shows one of them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDE, NARROW = 880, 340
"""Widths in pixels of the drawings for a screen and for a phone."""

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 46
"""Margins in pixels of a plot whose vertical axis has figures."""

VARIABLES = ("ink", "muted", "line", "surface", "fp32", "fp16", "bf16", "int8", "other", "run1", "run2", "run3", "run4")
INK, MUTED, LINE, SURFACE = (f"#0001{index:02x}" for index in range(4))
COLOURS = {name: f"#0001{index:02x}" for index, name in enumerate(VARIABLES)}
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 1,
    "figure.facecolor": "none",
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 12,
    "xtick.minor.size": 0,
    "xtick.major.size": 4,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 12,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.pad": 8,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_STAND_IN = re.compile(r"#0001([0-9a-f]{2})")
_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_XLINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class Plot:
    """A drawing as SVG for a screen and for a phone."""

    wide: str
    narrow: str


def plot(identifier: str, title: str, description: str, draw: Callable[[int], Figure]) -> Plot:
    """Draws a plot twice. `description` says in words what is to be seen, for those who do not see it."""
    drawings = []
    with rc_context(_STYLE | {"svg.hashsalt": identifier}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # text stays text, and the reader's fonts have it
        for name, width in (("wide", WIDE), ("narrow", NARROW)):
            drawings.append(_inline(draw(width), f"{identifier}-{name}", title, description, name))
    return Plot(*drawings)


def figure_of(width: int, height: float) -> Figure:
    """An empty figure in pixels: at 72 dots an inch a point is a pixel."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes whose frame lies at these pixels, counted from the figure's upper left corner."""
    whole_width, whole_height = figure.get_size_inches() * 72
    bottom = whole_height - top - height
    return figure.add_axes((left / whole_width, bottom / whole_height, width / whole_width, height / whole_height))


def headed(axes: Axes, text: str) -> None:
    """What the vertical axis shows, above it and upright, where it needs no turning of the head."""
    axes.annotate(text, (0, 1), xytext=(-LEFT, 15), xycoords="axes fraction", textcoords="offset points", color=MUTED, va="center")


def footed(axes: Axes, text: str) -> None:
    """What the horizontal axis shows."""
    axes.set_xlabel(text, labelpad=6)


def readable(axes: Axes, which: str, *, log: bool = False, most: int = 6) -> None:
    """Few ticks, with figures as people write them."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
        axis.set_major_locator(LogLocator(subs=_steps(high / low), numticks=20))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:,.6g}"))


def spread(values: Sequence[float]) -> bool:
    """Whether positive values reach so far that a logarithmic axis shows them better."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > 8


def around(values: Sequence[float], log: bool, margin: float = 0.06) -> tuple[float, float]:
    """Limits of an axis with some room at both ends; one that is not logarithmic begins at 0."""
    low, high = min(values), max(values)
    if not log:
        return min(0.0, low * (1 + margin)), (high * (1 + margin)) or 1.0
    step = max((high / low) ** margin, 1.08)
    return low / step, high * step


def _steps(ratio: float) -> tuple[float, ...]:
    if ratio < 6:
        return (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    return (1.0, 2.0, 5.0) if ratio < 300 else (1.0,)


def _inline(figure: Figure, identifier: str, title: str, description: str, name: str) -> str:
    """A figure as an SVG element that can stand beside others: own ids, no style or font of its own, named and described."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        _settle(element, identifier)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style") or (child.tag == "defs" and not len(child)):
                parent.remove(child)
    width, height = figure.get_size_inches() * 72
    root.attrib.clear()
    root.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "class": name,
        "role": "img",
        "aria-labelledby": f"{identifier}-title {identifier}-desc",
    }
    for tag, text in (("desc", description), ("title", title)):
        element = ElementTree.Element(tag, {"id": f"{identifier}-{tag}"})
        element.text = text
        root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def _settle(element: ElementTree.Element, identifier: str) -> None:
    target = element.attrib.pop(_XLINK, None)
    if target is not None:
        element.set("href", f"#{identifier}-{target.removeprefix('#')}")
    for key, value in list(element.attrib.items()):
        if key == "id":
            # Only what is referred to needs its id; the names of groups would be the same in every figure.
            if element.tag == "g":
                del element.attrib[key]
            else:
                element.set(key, f"{identifier}-{value}")
            continue
        if key in ("d", "points", "transform", "x", "y", "width", "height", "style"):
            value = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
        value = _REFERENCE.sub(lambda found: f"url(#{identifier}-{found[1]})", value)
        value = _FAMILY.sub("", value)
        element.set(key, _STAND_IN.sub(lambda found: f"var(--{VARIABLES[int(found[1], 16)]})", value))
