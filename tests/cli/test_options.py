"""Options: what they take is offered and listed, and what they do not take is told before anything is done."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from conftest import Outcome

from iresnet_export.backends.registry import NAMES, format_named
from iresnet_export.benchmark.options import MODES
from iresnet_export.cli.options import ArchName, FloatingPrecision, OnnxPrecision, device_from_option, finite
from iresnet_export.cli.pasting import command_line, export_of
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.system import nvidia
from iresnet_models.precisions import PRECISIONS
from iresnet_models.spec import BLOCKS, FAMILIES

Run = Callable[..., Outcome]


def test_what_is_written_out_is_what_there_is() -> None:
    assert get_args(ArchName) == tuple(FAMILIES)
    assert get_args(OnnxPrecision) == PRECISIONS
    for name in ("torchscript", "pt2", "aotinductor"):
        assert get_args(FloatingPrecision) == format_named(name).precisions


def test_modes_are_offered_as_they_are(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written out in the command line's module, which imports nothing heavy."""
    assert completed(run, monkeypatch, "bench --mode ") == set(MODES)


def completed(run: Run, monkeypatch: pytest.MonkeyPatch, words: str) -> set[str]:
    """What bash is told, by the protocol that its completion script speaks."""
    monkeypatch.setenv("_IRESNET_EXPORT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"iresnet-export {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" "))))
    outcome = run()
    assert outcome.status == 0, outcome.err
    return set(outcome.out.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("onnx --arch ", set(FAMILIES)),
        ("onnx --depth ", {str(depth) for depth in BLOCKS}),
        ("onnx --precision ", set(PRECISIONS)),
        ("torchscript --precision ", {"fp32", "fp16", "bf16"}),
        ("pt2 --precision ", {"fp32", "fp16", "bf16"}),
        ("trt --precision i", {"int8"}),
        ("onnx --calibrator ", {"auto", "minmax", "percentile", "entropy"}),
        ("onnx --target ", {"cpu", "tensorrt"}),
        ("verify --device ", {"auto", "cpu", "cuda"}),
        ("verify --backend ", set(NAMES)),
        ("predict --backend onnx", {name for name in NAMES if name.startswith("onnx")}),
        ("bench --mode latency,", {f"latency,{mode}" for mode in ("latency", "throughput", "server", "cold")}),
        ("report --format ", {"html", "md", "csv"}),
        ("trt --hardware-compatibility a", {"ampere-plus"}),
        ("train --preset ", {"official", "modern", "digits", "finetune"}),
        ("train --precision ", {"fp32", "bf16", "fp16", "auto"}),
        ("train --arch iresg", {"iresgroup", "iresgroupfix"}),
        ("eval --data dig", {"digits"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_are_offered(words: str, offered: set[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed(run, monkeypatch, words) == offered


@pytest.mark.parametrize(
    "arguments",
    [
        ["torchscript", "--precision", "int8"],
        ["pt2", "--precision", "fp8"],
        ["onnx", "--arch", "iresnett"],
        ["onnx", "--calibrator", "mean"],
        ["onnx", "--target", "gpu"],
        ["onnx", "--seed", "99999999999999999999"],
        ["onnx", "--seed", "-1"],
        ["onnx", "--image-size", "1000000000"],
        ["onnx", "--num-classes", "1000000000000"],
        ["onnx", "--batch", "1000000000000"],
        ["onnx", "--calibration-images", "1000000000000"],
        ["trt", "--max-batch", "1000000000000"],
        ["trt", "--workspace", "0"],
        ["trt", "--builder-level", "9"],
        ["trt", "--profile", "1,1,1000000000000"],
        ["bench", "x", "--seconds", "nan"],
        ["bench", "x", "--seconds", "inf"],
        ["bench", "x", "--seconds", "1e12"],
        ["bench", "x", "--batch", "1000000000000"],
        ["bench", "x", "--batch", "9" * 5000],
        ["bench", "x", "--threads", "1000000000000"],
        ["bench", "x", "--repeats", "1000000000000"],
        ["bench", "x", "--images", "1000000000000"],
        ["bench", "x", "--mode", "server", "--rate", "nan"],
        ["bench", "x", "--mode", "server", "--rate", "inf"],
        ["bench", "x", "--mode", "server", "--rate", "1e12"],
        ["bench", "x", "--mode", "server", "--p99-limit", "nan"],
        ["bench", "x", "--mode", "server", "--p99-limit", "-inf"],
        ["bench", "x", "--recommend", "--max-accuracy-drop", "nan"],
        ["verify", "x", "--images", "1000000000000"],
        ["verify", "x", "--batch", "1000000000000"],
        ["verify", "x", "--max-accuracy-drop", "nan"],
        ["verify", "x", "--max-accuracy-drop", "-1"],
        ["verify", "x", "--device", "cuda:x"],
        ["verify", "x", "--device", "cpu:x"],
        ["eval", "x", "--batch-size", "1000000000000"],
        ["eval", "x", "--workers", "1000000000000"],
        ["predict", "x", "y", "--top-k", "0"],
        ["predict", "x", "y", "--batch-size", "1000000000000"],
        ["quickstart", "--seconds", "nan"],
        ["quickstart", "--seconds", "-1"],
        ["quickstart", "--epochs", "1000000000000"],
        ["report", "x", "--format", "pdf"],
        ["report", "x", "--fail-if-slower", "nan"],
        ["report", "x", "--fail-if-slower", "inf%"],
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_values_beyond_bounds_are_told_in_one_paragraph(arguments: list[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    outcome = run(*arguments)
    assert outcome.status == 2, outcome.err
    said = [line for line in outcome.err.splitlines() if not line.startswith(("Usage:", "Try "))]
    option = next(argument for argument in arguments if argument.startswith("--") and argument not in ("--mode", "--recommend"))
    assert option in " ".join(said)
    assert max(map(len, said)) <= 100 or len(said) == 1
    assert "Traceback" not in outcome.err


def test_help_lists_what_a_command_takes_and_no_more(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for command, quantized in (("torchscript", False), ("pt2", False), ("onnx", True), ("trt", True)):
        shown = run(command, "--help").out
        line = next(line for line in shown.splitlines() if "--precision" in line)
        assert "fp16" in line
        assert ("int8" in line) is quantized
        assert max(map(len, shown.splitlines())) <= 100


def test_infinite_bounds_are_no_bounds() -> None:
    import typer

    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(typer.BadParameter):
            finite(value)
    assert finite(None) is None
    assert finite(2.5) == 2.5


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "absence", lambda: None)
    monkeypatch.setattr(nvidia, "gpu", lambda index: nvidia.Gpu("Pretended GPU", (9, 0), 2**33) if index < 2 else None)
    assert str(device_from_option("cuda:1")) == "cuda:1"
    with pytest.raises(UnavailableError, match="no GPU number 2"):
        device_from_option("cuda:2")
    for name in ("cuda:", "cuda:-1", "cuda:²", "cuda:1:1", "cpu:x", "mps"):
        with pytest.raises(InputError, match="--device takes"):
            device_from_option(name)


@pytest.mark.parametrize("name", ["best.pt", "my photos/best.pt", "it's $HOME;`x`.pt", "-rf.pt", '"a"\\b.pt', "größe*.pt"])
def test_commands_can_be_pasted(name: str) -> None:
    words = shlex.split(command_line("onnx", "--checkpoint", Path(name)))
    assert words[:3] == ["iresnet-export", "onnx", "--checkpoint"]
    assert words[3].removeprefix("./") == name
    assert not words[3].startswith("-")


def test_what_cannot_be_shown_is_pasted_by_its_bytes(tmp_path: Path) -> None:
    import subprocess

    name = "a\x1b[2J'\n\\é.pt"
    said = command_line(Path(name))
    assert said.isprintable()
    found = subprocess.run(
        ["bash", "-c", said.replace("iresnet-export", "printf %s", 1)], capture_output=True, text=True, check=True
    )
    assert found.stdout == name


def test_the_images_are_named_where_a_file_cannot_say_where_they_lie() -> None:
    Path("my photos").mkdir()
    assert export_of(Path("best.pt"), "my photos") == "iresnet-export onnx --checkpoint best.pt --calibration-data 'my photos'"
    for embedded in ("digits", "synthetic", "synthetic:100", None):
        assert export_of(Path("best.pt"), embedded) == "iresnet-export onnx --checkpoint best.pt"
