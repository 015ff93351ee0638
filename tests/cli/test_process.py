"""The program as a process: streams that nobody reads, signals, locales, limits of memory and of files, users unknown."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome

from iresnet_export.cli.explaining import explained
from iresnet_export.cli.process import Stream, be_somebody
from iresnet_export.errors import ArtifactError, ExportError, UnavailableError

Run = Callable[..., Outcome]
_PROGRAM = [sys.executable, "-m", "iresnet_export"]


def _shell(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A script of bash, in which "$@" is a command of the program."""
    command = ["bash", "-c", script, "bash", *_PROGRAM, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("script", "status", "out"),
    [
        ('"$@" | true; exit ${PIPESTATUS[0]}', 141, b""),
        ('"$@" 2>&1 | true; exit ${PIPESTATUS[0]}', 141, b""),
        ('"$@" >&-', 141, b""),
        ('"$@" 2>&-', 0, None),
        ('"$@" >/dev/full', 3, b""),
    ],
)
def test_output_that_nobody_reads(script: str, status: int, out: bytes | None) -> None:
    done = _shell(script, "models")
    assert done.returncode == status
    assert out is None or done.stdout == out
    assert b"Traceback" not in done.stderr
    assert done.stderr == b"" or status == 3


def test_a_reader_that_goes_while_much_is_printed() -> None:
    reading, writing = os.pipe()
    with subprocess.Popen([*_PROGRAM, "--help"], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        os.close(reading)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(("closed", "status"), [(0, 141), (1, 141), (2, 2), (3, 3), (75, 75)])
def test_only_success_and_failed_checks_become_141(
    closed: int, status: int, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`verify ... | head` must not look like failed parity; an error, or a run that was preempted, is still told."""

    def end(*_: object, **_options: object) -> None:
        sys.stdout.write("a line\n")
        raise SystemExit(closed)

    def gone(_stream: Stream, _text: str) -> int:
        _stream.error = BrokenPipeError(errno.EPIPE, "gone")
        return 0

    (tmp_path / "x").touch()
    monkeypatch.setattr("iresnet_export.inspection.inspect_file", end)
    monkeypatch.setattr(Stream, "write", gone)
    assert run("inspect", tmp_path / "x").status == status


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C.UTF-8"},
    ],
    ids=lambda environment: " ".join(f"{key}={value}" for key, value in environment.items()),
)
def test_locales_and_names_that_are_no_text(environment: dict[str, str]) -> None:
    done = _shell('"$@"', "models", **environment)
    assert done.returncode == 0, done.stderr
    assert b"resnet" in done.stdout
    name = b"caf\xe9.json"
    done = subprocess.run([*_PROGRAM, "report", name], env=os.environ | environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"does not exist" in done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_clean_up(name: str, run: Run, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_export.backends.onnx.format import Onnx

    number = signal.Signals[name]

    def kill(*_: object) -> None:
        assert any(entry.endswith(".partial") for entry in os.listdir("out"))
        os.kill(os.getpid(), number)
        raise AssertionError("went on")

    monkeypatch.setattr(Onnx, "write", kill)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        outcome = run("onnx", "--checkpoint", small_checkpoint, "-o", "out/x.onnx")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert outcome.status == 128 + number
    assert name in outcome.err
    assert os.listdir("out") == []


def test_a_signal_that_is_ignored_stays_ignored(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """nohup."""

    def look(*_: object, **_options: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        raise SystemExit(0)

    (tmp_path / "x").touch()
    monkeypatch.setattr("iresnet_export.inspection.inspect_file", look)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("inspect", tmp_path / "x").status == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def _from(cause: Exception, error: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), 3, "memory"),
        (RuntimeError("could not create a primitive"), 3, "memory"),
        (RuntimeError("std::bad_alloc"), 3, "memory"),
        (RuntimeError("bad allocation"), 3, "memory"),
        (RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"), 3, "memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 3, "memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 3, "memory"),
        (_from(RuntimeError("bad allocation"), ArtifactError("not a whole file")), 3, "memory"),
        (_from(RuntimeError("can't allocate memory"), ExportError("refused")), 3, "memory"),
        (_from(RuntimeError("bad allocation"), UnavailableError("as it was said")), 3, "as it was said"),
        (RuntimeError("can't start new thread"), 3, "threads"),
        (OSError(errno.EMFILE, "Too many open files", "x"), 3, "ulimit -n"),
        (RuntimeError("unable to open shared memory object: Too many open files (24)"), 3, "ulimit -n"),
        (_from(OSError(errno.EMFILE, "Too many open files", "x"), ArtifactError("damaged")), 3, "ulimit -n"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "permissions"),
        (OSError(errno.EROFS, "Read-only file system", "x"), 2, "Read-only"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), 2, "Is a directory"),
        (OSError(errno.EIO, "Input/output error"), 3, "fails"),
        (ConnectionResetError("reset"), 3, "connection"),
        (UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates not allowed"), 2, "UTF-8"),
        (ArtifactError("Out of memory is the name of a file"), 2, "name of a file"),
        (ZeroDivisionError("ours"), 4, "fault"),
        (FileNotFoundError("without a name"), 4, "fault"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Exception) else None,
)
def test_what_errors_mean(error: Exception, status: int, message: str) -> None:
    said, found = explained(error, "--debug")
    assert (found, message in said) == (status, True), said


def test_a_folder_that_was_removed_under_us(run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    outcome = run("onnx", "--checkpoint", small_checkpoint)
    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err


def test_folders_that_may_not_be_written(small_checkpoint: Path, tmp_path: Path) -> None:
    """Root may write anywhere, so as root it runs without root's privileges."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    command = [*_PROGRAM, "inspect", str(small_checkpoint), "--json", str(folder / "r.json")]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("as root this needs setpriv, to lay down its privileges")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "may not write to the folder" in done.stderr


def test_a_user_whom_the_system_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Docker's --user 12345: getpass, platformdirs and OpenVINO's telemetry ask for a name and a home."""
    import getpass
    import pwd

    def unknown(_number: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.setenv(name, "")
    be_somebody()
    assert getpass.getuser() == f"uid{os.getuid()}"
    home = Path(os.environ["HOME"])
    assert home.parent == tmp_path
    assert home.stat().st_mode & 0o077 == 0
    home.chmod(0o777)  # whoever prepared it may be another
    monkeypatch.delenv("HOME")
    be_somebody()
    assert Path(os.environ["HOME"]) not in (home, Path())


@pytest.mark.slow
@pytest.mark.parametrize(("command", "suffix"), [("torchscript", "ts"), ("pt2", "pt2"), ("onnx", "onnx")])
def test_a_limit_on_files_is_as_a_full_disk(command: str, suffix: str, small_checkpoint: Path) -> None:
    """A real one, by the system. Torch's own writer of files ended the process here (134)."""
    Path("out").mkdir()
    done = _shell('trap "" XFSZ; ulimit -f 1000; "$@"', command, "--checkpoint", small_checkpoint, "-o", f"out/x.{suffix}")
    assert done.returncode == 3, done.stderr
    assert b"limit on the size of files" in done.stderr
    assert os.listdir("out") == []
