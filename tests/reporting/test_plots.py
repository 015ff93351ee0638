"""Plots: what is drawn is what was measured, and the page's style sheet has the last word on colours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import report_samples

from iresnet_export.reporting.collection import Collection
from iresnet_export.reporting.page.figures import accuracy_figure, roofline_figure
from iresnet_export.reporting.plots.accuracy import Point, pareto_front
from iresnet_export.reporting.plots.canvas import VARIABLES, axes_at, figure_of, plot
from iresnet_export.reporting.plots.latency import _hill
from iresnet_export.reporting.plots.marks import distinct, mark
from iresnet_export.reporting.plots.roofline import Reached, Roof, _draw
from iresnet_export.reporting.report_files import read_reports

Shown = Any


def values_of(point: Point) -> tuple[float, float]:
    return point.latency, point.top1


def test_the_pareto_front_is_what_nothing_beats() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        values = generator.integers(1, 8, (12, 2)).astype(float)  # few values, so that some tie
        points = [Point(str(index), mark("fp32", "eager"), *pair) for index, pair in enumerate(values)]
        beaten = {
            point.name
            for point in points
            for other in points
            if other.latency <= point.latency and other.top1 >= point.top1 and values_of(other) != values_of(point)
        }
        front = pareto_front(points)
        assert {values_of(one) for one in front} == {values_of(one) for one in points if one.name not in beaten}
        assert [one.latency for one in front] == sorted(one.latency for one in front)


def test_roofs_bend_where_memory_and_arithmetic_meet() -> None:
    reached = Reached("a", mark("fp32", "eager"), 20.0, 200.0, 0.5)
    drawn = _draw(880, [Roof("fp32", 400.0, 40.0), Roof("int8", 1600.0, None)], [reached])
    slope, level = drawn.axes[0].lines[:2]
    x, y = (np.asarray(values, dtype=float) for values in slope.get_data())
    assert y == pytest.approx(np.minimum(400.0, 40.0 * x))
    assert set(np.asarray(level.get_ydata())) == {1600.0}


def test_colours_are_variables_of_the_style_sheet(rich: Shown) -> None:
    style = rich.text.split("<style>")[1].split("</style>")[0]
    light, dark = style.split("prefers-color-scheme: dark")
    plots = re.findall(r'<svg viewBox="0 0 \d+[^>]*role="img".*?</svg>', rich.text, re.DOTALL)
    assert len(plots) >= 20
    for text in plots:
        assert not re.search(r"#[0-9a-fA-F]{6}\b", text.split("</desc>")[1])
        assert set(re.findall(r"var\(--([\w]+)\)", text)) <= set(VARIABLES)
        assert "font-family" not in text
    for name in VARIABLES:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark


def test_every_plot_is_named_and_escaped() -> None:
    def draw(width: int) -> Any:
        figure = figure_of(width, 100)
        axes_at(figure, 50, 10, 100, 50).set_title("<b> & $x$")
        return figure

    drawn = plot("name", 'A "title" <b>', "What is seen & said", draw)
    for text, width in ((drawn.wide, 880), (drawn.narrow, 340)):
        root = ElementTree.fromstring(text)
        assert root.get("viewBox") == f"0 0 {width} 100"
        assert [element.text for element in list(root)[:2]] == ['A "title" <b>', "What is seen & said"]
        assert "<b> & $x$" in [element.text for element in root.iter("text")]
    assert not set(re.findall(r'id="([^"]+)"', drawn.wide)) & set(re.findall(r'id="([^"]+)"', drawn.narrow))


def test_nothing_looks_like_another() -> None:
    pairs = [("fp32", "onnxruntime"), ("fp32", "openvino"), ("int8", "onnxruntime"), ("fp32", "onnxruntime"), ("fp8", "new")]
    marks = distinct(pairs)
    assert len(set(marks)) == len(pairs)
    assert marks[0].shape == marks[2].shape != marks[1].shape
    assert marks[0].colour == marks[1].colour != marks[2].colour


def linear(colour: Any) -> Any:
    """Of sRGB."""
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def test_colours_stay_apart_for_the_colour_blind() -> None:
    """As seen without red or green receptors (Machado, Oliveira and Fernandes 2009, table 1), precisions still differ."""
    style = (Path(__file__).parents[2] / "iresnet_export/reporting/page/style.css").read_text(encoding="utf-8")
    simulations = {
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    }
    for theme in style.split("prefers-color-scheme: dark"):
        colours = {
            name: np.array([int(value[index : index + 2], 16) / 255 for index in (0, 2, 4)])
            for name, value in re.findall(r"--(fp32|bf16|int8): #([0-9a-f]{6})", theme)
        }
        assert len(colours) == 3
        for matrix in simulations.values():
            seen = [np.array(matrix) @ linear(colour) for colour in colours.values()]
            distances = [np.abs(seen[a] - seen[b]).max() for a in range(3) for b in range(a)]
            assert min(distances) > 0.08


def test_the_accuracy_plot_leaves_out_what_was_not_evaluated(rich: Shown) -> None:
    collection = Collection(read_reports(rich.reports))
    figure = accuracy_figure("accuracy", "Accuracy", collection)
    assert figure is not None
    assert len(figure.legend) == len(report_samples.CANDIDATES)
    assert not any("unfolded" in item.text or "peer" in item.text for item in figure.legend)


def test_a_roofline_shows_no_artifact_that_failed_parity(rich: Shown) -> None:
    figure = roofline_figure("roofline", "Roofline", Collection(read_reports(rich.reports)))
    assert figure is not None
    assert not any("unfolded" in item.text for item in figure.legend)
    assert "410 GFLOP/s" in figure.plot.wide


@pytest.mark.parametrize("log", [False, True])
def test_no_hill_reaches_beyond_its_samples(log: bool) -> None:
    """A loaded machine's samples lie so far apart that a smoothed histogram would reach below zero."""
    generator = np.random.default_rng(0)
    samples = np.concatenate([generator.uniform(0.6, 0.7, 20), generator.uniform(300, 400, 15)])
    for values in (samples, np.full(10, 3.0), np.array([1.0, 2.0, 2.0, 2.0, 3.0])):
        places, heights = _hill(values, log)
        assert values.min() <= places.min() * (1 + 1e-12)
        assert places.max() <= values.max() * (1 + 1e-12)
        assert heights.max() == 1
        assert heights.min() >= 0
