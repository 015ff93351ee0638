"""Temporary files and folders: gone at the end, and what a killed process left is gone at the next beginning."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from iresnet_models import temporary
from iresnet_models.files import replacing, write_bytes
from iresnet_models.temporary import temporary_file, temporary_folder

_KILLED = (
    "import os, signal, sys; from pathlib import Path; from iresnet_models.files import replacing\n"
    "with replacing(Path(sys.argv[1])) as temporary:\n"
    "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
)

_WRITES = "import sys; from pathlib import Path; from iresnet_models.files import write_bytes; write_bytes(Path(sys.argv[1]), b'x')"


def _left_behind(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".partial")]


def test_what_a_killed_process_left_is_swept_by_the_next_that_writes_there(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "file")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(_left_behind(tmp_path)) == 1
    write_bytes(tmp_path / "another", b"x")
    assert os.listdir(tmp_path) == ["another"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "one") as mine:
        mine.write_bytes(b"mine")
        subprocess.run([sys.executable, "-c", _WRITES, str(tmp_path / "two")], check=True)
        assert mine.exists()
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]
    assert (tmp_path / "one").read_bytes() == b"mine"


def test_another_machines_files_are_swept_by_age_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its locks may not be seen from here."""
    other = tmp_path / ".file.00000000-abcdefgh.partial"
    other.write_bytes(b"half")
    write_bytes(tmp_path / "new", b"x")
    assert other.exists()
    long_ago = time.time() - 25 * 3600
    os.utime(other, (long_ago, long_ago))
    write_bytes(tmp_path / "new", b"x")
    assert not other.exists()


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    here = temporary._HERE
    for name in (".partial", ".notes.partial", f"notes.{here}-abcdefgh.partial", f".notes.{here}-abcdefgh.partial.txt"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "kept").write_bytes(b"mine")
    (tmp_path / f".link.{here}-abcdefgh.partial").symlink_to(tmp_path / "kept")
    before = set(os.listdir(tmp_path))
    write_bytes(tmp_path / "new", b"x")
    assert set(os.listdir(tmp_path)) == before | {"new"}


def test_folders_of_killed_processes_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"iresnet-export-{temporary._HERE}-abcdefgh").mkdir()
    (tmp_path / f"iresnet-export-{temporary._HERE}-abcdefgh" / "large").write_bytes(b"left")
    (tmp_path / "iresnet-export-mine").mkdir()
    with temporary_folder() as first:
        with temporary_folder() as second:
            assert sorted(os.listdir(tmp_path)) == sorted([first.name, second.name, "iresnet-export-mine"])
        assert first.exists()
    assert os.listdir(tmp_path) == ["iresnet-export-mine"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127, "\udcff" * 200])
def test_long_names_and_names_that_are_no_text(name: str, tmp_path: Path) -> None:
    write_bytes(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


def test_the_file_is_hidden_and_goes_with_an_error(tmp_path: Path) -> None:
    def fail_inside() -> None:
        with temporary_file(tmp_path, "x") as made:
            assert made.name.startswith(".x.")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert os.listdir(tmp_path) == []
