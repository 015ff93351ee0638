"""Image files in folders: one rule of which there are, for training, evaluation, calibration and prediction alike."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections import Counter
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from PIL import Image

from iresnet_models.errors import InputError

_ALWAYS = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
_BY_PLUGIN = {".avif": "Pillow 11.3", ".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif"}
"""What Pillow reads where a plug-in is there, and what brings it."""

_SHOWN = 6
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))


@dataclass(frozen=True)
class ImageFiles:
    """The image files of a folder, sorted by folder and name, and how many others end in what; hidden ones are neither."""

    paths: tuple[str, ...]
    others: Counter[str]


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """What the names of images end in, in either case: what Pillow can read here. Registers Pillow's plug-in for HEIC."""
    with contextlib.suppress(ImportError, OSError, AttributeError):  # it is not here, or does not fit the machine
        import_module("pillow_heif").register_heif_opener()
    known = Image.registered_extensions()
    return (*_ALWAYS, *(suffix for suffix in _BY_PLUGIN if suffix in known))


def is_image_name(name: str) -> bool:
    """Whether a file of this name, without its folders, is taken for an image."""
    return not name.startswith(".") and name.lower().endswith(image_suffixes())


def image_files(folder: str | Path, *, deep: bool = True) -> ImageFiles:
    """The image files in a folder, and, where `deep`, in those in it, in the order in which torchvision's ImageFolder takes them.

    Files and folders whose names begin with a dot are passed over. Links to folders are followed; a folder that is reached twice,
    as through a link that leads back, is read once. What is no regular file but is named like an image is listed, so that it is
    found unreadable. InputError names a folder that cannot be read.
    """
    found: list[tuple[str, list[str]]] = []
    others: Counter[str] = Counter()
    waiting, seen = [os.fspath(folder)], set[tuple[int, int]]()
    while waiting:
        place = waiting.pop()
        images: list[str] = []
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(place) as entries:
                visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
        except (OSError, ValueError) as error:
            raise unsearchable(place, error) from error
        for entry in visible:
            if _is_folder(entry):
                waiting += [entry.path] if deep else []
            elif is_image_name(entry.name):
                images.append(entry.path)
            else:
                others[os.path.splitext(entry.name)[1].lower()] += 1
        found.append((place, images))
    return ImageFiles(tuple(path for _, images in sorted(found) for path in images), others)


def subfolders(folder: str | Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted, without hidden ones. InputError names a folder that cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(entry.name for entry in entries if _is_folder(entry) and not entry.name.startswith(".")))
    except (OSError, ValueError) as error:
        raise unsearchable(folder, error) from error


def left_out(others: Counter[str]) -> str | None:
    """One sentence about files that were passed over because of what they end in; None where there are none."""
    if not others:
        return None
    count = sum(others.values())
    endings = sorted(others, key=lambda ending: (-others[ending], ending))
    named = [printable(ending)[:12] if ending else "nothing" for ending in endings[:_SHOWN]]
    readers = dict.fromkeys(
        f"{_BY_PLUGIN[ending]} reads {ending}" for ending in endings if ending in _BY_PLUGIN and ending not in image_suffixes()
    )
    more = ", ..." if len(endings) > _SHOWN else ""
    return (
        f"Left out: {count} file{'s' if count > 1 else ''} that end{'' if count > 1 else 's'} in {', '.join(named)}{more}"
        f"{' (' + '; '.join(readers) + ')' if readers else ''}."
    )


def require_regular(path: str | Path) -> None:
    """Raises OSError or ValueError, with the reason, for what is no file that can be read through: opening a pipe would hang."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise ValueError("it is a link to a file that is not there") from None
        raise
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
        raise ValueError(f"it is {kind} and no file")


def printable(path: str | Path) -> str:
    """A path with `/` on every system, in one line; bytes in it that are no text appear as `\\udc..` escapes."""
    text = path if isinstance(path, str) else path.as_posix()
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def unsearchable(folder: str | Path, error: Exception) -> InputError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return InputError(f"The folder {printable(folder)} cannot be searched ({reason}).", "Change its permissions, or name another.")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself, say
        return False
