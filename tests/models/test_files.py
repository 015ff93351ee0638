"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iresnet_models import files
from iresnet_models.errors import InputError, ReaderGoneError, UnavailableError
from iresnet_models.files import read_json, replacing, require_file, write_bytes, write_json, write_text


def test_success_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]


def test_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_kill_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    program = (
        "import sys, os, signal; from pathlib import Path; from iresnet_models.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_said_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(UnavailableError, match=r"disk is full.*untouched"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_bytes() == b"old"


def test_a_full_disk_under_torch_save_is_said(small_checkpoint: Path, tmp_path: Path) -> None:
    """A real one: a file size limit makes torch's archive writer fail in the middle."""
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from iresnet_models import load_checkpoint, save_checkpoint\n"
        "model = load_checkpoint(sys.argv[1]).model\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from iresnet_models.errors import IResNetError\n"
        "try: save_checkpoint(Path(sys.argv[2]), model)\n"
        "except IResNetError as error: print(error)"
    )
    target = tmp_path / "out.pt"
    target.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", program, small_checkpoint, target], check=True, capture_output=True, text=True)
    assert "could not be written" in done.stdout or "cannot be written" in done.stdout
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.pt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "below", b"x")


def test_json_is_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"value": float("nan")})
    assert not (tmp_path / "file").exists()
    (tmp_path / "bad").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_json(tmp_path / "bad", "The manifest")


def test_files_that_are_needed(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for name, reason in (("", "is a folder"), ("none", "does not exist"), ("empty", "is empty")):
        with pytest.raises(InputError, match=reason):
            require_file(tmp_path / name, "The checkpoint")


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for old in (None, b"old"):
        if old is not None:
            (tmp_path / "there" / "target").write_bytes(old)
        link = tmp_path / f"link{old}"
        link.symlink_to(Path("there") / "target")
        write_bytes(link, b"new")
        assert link.is_symlink()
        assert link.read_bytes() == b"new"
        assert os.listdir(tmp_path / "there") == ["target"]


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"x" * 100_000)
    reader.join()
    assert found == [b"x" * 100_000]
    assert pipe.is_fifo()
    with pytest.raises(InputError, match="is no file"), replacing(pipe):
        pass


def test_a_pipe_whose_reader_has_gone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: os.close(os.open(pipe, os.O_RDONLY)))
    reader.start()
    with pytest.raises(ReaderGoneError):
        write_bytes(pipe, b"x" * 10_000_000)  # more than it holds without a reader
    reader.join()


def test_open_files_by_their_numbers_are_written_through(tmp_path: Path) -> None:
    """/dev/stdout, redirected to a file: replacing that file, or the link in /dev, would lose what is printed."""
    program = (
        "import sys; from pathlib import Path; from iresnet_models.files import write_bytes\n"
        "print('before'); write_bytes(Path(sys.argv[1]), b'report\\n'); print('after')"
    )
    (tmp_path / "link").symlink_to("/dev/stdout")
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", str(tmp_path / "link")):
        with (tmp_path / "out").open("wb") as out:
            subprocess.run([sys.executable, "-c", program, name], check=True, stdout=out)
        assert (tmp_path / "out").read_bytes() == b"before\nreport\nafter\n"
    assert Path("/dev/stdout").is_symlink()
    with pytest.raises(InputError, match="is no file"), replacing(Path("/dev/stdout")):
        pass


def test_devices_are_written_through_or_refused(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to(os.devnull)
    write_bytes(tmp_path / "null", b"x")
    assert Path(os.devnull).is_char_device()
    assert (tmp_path / "null").is_symlink()
    with pytest.raises(InputError, match="is a folder"):
        write_bytes(tmp_path, b"x")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "loop", b"x")


def test_names_that_are_no_text_leave_valid_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"caf\udce9": ["\ud800x", "\U0001f600 ×", 1.5]})
    assert read_json(tmp_path / "a.json", "It") == {"caf\ufffd": ["\ufffdx", "\U0001f600 ×", 1.5]}
    write_text(tmp_path / "b.md", "caf\udce9 ×")
    assert (tmp_path / "b.md").read_text(encoding="utf-8") == "caf\ufffd ×"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_way_of_being_full_is_said(number: int, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="disk is full"), replacing(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_pipe_waits_for_its_reader_and_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, heard = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Timer(0.2, lambda: heard.append(pipe.read_bytes()))
    reader.start()
    files.write_bytes(pipe, b"said")
    reader.join()
    assert heard == [b"said"]
    monkeypatch.setattr(files, "READER_PATIENCE", 0.1)
    with pytest.raises(UnavailableError, match="a pipe that nobody has read"):
        files.write_bytes(pipe, b"said")
