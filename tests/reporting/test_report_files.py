"""What is no report is refused in one paragraph that says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import report_samples
from conftest import Outcome

from iresnet_export.errors import InputError
from iresnet_export.reporting.report_files import read_report, read_reports

Run = Callable[..., Outcome]
Write = Callable[..., list[Path]]


def without(document: dict[str, Any], *path: Any) -> dict[str, Any]:
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return document


def changed(document: dict[str, Any], *path: Any) -> dict[str, Any]:
    inner = document
    for key in path[:-2]:
        inner = inner[key]
    inner[path[-2]] = path[-1]
    return document


BAD = {
    "not JSON": ("{", "cannot be read as JSON"),
    "NaN": ('{"schema": "iresnet-export/bench/1", "results": [NaN]}', "NaN is not JSON"),
    "infinity": ('{"schema": "iresnet-export/bench/1", "results": [-Infinity]}', "-Infinity is not JSON"),
    "empty": ("", "is empty"),
    "blank": (" \n", "cannot be read as JSON"),
    "deep": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "a list": ("[]", "names no schema"),
    "no schema": ({"results": []}, "names no schema"),
    "schema no text": ({"schema": 1}, "its schema is 1"),
    "foreign": ({"schema": "other/bench/1"}, "no report of iresnet-export"),
    "predictions": ({"schema": "iresnet-export/predict/1"}, "which a page has no place for"),
    "future": (report_samples.bench() | {"schema": "iresnet-export/bench/2"}, "a newer iresnet-export wrote it"),
    "past": (report_samples.bench() | {"schema": "iresnet-export/bench/0"}, "no version of iresnet-export writes"),
    "no results": (without(report_samples.bench(), "results"), "results is missing"),
    "no environment": (without(report_samples.verify(), "environment"), "environment is missing"),
    "no artifact": (without(report_samples.bench(), "results", 2, "artifact"), "results.2.artifact is missing"),
    "text for a number": (
        changed(report_samples.bench(), "results", 0, "latency_ms", "p50", "39"),
        "results.0.latency_ms.p50 is not as it should be",
    ),
    "unknown status": (changed(report_samples.verify(), "candidates", 0, "status", "fine"), "candidates.0.status"),
    "no time at all": (changed(report_samples.bench(), "results", 0, "latency_ms", "p50", 0), "greater than or equal to 0.000"),
    "too large": (json.dumps(report_samples.bench()).replace('"p50": ', '"p50": 1e999, "was": ', 1), "finite"),
    "1e308": (changed(report_samples.bench(), "results", 0, "latency_ms", "p99", 1e308), "results.0.latency_ms.p99"),
    "10^400": (json.dumps(report_samples.bench()).replace('"p50": ', f'"p50": 1{"0" * 400}, "was": ', 1), "more than 64 bits"),
    "10^5000": (json.dumps(report_samples.bench()).replace('"p50": ', f'"p50": 1{"0" * 5000}, "was": ', 1), "more than 64 bits"),
    "next to no time": (changed(report_samples.bench(), "results", 0, "latency_ms", "p50", 1e-320), "results.0.latency_ms.p50"),
    "a key twice": ('{"schema": "iresnet-export/bench/1", "schema": "iresnet-export/bench/1"}', "comes twice"),
    "an epoch that is no number": (changed(report_samples.training(2), "epochs", 1, "epoch", "2"), "epochs.1.epoch"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_paragraph(name: str, write: Write, run: Run) -> None:
    text, message = BAD[name]
    (path,) = write(bad=text)
    outcome = run("report", path)
    assert outcome.status == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not Path("report.html").exists()


def test_what_is_no_file_is_refused(run: Run, tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is a folder"), (tmp_path / "none.json", "does not exist")):
        outcome = run("report", path)
        assert outcome.status == 2
        assert message in outcome.err
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as JSON" in run("report", tmp_path / "binary.json").err


def test_a_report_is_not_written_over(write: Write, run: Run) -> None:
    (path,) = write(bench=report_samples.bench())
    before = path.read_bytes()
    outcome = run("report", path, "-o", path)
    assert outcome.status == 2
    assert "which this command reads" in outcome.err
    assert path.read_bytes() == before


def test_a_report_named_twice_would_count_twice(write: Write) -> None:
    (path,) = write(bench=report_samples.bench())
    with pytest.raises(InputError, match="named twice"):
        read_reports([path, path.parent / "." / path.name])


def test_unknown_keys_are_passed_over(write: Write) -> None:
    """A later version of the same schema may add some."""
    document = report_samples.bench()
    document["results"][0]["future"] = document["future"] = {"a": [1]}
    (path,) = write(bench=document)
    assert read_report(path).kind == "bench"


def test_the_commands_own_reports_are_read(real: list[Path]) -> None:
    assert [file.kind for file in read_reports(real)] == ["verify", "bench", "eval"]


def test_files_are_told_apart_without_absolute_paths(tmp_path: Path) -> None:
    for folder in ("a/x", "b/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "bench.json").write_text(json.dumps(report_samples.bench()))
    names = [file.name for file in read_reports([tmp_path / "a/x/bench.json", tmp_path / "b/x/bench.json"])]
    assert names == ["a/x/bench.json", "b/x/bench.json"]


def test_no_character_turns_a_line_around_or_ends_a_page(write: Write) -> None:
    document = report_samples.bench()
    document["results"][1]["artifact"] = "a\u202eb\x00c\ud800d\ufffe.onnx"
    (path,) = write(bench=document)
    report = read_report(path).report
    assert report.results[1].artifact == "a\ufffdb\ufffdc\ufffdd\ufffd.onnx"  # type: ignore[union-attr]
