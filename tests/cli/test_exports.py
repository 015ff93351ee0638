"""The command line: what it prints, what it exits with, and how fast it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Outcome
from support import whatever_is_measured_counts

import iresnet_export
from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.cli.options import source_from_options
from iresnet_export.errors import ExportError, InputError
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.errors import PreemptedError
from iresnet_models.initialization import untrained_network
from iresnet_models.spec import SpecOptions

Run = Callable[..., Outcome]
COMMANDS = tuple("quickstart train eval torchscript pt2 onnx trt verify bench report predict models inspect doctor".split())  # noqa: SIM905
HEAVY = (
    *("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "torchvision", "sklearn", "numpy", "scipy", "gdown", "PIL"),
    *("matplotlib", "jinja2"),
)


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS), ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        f"import sys; sys.argv = ['iresnet-export', *{arguments!r}]\n"
        "from iresnet_export.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as exit: assert not exit.code, exit.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout, done.stdout.splitlines()[-1]
    assert done.stderr == ""


def test_a_manifest_is_read_without_what_judges_it() -> None:
    program = f"import sys, iresnet_export.inspection\nprint([name for name in {(*HEAVY[:3], 'scipy')!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_arguments_show_the_help(run: Run) -> None:
    outcome = run()
    assert "Usage: iresnet-export" in outcome.out + outcome.err
    assert all(command in outcome.out + outcome.err for command in COMMANDS)


@pytest.mark.parametrize(
    ("command", "own", "given"),
    [
        ("models", {}, "10000"),
        ("models", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("models", {"OMP_WAIT_POLICY": "ACTIVE"}, None),
        ("bench", {}, None),
    ],
)
def test_idle_threads_spin_shortly_but_where_latency_is_measured(
    command: str, own: dict[str, str], given: str | None, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sleeping at once would make the baseline of `quickstart` half as fast, and every speed-up twice as large."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    run(command, "--help")
    assert os.environ.get("GOMP_SPINCOUNT") == given
    assert os.environ.get("OMP_WAIT_POLICY") == own.get("OMP_WAIT_POLICY")


def test_version(run: Run) -> None:
    assert run("--version").out.strip() == f"iresnet-export {iresnet_export.__version__}"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nonsense"], 2, "No such command"),
        (["onnx", "--depth", "51"], 2, "There is no iresnet of depth 51"),
        (["onnx", "--arch", "vgg"], 2, "'vgg' is not one of 'resnet', 'resstage'"),
        (["onnx", "--checkpoint", "none.pt"], 2, "none.pt does not exist"),
        (["onnx", "--weights", "best"], 2, "takes `official`"),
        (["onnx", "--weights", "official", "--depth", "18"], 2, "50, 101"),
        (["onnx", "--weights", "official", "--checkpoint", "a.pt"], 2, "give one of them"),
        (["onnx", "--opset", "7", "--depth", "18"], 2, "choose one from 18"),
        (["trt", "--flavour", "tf"], 2, "'tf' is not one of 'tensorrt'"),
        (["trt", "--batch", "64"], 2, "between 1 and the largest one"),
        (["verify", "none.onnx"], 2, "none.onnx does not exist"),
        (["verify", "none.onnx", "--batch", "0"], 2, "--batch takes whole numbers"),
        (["verify", "none.onnx", "--device", "tpu"], 2, "--device takes"),
        (["bench"], 2, "none in artifacts/"),
        (["bench", "x", "--seconds", "-1"], 2, "--seconds"),
        (["bench", "x", "--mode", "speed"], 2, "--mode takes latency, throughput, server or cold"),
        (["bench", "x", "--mode", "server"], 2, "--p99-limit 15"),
        (["bench", "x", "--mode", "server", "--rate", "-4"], 2, "--rate takes requests a second, above 0, not -4"),
        (["bench", "x", "--mode", "server", "--rate", "many"], 2, "--rate takes numbers separated by commas"),
        (["bench", "x", "--rate", "4"], 2, "belong to mode server"),
        (["bench", "x", "--threads", "0"], 2, "--threads takes whole numbers"),
        (["bench", "x", "--max-accuracy-drop", "1"], 2, "add --recommend"),
        (["bench", "x", "--recommend", "--skip-verify"], 2, "leave out --skip-verify"),
        (["bench", "x.onnx"], 2, "x.onnx does not exist"),
        (["inspect", "."], 2, "is a folder"),
        (["train"], 2, "--data"),
        (["train", "--data", "nowhere"], 2, "nowhere"),
        (["train", "--data", "digits", "--lr-steps", "a"], 2, "--lr-steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_is_one_paragraph(arguments: list[str], status: int, message: str, run: Run) -> None:
    outcome = run(*arguments)
    text = " ".join(outcome.err.replace("│", " ").split())
    assert outcome.status == status, text
    assert message in text
    assert "Traceback" not in text
    assert not list(Path().glob("**/*.onnx"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_an_absent_gpu_is_exit_3(run: Run, artifacts: dict[str, Artifact]) -> None:
    outcome = run("verify", artifacts["onnx"].path, "--device", "cuda")
    assert outcome.status == 3
    assert "--device cpu" in outcome.err


@pytest.mark.parametrize(
    ("error", "status"),
    [(ZeroDivisionError("oops"), 4), (InputError("wrong"), 2), (ExportError("refused"), 1), (MemoryError("big"), 3)],
    ids=["bug", "input", "check", "memory"],
)
def test_debug_adds_the_traceback_and_changes_nothing_else(
    error: Exception, status: int, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A script that looks for a cause with it tells a failed check from a missing package, as without."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("iresnet_export.inspection.inspect_file", fail)
    plain, debugged = run("inspect", tmp_path / "x"), run("inspect", tmp_path / "x", "--debug")
    assert "Traceback (most recent call last)" in debugged.err
    assert "in fail" in debugged.err
    assert debugged.err.endswith(plain.err)
    assert (debugged.status, plain.status) == (status, status)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ZeroDivisionError("oops"), 4, "fault of iresnet-export"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device"), 3, "disk is full"),
        (MemoryError("big"), 3, "not enough memory"),
    ],
    ids=["bug", "interrupt", "disk", "memory"],
)
def test_exit_statuses_of_other_errors(
    error: BaseException, status: int, message: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("iresnet_export.inspection.inspect_file", fail)
    outcome = run("inspect", tmp_path / "x")
    assert outcome.status == status
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_export_verify_bench_inspect(run: Run, small_checkpoint: Path) -> None:
    for command, file in (("onnx", "iresnet18.onnx"), ("torchscript", "iresnet18.ts")):
        outcome = run(command, "--checkpoint", small_checkpoint)
        assert outcome.status == 0, outcome.err
        assert f"artifacts/{file}: iresnet18" in outcome.out
        assert "untrained" not in outcome.err
        assert "no BatchNorm is left" in outcome.out
    artifacts = sorted(Path("artifacts").glob("iresnet18.*[!n]"))
    outcome = run("verify", *[path for path in artifacts if path.suffix != ".json"], "--images", "32", "--json", "verify.json")
    assert outcome.status == 0, outcome.out
    assert outcome.out.count("pass") >= 2
    assert json.loads(Path("verify.json").read_text(encoding="utf-8"))["passed"] is True
    runs = ("--backend", "onnxruntime", "--backend", "torchscript", "--no-memory", "--no-limits")
    outcome = run("bench", "--seconds", "0.05", "--threads", "1", *runs, "--json", "bench.json")
    assert outcome.status == 0
    assert len(json.loads(Path("bench.json").read_text(encoding="utf-8"))["results"]) == 3
    outcome = run("inspect", "artifacts/iresnet18.onnx", "--json", "inspect.json")
    assert "intact" in outcome.out
    assert "20 Conv" in outcome.out
    assert "BatchNormalization" not in outcome.out
    inspected = json.loads(Path("inspect.json").read_text(encoding="utf-8"))
    assert inspected["identity"]["spec"]["depth"] == 18
    assert run("inspect", "artifacts/iresnet18.ts").status == 0


@pytest.mark.slow
def test_inspect_says_that_a_file_was_changed(run: Run, small_checkpoint: Path) -> None:
    run("onnx", "--checkpoint", small_checkpoint)
    path = Path("artifacts/iresnet18.onnx")
    path.write_bytes(path.read_bytes())
    assert "intact" in run("inspect", path).out
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    assert "STALE" in run("inspect", path).out
    assert run("verify", path, "--images", "32").status == 1
    assert run("inspect", small_checkpoint).status == 0


def test_no_fold_keeps_the_network_as_it_is(run: Run, small_checkpoint: Path) -> None:
    outcome = run("onnx", "--checkpoint", small_checkpoint, "--no-fold")
    assert outcome.status == 0
    assert "Folded" not in outcome.out
    assert "20 BatchNormalization" in run("inspect", "artifacts/iresnet18-nofold.onnx").out


@pytest.mark.slow
def test_untrained_exports_warn_and_verify(run: Run) -> None:
    outcome = run("onnx", "--depth", "18", "--image-size", "32", "--num-classes", "10", "--seed", "3", "-o", "out/u.onnx")
    assert outcome.status == 0
    assert "untrained (seed 3)" in outcome.err
    manifest = open_artifact(Path("out/u.onnx")).require_intact()
    assert manifest.weights.seed == 3
    assert (manifest.spec.num_classes, manifest.spec.image_size) == (10, 32)
    assert run("verify", "out/u.onnx", "--images", "32", "--batch", "4").status == 0


def test_existing_files_need_force(run: Run, small_checkpoint: Path) -> None:
    Path("x.onnx").write_text("mine", encoding="utf-8")
    outcome = run("onnx", "--checkpoint", small_checkpoint, "-o", "x.onnx")
    assert outcome.status == 2
    assert "--force" in outcome.err
    assert Path("x.onnx").read_text(encoding="utf-8") == "mine"
    assert run("onnx", "--checkpoint", small_checkpoint, "-o", "x.onnx", "--force").status == 0


def test_defaults_and_overrides_of_the_network(small_checkpoint: Path) -> None:
    found = source_from_options(None, None, small_checkpoint, None, 0, None, None, SpecOptions())
    assert found.spec.name == "iresnet18"
    assert source_from_options(None, None, small_checkpoint, None, 0, None, None, SpecOptions(image_size=64)).spec.image_size == 64
    plain = source_from_options(None, 18, None, None, 0, 3, None, SpecOptions(image_size=32))
    assert (plain.spec.name, plain.spec.num_classes, plain.spec.image_size) == ("iresnet18", 3, 32)


def test_official_weights_offline_are_exit_3(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import requests

    def no_network(*_arguments: object, **_options: object) -> None:
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.setenv("IRESNET_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", no_network)
    outcome = run("onnx", "--depth", "101", "--weights", "official")
    assert outcome.status == 3
    assert "https://drive.google.com/file/d/1cZ4XhwZfUOm_o0WZvenknHIqgeqkY34y/view" in outcome.err
    assert str(tmp_path / "cache") in outcome.err


def test_models_lists_all(run: Run) -> None:
    outcome = run("models")
    assert outcome.status == 0
    assert outcome.out.count(" G ") == 33
    assert "77.31 %" in outcome.out


@pytest.mark.slow
def test_train_and_eval(run: Run) -> None:
    outcome = run("train", "--data", "digits", "--epochs", "1", "--result-path", "run", "--workers", "0")
    assert outcome.status == 0, outcome.err
    assert {path.name for path in Path("run").iterdir()} >= {"log.csv", "last.pt", "best.pt"}
    assert len(Path("run/log.csv").read_text(encoding="utf-8").splitlines()) == 2
    assert run("train", "--data", "digits", "--epochs", "1", "--result-path", "run").status == 2
    run("onnx", "--checkpoint", "run/best.pt")
    outcome = run("eval", "run/best.pt", "artifacts/iresnet18.onnx", "--backend", "onnxruntime", "--json", "eval.json")
    assert outcome.status == 0, outcome.err
    first, second = json.loads(Path("eval.json").read_text(encoding="utf-8"))["results"]
    assert first["images"] == 500
    assert (first["top1"], first["top5"]) == (second["top1"], second["top5"])
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)


def test_a_diverged_checkpoint_is_refused(run: Run, small_spec: ModelSpec) -> None:
    network = untrained_network(small_spec)
    with torch.no_grad():
        network.fc.weight[0, 0] = float("nan")
    save_checkpoint(Path("nan.pt"), network)
    outcome = run("onnx", "--checkpoint", "nan.pt")
    assert outcome.status == 2
    assert "fc.weight holds 1 value that is NaN" in outcome.err


def test_a_quickstart_that_is_stopped_speaks_of_no_option_that_it_has_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise PreemptedError("Go on with the same command and --resume.")

    monkeypatch.setattr("iresnet_export.quickstart.train", stopped)
    outcome = run("quickstart")
    assert outcome.status == 75
    assert "Run it again" in outcome.err
    assert "--resume" not in outcome.err


@pytest.mark.slow
def test_quickstart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whatever_is_measured_counts(monkeypatch)  # its page shows speeds then
    outcome = run("quickstart", "--epochs", "2", "--seconds", "0.05")
    assert outcome.status == 0, outcome.err + outcome.out
    for text in ("best.pt", "iresnet18.onnx", "iresnet18.ts", "reference", "pass", "baseline", "Fastest ", "int8"):
        assert text in outcome.out
    exports = [f"artifacts/iresnet18{rest}" for rest in (".onnx", ".ts", "-bf16.onnx", "-int8-cpu.onnx")]
    for file in ("run/best.pt", *exports, "verify.json", "eval.json", "bench.json", "report.html"):
        assert (Path("quickstart") / file).exists()
    assert "times as fast as eager PyTorch" in Path("quickstart/report.html").read_text(encoding="utf-8")
    Path("other").mkdir()
    Path("other/mine").touch()
    assert run("quickstart", "-o", "other").status == 2
