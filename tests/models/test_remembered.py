"""Notes in the user's state folder: found again by hash, bounded, and never in the way."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest

from iresnet_models import remembered
from iresnet_models.remembered import recall, remember

HASH, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_note_is_found_by_kind_and_hash_and_the_last_one_counts() -> None:
    remember("data", HASH, "photos/")
    remember("data", HASH, "/photos of 2026/\udcff")
    assert recall("data", HASH) == "/photos of 2026/\udcff"
    assert recall("checkpoint", HASH) is None
    assert recall("data", OTHER) is None


@pytest.mark.parametrize("sha256", ["", "../" * 10 + "etc/passwd", "AB" * 32, "ab" * 32 + "\n", "a" * 63])
def test_what_is_no_hash_leads_nowhere(sha256: str, state: Path) -> None:
    remember("data", sha256, "photos")
    assert recall("data", sha256) is None
    assert not state.exists()


def test_the_oldest_notes_go_first(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST_NOTES", 3)
    hashes = [f"{number:064x}" for number in range(5)]
    for number, sha256 in enumerate(hashes):
        remember("data", sha256, str(number))
        note = state / "iresnet-export" / "remembered" / "data" / sha256
        if note.exists():
            os.utime(note, ns=(number, number))
    assert [recall("data", sha256) for sha256 in hashes] == [None, None, "2", "3", "4"]


@pytest.mark.parametrize("damage", [b"", b"x" * 5000, b"a\0b"])
def test_a_damaged_note_is_none(damage: bytes, state: Path) -> None:
    remember("data", HASH, "photos")
    (state / "iresnet-export" / "remembered" / "data" / HASH).write_bytes(damage)
    assert recall("data", HASH) is None


def test_a_state_folder_that_cannot_be_written_is_passed_over(state: Path) -> None:
    state.write_text("a file where the folder should be")
    remember("data", HASH, "photos")
    assert recall("data", HASH) is None


def test_without_a_home_nothing_is_left_in_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless(_: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    for place in (homeless, lambda _: Path("~/.local/state/iresnet-export")):
        monkeypatch.setattr(platformdirs, "user_state_path", place)
        remember("data", HASH, "photos")
        assert recall("data", HASH) is None
        assert not list(tmp_path.iterdir())


def test_commands_that_run_side_by_side_lose_no_note() -> None:
    hashes = [f"{number:064x}" for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda sha256: remember("data", sha256, sha256[-2:]), hashes))
    assert [recall("data", sha256) for sha256 in hashes] == [sha256[-2:] for sha256 in hashes]
