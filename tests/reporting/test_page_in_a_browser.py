"""The page in headless Chromium: no complaint, no sideways scrolling, readable in both themes, whatever its reports hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Page
from hostile_reports import hostile_reports

from iresnet_export.reporting.report import ReportOptions, make_report

pytestmark = pytest.mark.browser

Write = Callable[..., list[Path]]
Shown = Any

LIGHT_AND_DARK = (False, True)

CONTRASTS = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const behind = element => { for (let e = element; e; e = e.parentElement) {
    const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 255) return c; } return [255, 255, 255, 255]; };
  document.querySelectorAll("details").forEach(d => d.open = true);
  const found = [], style = getComputedStyle(document.documentElement);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || /title|desc/i.test(element.tagName)) continue;
    const own = getComputedStyle(element), svg = element.closest("svg");
    const colour = rgba(svg ? own.fill : own.color);
    found.push([ratio(colour, behind(element)), walker.currentNode.data.trim().slice(0, 40), Boolean(svg)]);
  }
  const surface = rgba(style.getPropertyValue("--surface"));
  const marks = ["fp32", "fp16", "bf16", "int8", "other", "run1", "run2", "run3", "run4"]
    .map(name => [name, ratio(rgba(style.getPropertyValue("--" + name)), surface)]);
  return {texts: found, marks};
})()
"""
"""Contrast ratios as WCAG 2.2 defines them, of every piece of text that is shown and of the plots' colours."""

OVERFLOWING = """
(() => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const width = document.documentElement.clientWidth, bad = [];
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest(".scroll") && !element.matches(".scroll") || element.closest("svg") || !element.checkVisibility()) continue;
    const box = element.getBoundingClientRect();
    if (box.width && box.right > width + 0.5) bad.push(element.tagName + "." + element.className + " " + box.right);
  }
  return {bad, scrolls: document.documentElement.scrollWidth, width};
})()
"""

FOCUSED = "(e => e.getAttribute('href') || e.getAttribute('aria-labelledby') || e.tagName)(document.activeElement)"

OUTSIDE = """
[...document.querySelectorAll("figure > svg")].filter(svg => svg.checkVisibility()).flatMap(svg => {
  const frame = svg.parentElement.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].map(text => [text.getBoundingClientRect(), text.textContent])
    .filter(([box]) => box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
    .map(([box, words]) => svg.querySelector("title").textContent + ": " + words);
})
"""


FOCUSED = "(e => e.getAttribute('href') || e.getAttribute('aria-labelledby') || e.tagName)(document.activeElement)"


@pytest.mark.parametrize("width", [360, 1400])
def test_a_real_runs_page_opens_without_complaint_and_fits(real_page: Shown, page: Page, width: int) -> None:
    page.open(real_page.page, width)
    assert page.console == []
    assert len(page.requests) == 1, "it loads nothing but itself"
    assert page.evaluate("document.querySelectorAll('h2').length") >= 7
    found = page.evaluate(OVERFLOWING)
    assert found["width"] == width
    assert found["bad"] == []
    assert found["scrolls"] <= width


@pytest.mark.parametrize("width", [360, 820, 1180, 1400])
def test_every_section_fits(rich: Shown, page: Page, width: int) -> None:
    page.open(rich.page, width)
    found = page.evaluate(OVERFLOWING)
    assert found["bad"] == []
    assert found["scrolls"] <= width
    assert page.evaluate(OUTSIDE) == []
    shown = page.evaluate(
        "[...document.querySelectorAll('figure > svg')].filter(s => s.checkVisibility()).map(s => s.classList[0])"
    )
    assert set(shown) == {"narrow" if width < 820 else "wide"}
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('figure > svg text')].filter(t => t.checkVisibility())"
        ".map(t => parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b)))"
    )
    assert smallest >= 9, "text in a plot is not scaled down until nobody can read it"


@pytest.mark.parametrize("dark", LIGHT_AND_DARK, ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_text_and_marks_stand_out(rich: Shown, page: Page, width: int, dark: bool) -> None:
    page.open(rich.page, width, dark=dark)
    found = page.evaluate(CONTRASTS)
    assert len(found["texts"]) > 500
    assert sum(svg for _, _, svg in found["texts"]) > 100
    assert [entry for entry in found["texts"] if entry[0] < 4.5] == []
    assert [entry for entry in found["marks"] if entry[1] < 3] == []


def test_the_themes_differ(real_page: Shown, page: Page) -> None:
    colours = []
    for dark in LIGHT_AND_DARK:
        page.open(real_page.page, 1400, dark=dark)
        body = "getComputedStyle(document.body).backgroundColor"
        colours.append(page.evaluate(f"[{body}, getComputedStyle(document.querySelector('figure svg text')).fill]"))
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_in_a_report_runs(hostile: Shown, page: Page, width: int) -> None:
    page.open(hostile.page, width)
    assert page.console == []
    assert len(page.requests) == 1
    assert page.evaluate("window.hacked === undefined")
    found = page.evaluate(OVERFLOWING)
    assert found["bad"] == []
    assert found["scrolls"] <= width


def test_long_names_are_broken_not_pushed_out(write: Write, page: Page, tmp_path: Path) -> None:
    documents = hostile_reports()
    long = "a" * 300
    documents["bench"]["results"][2]["artifact"] = documents["verify"]["candidates"][0]["artifact"] = long
    documents["bench"]["environment"]["command"] = long
    file = tmp_path / "page.html"
    file.write_text(make_report(write(**documents), ReportOptions()).text, encoding="utf-8")
    page.open(file, 360)
    found = page.evaluate(OVERFLOWING)
    assert found["bad"] == []
    assert found["scrolls"] <= 360


def test_the_keyboard_reaches_everything(rich: Shown, page: Page) -> None:
    page.open(rich.page, 1400)
    reached = []
    for _ in range(60):
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        reached.append(page.evaluate(FOCUSED))
    assert reached[0] == "#content"
    assert "#section-latency" in reached
    assert "measurements-caption" in reached, "a table that scrolls can be scrolled with the keys"
    assert "SUMMARY" in reached
