"""What a terminal gets: tables that fit it, with nothing cut or squeezed, and no text of a file's that acts on it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from iresnet_export.benchmark.clock import Samples
from iresnet_export.benchmark.entrants import Entrant
from iresnet_export.benchmark.server import ServerRun, _result
from iresnet_export.benchmark.statistics import latency_of
from iresnet_export.cli import console
from iresnet_export.reporting.collection import Measured
from iresnet_export.reporting.schemas import (
    BenchResult,
    ClassProbability,
    Cold,
    Component,
    DoctorReport,
    EngineFile,
    Environment,
    Finding,
    ImagePrediction,
    Parity,
    Speedup,
    Subject,
    Timing,
)
from iresnet_export.reporting.tables import Cell, Table, doctor_tables, measurement_tables, predict_table, table
from iresnet_export.reporting.terminal import fitted, rich_tables
from iresnet_export.reporting.words import one_line, printable

WIDTHS = (80, 100)
LONG = "a-network-of-a-very-long-name-that-somebody-trained-on-photographs-of-birds-2026-11-25-int8-cpu.onnx"


def lines_of(made: Table, width: int) -> list[str]:
    found = io.StringIO()
    shown = Console(file=found, width=width, highlight=False, markup=False)
    for part in rich_tables(made, width):
        shown.print(part)
    return found.getvalue().splitlines()


def everything(made: Table, lines: list[str]) -> None:
    """Every figure is there whole, and every text with at least a dozen characters on a line."""
    squeezed = "".join("".join(lines).split())
    for row in made.rows:
        for column, cell in zip(made.columns, row, strict=True):
            if column.right or len(cell.text) <= 12:
                assert any(cell.text in line for line in lines), (column, cell)
            else:
                assert cell.text[:12].replace(" ", "") in squeezed, (column, cell)


def bench_results(name: str) -> list[BenchResult]:
    subject = Subject(
        name, "onnxruntime", "int8", "cuda", 16, "iresnet", 404, 224, baseline="net", size_bytes=123_456_789,
        parity=Parity("pass", None, 31.0, None),
    )  # fmt: skip
    samples = Samples("s", tuple((123.4 + index,) * 200 for index in range(10)))
    one = subject.result(
        "latency",
        1024,
        "ok",
        samples=samples.rounds,
        speedup=Speedup(12.34, (1.2, 123.4)),
        device_ms=12.3,
        copy_ms=4.5,
        latency_ms=latency_of(samples),
        throughput=12345.6,
        memory_mb=12345.0,
        peak_fraction=0.5,
    )
    served = ServerRun(1234.5, 123_456, 123_400, 0.93, tuple(float(index) for index in range(20_000)), 100.0, 1000.0, 15.0)
    cold = Cold(Timing(1234.5, (1234.5, 1300.0)), Timing(12.3, (12.3, 12.5)))
    return [
        one,
        dataclasses.replace(one, threads=1),
        _result(cast("Entrant", SimpleNamespace(subject=subject)), served),
        subject.result("cold", 1, "ok", cold=cold, memory_mb=9.0),
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["iresnet404-int8-cpu.onnx", LONG])
def test_tables_of_the_benchmark_fit(width: int, name: str) -> None:
    tables = measurement_tables([Measured(result, parity=result.parity) for result in bench_results(name)])
    assert len(tables) == 3
    for made in tables:
        lines = lines_of(made, width)
        assert max(map(len, lines)) <= width
        everything(made, lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_doctors_tables_fit(width: int) -> None:
    reason = "torch finds no NVIDIA GPU: no driver is loaded here, or the container was started without one"
    finding = Finding("channels-last", "export", "cuda", "untried", reason, "pip install 'iresnet-export[tensorrt-cu13]'")
    engines = (EngineFile(LONG, "no", reason),)
    parts = (Component("NVIDIA driver", None, reason), Component("TensorRT", "10.13.3.9", reason))
    for made in doctor_tables(DoctorReport(Environment(), False, (finding, finding), parts, engines)):
        lines = lines_of(made, width)
        assert max(map(len, lines)) <= width
        everything(made, lines)


def test_a_table_in_parts_names_its_rows_in_each() -> None:
    rows = [[f"net{row}.onnx", "openvino", *(f"{row}{index}.123456" for index in range(12))] for row in range(2)]
    made = table("t", "T", ("artifact", "backend", *(f">figure {index}" for index in range(12))), rows, keys=2)
    parts = fitted(made, 100)
    assert len(parts) > 1
    assert [part.caption for part, _ in parts] == ["T", *[""] * (len(parts) - 1)]
    text = "\n".join(lines_of(made, 100))
    assert text.count("net0.onnx") == text.count("net1.onnx") == len(parts)
    assert all(f"{row}{index}.123456" in text for row in range(2) for index in range(12))
    assert [part for part, _ in fitted(made, 400)] == [made], "where there is room it is one"


def test_a_part_leaves_out_rows_that_say_nothing_in_it() -> None:
    rows = [["whole", *["123456.78"] * 10], ["  copies", "123456.78", *[""] * 9]]
    made = table("t", "", ("artifact", *(f">figure{index}" for index in range(10))), rows)
    assert "\n".join(lines_of(made, 60)).count("copies") == 1


HOSTILE = "cat\x1b]0;owned\x07\x1b[2J\r\u202egpj.\u2028\x9b31m\udcff"


def test_what_acts_on_a_terminal_is_written_out() -> None:
    shown = printable(HOSTILE)
    assert shown == "cat\\x1b]0;owned\\x07\\x1b[2J\\r\\u202egpj.\\u2028\\x9b31m\\udcff"
    assert printable("Größe 3 × 4\n\tλ 猫 \U0001f408") == "Größe 3 × 4\n\tλ 猫 \U0001f408", "words of any language stay"
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_no_line_and_no_cell_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(table("t", HOSTILE, ("image", "class"), [[HOSTILE, Cell(HOSTILE, "bad")], ["b", Cell(HOSTILE, strong=True)]]))
    console.say(HOSTILE)
    console.say(console.bold(HOSTILE))
    console.notice(HOSTILE)
    console.warn(HOSTILE)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & set(HOSTILE.replace(" ", "")) - set(printable(HOSTILE))
        assert "\\x1b[2J" in text


def test_labels_of_a_checkpoint_are_cells(capsys: pytest.CaptureFixture[str]) -> None:
    found = ImagePrediction("a\nb.jpg", "ok", top=(ClassProbability(0, "cat\n\x1b[31mdog  100 %", 0.5),))
    console.show(predict_table([found]))
    out = capsys.readouterr().out
    assert "a\\nb.jpg" in out
    assert "cat\\n\\x1b[31mdog" in out


def test_errors_are_written_out_too(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = run("inspect", tmp_path / "a\x1b[2J.onnx")
    assert outcome.status == 2
    assert "\\x1b[2J" in outcome.err
    assert "\x1b" not in outcome.err
