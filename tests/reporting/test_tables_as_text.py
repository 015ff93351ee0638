"""CSV and Markdown: the same figures as in the reports, readable by other programs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import report_samples
from conftest import Outcome
from hostile_reports import HOSTILE, hostile_reports
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from iresnet_export.reporting.report import ReportOptions, make_report

Run = Callable[..., Outcome]
Write = Callable[..., list[Path]]
Shown = Any


def csv_of(paths: list[Path]) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(make_report(paths, ReportOptions(format="csv")).text)))


def markdown_of(paths: list[Path]) -> SyntaxTreeNode:
    text = make_report(paths, ReportOptions(format="md")).text
    return SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(text))


def plain(node: SyntaxTreeNode) -> str:
    return "".join(leaf.content for leaf in node.walk() if leaf.type in ("text", "code_inline", "text_special"))


def test_one_line_for_each_measurement(rich: Shown) -> None:
    document = report_samples.full_bench()
    rows = [row for row in csv_of(rich.reports) if row["kind"] == "bench"]
    assert len(rows) == len(document["results"])
    for row, result in zip(rows, document["results"], strict=True):
        assert row["artifact"] == result["artifact"]
        assert (row["backend"], row["mode"], int(row["batch"])) == (result["backend"], result["mode"], result["batch"])
        assert row["status"] == result["status"]
        if result["latency_ms"] is not None:
            assert float(row["p50_ms"]) == result["latency_ms"]["p50"]
            assert float(row["p50_ci95_high_ms"]) == result["latency_ms"]["p50_ci95"][1]
            assert row["p99_ms"] == ("" if result["latency_ms"]["p99"] is None else str(result["latency_ms"]["p99"]))
        if result["speedup"] is not None:
            assert float(row["speedup"]) == result["speedup"]["p50"]
            assert row["tie"] == str(result["speedup"]["tie"]).lower()
        if result["mode"] == "server":
            assert float(row["rate_per_s"]) == 12
    failed = next(row for row in rows if row["status"] == "failed_parity")
    assert (failed["parity"], float(failed["noise_ratio"])) == ("fail", 371)


def test_what_was_only_verified_or_evaluated_has_its_line(rich: Shown) -> None:
    rows = csv_of(rich.reports)
    (engine,) = [row for row in rows if row["artifact"] == "iresnet50.engine"]
    assert (engine["kind"], engine["status"], engine["reason"]) == ("verify", "skipped", "no NVIDIA GPU is here")
    (checkpoint,) = [row for row in rows if row["artifact"] == "iresnet50.pt"]
    assert (checkpoint["kind"], float(checkpoint["top1_percent"])) == ("eval", 77.1)
    assert all(row["file"] in {path.name for path in rich.reports} for row in rows)


def test_columns_are_stable_and_documented() -> None:
    from iresnet_export.reporting.csv_report import COLUMNS

    document = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    listed = document.split("```csv\n")[1].split("```")[0].replace("\n", "")
    assert listed.split(",") == list(COLUMNS)


def test_no_cell_is_a_formula(write: Write) -> None:
    document = report_samples.bench()
    attacks = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "＝1", "\n=1", 'a,"b"\nc']
    for result, text in zip(document["results"], attacks, strict=False):
        result["artifact"] = text
    found = [row["artifact"] for row in csv_of(write(bench=document))]
    assert found[:7] == ["'=cmd|' /C calc'!A0", "'+1+1", "'-2+3", "'@SUM(A1)", "'\t=1", "'＝1", "'\n=1"]
    assert not any(name.startswith(("=", "+", "-", "@")) for name in found)


def test_changes_are_columns(write: Write) -> None:
    old, new = report_samples.bench(), report_samples.bench()
    new["results"][2]["samples"] = [[1.2 * value for value in turn] for turn in new["results"][2]["samples"]]
    rows = csv_of(write(old=old, new=new))
    assert len(rows) == 7
    assert [row["change"] for row in rows] == ["within noise"] * 2 + ["slower"] + ["within noise"] * 4
    assert float(rows[2]["time_ratio"]) == pytest.approx(1.2)
    assert float(rows[2]["time_ratio_ci95_low"]) > 1.15


def test_the_format_follows_the_name(write: Write, run: Run) -> None:
    (path,) = write(bench=report_samples.bench())
    for name, begins in (
        ("a.csv", "kind,artifact,"),
        ("a.md", "### iResNet-50 int8"),
        ("a.html", "<!DOCTYPE html>"),
        ("a", "<!DOCTYPE"),
    ):
        assert run("report", path, "-o", name).status == 0
        assert Path(name).read_text(encoding="utf-8").lstrip().startswith(begins)
    assert run("report", path, "-o", "b.txt", "--format", "csv").status == 0
    assert Path("b.txt").read_text(encoding="utf-8").startswith("kind,")


def test_markdown_holds_the_tables(rich: Shown) -> None:
    root = markdown_of(rich.reports)
    tables = [node for node in root.walk() if node.type == "table"]
    assert len(tables) == 5
    headers = [[plain(cell) for cell in next(node for node in table.walk() if node.type == "tr").children] for table in tables]
    assert headers[0][:4] == ["artifact", "by", "precision", "batch"]
    for table, header in zip(tables, headers, strict=True):
        assert all(len(row.children) == len(header) for row in table.walk() if row.type == "tr")
    cells = [plain(cell) for table in tables for cell in table.walk() if cell.type == "td"]
    assert {"5.51 ×", "failed parity", "371 noise floors", "12,000", "77.1 %"} <= set(cells)
    assert plain(next(node for node in root.walk() if node.type == "heading")).startswith("Parity failed")


def test_nothing_in_markdown_is_markup_of_a_report(write: Write) -> None:
    root = markdown_of(write(**hostile_reports()))
    kinds = {node.type for node in root.walk()}
    assert not kinds & {"html_block", "html_inline", "link", "image"}
    said = plain(root)
    assert all(" ".join(text.split()) in " ".join(said.split()) for text in HOSTILE)


def test_markdown_of_a_comparison(write: Write) -> None:
    old, new = report_samples.bench(), report_samples.bench()
    new["results"][2]["samples"] = [[1.2 * value for value in turn] for turn in new["results"][2]["samples"]]
    new["environment"]["hardware"]["cpu"] = "Another"
    root = markdown_of(write(old=old, new=new))
    assert (
        plain(next(node for node in root.walk() if node.type == "heading")) == "Of 7 measurements, 1 became slower, by up to 20.0 %"
    )
    first = next(node for node in root.walk() if node.type == "tbody")
    assert plain(first.children[0]).startswith("iresnet50.onnx by ONNX Runtime, batch 1")
    assert "The CPU differs: Imaginary 9000, then Another." in plain(root)
