"""Nothing that a command reads is replaced by what it writes, by whatever name or link; refused before any work is done."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from conftest import Outcome

from iresnet_export.artifacts.artifact import Artifact

Run = Callable[..., Outcome]


@pytest.fixture
def model(artifacts: dict[str, Artifact], small_checkpoint: Path) -> Path:
    """An ONNX file, its manifest, and the checkpoint that it leads to, in the current folder."""
    there = artifacts["onnx"].path
    shutil.copy(there, "m.onnx")
    manifest = json.loads(there.with_name(there.name + ".json").read_text(encoding="utf-8"))
    manifest |= {"file": "m.onnx"}
    manifest["weights"] |= {"checkpoint": "c.pt"}
    Path("m.onnx.json").write_text(json.dumps(manifest), encoding="utf-8")
    shutil.copy(small_checkpoint, "c.pt")
    return Path("m.onnx")


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever refuses after the work fails here."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("work was done")

    names = ("evaluation.accuracies", "verification.verify.verify", "prediction.predict", "benchmark.bench.bench")
    modules = [import_module(f"iresnet_export.{name.rpartition('.')[0]}") for name in names]  # what one takes of another is its own
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setattr(module, name.rpartition(".")[2], work)


def _contents() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in sorted(os.listdir()) if Path(name).is_file()}


@pytest.mark.parametrize("place", ["m.onnx", "m.onnx.json", "c.pt", "symbolic", "hard", "./m.onnx", "photo.jpg", "notes.json", "."])
@pytest.mark.parametrize(
    "command",
    [
        ["eval", "m.onnx", "--json"],
        ["verify", "m.onnx", "--json"],
        ["verify", "m.onnx", "--markdown"],
        ["predict", "m.onnx", "photo.jpg", "--json"],
        ["bench", "m.onnx", "--json"],
        ["inspect", "m.onnx", "--json"],
        ["doctor", "--json"],
        ["train", "--data", "digits", "--pretrained", "c.pt", "--json"],
        ["report", "old.json", "--output"],
    ],
    ids=" ".join,
)
def test_reports_replace_no_input(command: list[str], place: str, model: Path, run: Run) -> None:
    Path("symbolic").symlink_to(model)
    os.link("c.pt", "hard")
    Path("photo.jpg").write_bytes(b"\xff\xd8\xff\xe0 a photo")
    Path("notes.json").write_text('{"mine": 1}', encoding="utf-8")
    Path("old.json").write_text('{"schema": "iresnet-export/bench/1"}', encoding="utf-8")
    before = _contents()
    outcome = run(*command, place)
    assert outcome.status == 2, outcome.err
    assert place.removeprefix("./") in outcome.err
    assert _contents() == before
    assert Path("symbolic").is_symlink()


def test_a_manifests_place_is_no_reports(model: Path, run: Run) -> None:
    """The next command would read the report as the manifest."""
    Path("m.onnx.json").unlink()
    outcome = run("verify", model, "--json", "m.onnx.json")
    assert outcome.status == 2
    assert "place of the manifest" in outcome.err
    assert not Path("m.onnx.json").exists()


@pytest.mark.parametrize("place", ["run/best.pt", "run/log.csv", "run/./last.pt", "run/states/x", "linked/best.pt"])
def test_a_report_takes_no_place_of_a_runs_own_files(place: str, run: Run) -> None:
    Path("linked").symlink_to("run")
    outcome = run("train", "--data", "digits", "--epochs", "1", "--result-path", "run", "--json", place)
    assert outcome.status == 2
    assert "run's own files" in outcome.err
    assert not Path("run").exists()


def test_two_reports_in_one_file_are_refused(model: Path, run: Run) -> None:
    for place in ("same.txt", "-"):
        outcome = run("verify", model, "--json", place, "--markdown", place)
        assert outcome.status == 2
        assert "--json and --markdown both name" in outcome.err


@pytest.mark.parametrize(
    ("old", "status"),
    [
        ("", 0),
        ('{"schema": "iresnet-export/inspect/1"}', 0),
        ('{\n  "schema": "iresnet-export/verify/1"}', 0),
        ('{"a": 1, "schema": "iresnet-export/verify/1"}', 0),
        ('{"schema": "iresnet-export/manifest/1"}', 2),
        ('{"schema": "iresnet-export/train/1"}', 2),
        ('{"schema": "other/1"}', 2),
        ("[]", 2),
        ("{" * 100, 2),
    ],
)
def test_earlier_reports_are_replaced_without_fuss(old: str, status: int, model: Path, run: Run) -> None:
    Path("r.json").write_text(old, encoding="utf-8")
    assert run("inspect", model, "--json", "r.json").status == status
    if status:
        assert Path("r.json").read_text(encoding="utf-8") == old
    else:
        assert json.loads(Path("r.json").read_text(encoding="utf-8"))["schema"] == "iresnet-export/inspect/1"


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output_is_the_reports_alone(name: str, model: Path, run: Run) -> None:
    outcome = run("inspect", model, "--json", name)
    assert outcome.status == 0
    assert json.loads(outcome.out)["schema"] == "iresnet-export/inspect/1"
    assert "intact" in outcome.err
    assert Path("/dev/stdout").is_symlink()
    assert "intact" in run("inspect", model).out  # the next command's results go to stdout again


def test_a_report_into_a_pipe_and_through_a_link(model: Path, run: Run) -> None:
    os.mkfifo("pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(Path("pipe").read_bytes()))
    reader.start()
    assert run("inspect", model, "--json", "pipe").status == 0
    reader.join()
    assert json.loads(found[0])["schema"] == "iresnet-export/inspect/1"
    Path("link.json").symlink_to("target.json")
    assert run("inspect", model, "--json", "link.json").status == 0
    assert Path("link.json").is_symlink()
    assert json.loads(Path("target.json").read_bytes())["schema"] == "iresnet-export/inspect/1"
    assert run("inspect", model, "--json", os.devnull).status == 0
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        ("onnx", "x", "end in .onnx"),
        ("onnx", "x.engine", "end in .onnx"),
        ("onnx", "x.pt", "end in .onnx"),
        ("onnx", "-", "end in .onnx"),
        ("onnx", "/dev/stdout", "end in .onnx"),
        ("torchscript", "x.pt2", "end in .ts"),
        ("pt2", "x.onnx", "end in .pt2"),
        ("pt2", "x.aoti.pt2", "end in .pt2"),
        ("onnx", "pipe.onnx", "is no file"),
        ("onnx", "null.onnx", "is no file"),
        ("onnx", "folder.onnx", "is a folder"),
        ("onnx", "caf\udce9.onnx", "is no UTF-8"),
        ("onnx", "c.pt/x.onnx", "Not a directory"),
    ],
)
def test_artifacts_end_as_their_formats_do_and_are_files(
    command: str, name: str, message: str, run: Run, small_checkpoint: Path
) -> None:
    shutil.copy(small_checkpoint, "c.pt")
    os.mkfifo("pipe.onnx")
    Path("null.onnx").symlink_to(os.devnull)
    Path("folder.onnx").mkdir()
    before = _contents()
    outcome = run(command, "--checkpoint", "c.pt", "-o", name, "--force")
    assert outcome.status == 2
    assert message in outcome.err
    assert _contents() == before


@pytest.mark.parametrize(
    ("checkpoint", "output"),
    [
        ("c.onnx", "c.onnx"),
        ("c.onnx", "link.onnx"),
        ("c.onnx", "hard.onnx"),
        ("c.pt", "another.onnx"),
        ("x.onnx.json", "x.onnx"),
        ("c.pt", "y.onnx"),
        ("c.pt", "data/train/a.onnx"),
    ],
)
def test_force_replaces_no_checkpoint_and_no_input(checkpoint: str, output: str, run: Run, small_checkpoint: Path) -> None:
    for name in ("c.onnx", "c.pt", "another.onnx", "x.onnx.json", "y.onnx.json"):
        shutil.copy(small_checkpoint, name)
    Path("link.onnx").symlink_to("c.onnx")
    os.link("c.onnx", "hard.onnx")
    Path("data/train").mkdir(parents=True)
    Path("data/train/a.onnx").write_bytes(b"mine")
    before = _contents()
    data = ["--calibration-data", "data"] if output.startswith("data") else []
    outcome = run("onnx", "--checkpoint", checkpoint, "-o", output, "--force", *data)
    assert outcome.status == 2, outcome.err
    assert _contents() == before
    assert Path("link.onnx").is_symlink()
    assert Path("data/train/a.onnx").read_bytes() == b"mine"


def test_a_foreign_file_at_the_manifests_place_needs_force(run: Run, small_checkpoint: Path) -> None:
    Path("x.onnx.json").write_text('{"mine": 1}', encoding="utf-8")
    outcome = run("onnx", "--checkpoint", small_checkpoint, "-o", "x.onnx")
    assert outcome.status == 2
    assert "Add --force" in outcome.err
    assert Path("x.onnx.json").read_text(encoding="utf-8") == '{"mine": 1}'
    assert run("onnx", "--checkpoint", small_checkpoint, "-o", "x.onnx", "--force").status == 0


@pytest.mark.parametrize(("name", "suffix"), [("torchscript", ".ts"), ("torch_export", ".pt2"), ("onnxruntime", ".onnx")])
def test_a_full_disk_leaves_nothing(
    name: str, suffix: str, small_checkpoint: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own writer of files would end the process; each exporter gives its bytes to Python to write."""

    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    command = {"torch_export": "pt2", "onnxruntime": "onnx"}.get(name, name)
    outcome = run(command, "--checkpoint", small_checkpoint, "-o", f"out/x{suffix}")
    assert outcome.status == 3, outcome.err
    assert "disk is full" in outcome.err
    assert os.listdir("out") == []
