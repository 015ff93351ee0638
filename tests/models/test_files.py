"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.files import read_json, replacing, require_file, write_bytes, write_json


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
