"""What only this user's machine knows of a file, kept outside it by the file's hash: where it was last seen, what it was made with.

A file from a stranger may name any place; a note in the user's own state folder was written by what this user ran. Every note is
a file of its own, replaced whole, so that commands that run side by side lose none. Notes are a convenience: where they cannot be
written or read, they are passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

import platformdirs

from iresnet_models.errors import IResNetError
from iresnet_models.files import write_bytes

MOST_NOTES = 1000
"""Of one kind. The oldest go first."""

_LONGEST = 4096


def remember(kind: str, sha256: str, value: str) -> None:
    """Notes `value` for the file with this hash; never raises for a folder that cannot be written."""
    place, encoded = _place(kind, sha256), value.encode("utf-8", "surrogateescape")
    if place is None or len(encoded) > _LONGEST:
        return
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(place, encoded)
        _remove_oldest(place.parent)
    except (OSError, IResNetError):
        return


def recall(kind: str, sha256: str) -> str | None:
    """What was noted last for the file with this hash. It may be out of date: whoever uses it checks what is there."""
    place = _place(kind, sha256)
    try:
        if place is None or not place.is_file():
            return None
        with place.open("rb") as file:
            found = file.read(_LONGEST + 1)
    except OSError:
        return None
    if not found or len(found) > _LONGEST or b"\0" in found:
        return None
    return found.decode("utf-8", "surrogateescape")


def _place(kind: str, sha256: str) -> Path | None:
    """The file of a note; None for what is no hash, and where this user has no state folder."""
    if re.fullmatch(r"[0-9a-f]{64}", sha256) is None:
        return None
    try:
        folder = platformdirs.user_state_path("iresnet-export")
    except RuntimeError:  # a user without a home
        return None
    return folder / "remembered" / kind / sha256 if folder.is_absolute() else None


def _remove_oldest(folder: Path) -> None:
    notes = [(entry.stat().st_mtime_ns, entry) for entry in folder.iterdir()]
    for _, entry in sorted(notes)[:-MOST_NOTES]:
        entry.unlink(missing_ok=True)
