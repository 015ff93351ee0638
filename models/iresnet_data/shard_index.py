"""What lies in a shard: its images and their classes, found once and kept in the cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from iresnet_data.addresses import reason_of
from iresnet_models.cache import cache_folder
from iresnet_models.errors import InputError, IResNetError
from iresnet_models.files import write_json
from iresnet_models.image_files import image_suffixes, is_image_name, printable, require_regular

_MOST_CLASSES = 1_000_000

_SCANNING = 2
"""Of the rules by which a shard is read, so that what other rules found is not taken from the cache."""

Row = tuple[str, int, int, int]
"""Name, offset, size and class of an image in a shard."""


def indexed(path: Path) -> tuple[Path, list[Row]]:
    """Name, offset, size and class of every image, found once and kept in the cache."""
    require_shard(path)
    status = path.stat()
    return path, _index_of(str(path.resolve()), status.st_size, status.st_mtime_ns)


@cache
def _index_of(path: str, size: int, changed: int) -> list[Row]:
    """From the cache, or read now. A cache that cannot be read or written costs time, nothing else."""
    described = f"{_SCANNING}\n{path}\n{size}\n{changed}".encode("utf-8", "surrogatepass")
    try:
        kept = cache_folder().expanduser() / "shards" / f"{hashlib.sha256(described).hexdigest()[:32]}.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(kept.with_suffix(".lock"))
        lock.acquire()
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return _scanned(Path(path))
    with lock:
        lock.release()  # `with` has acquired it a second time
        rows = _kept_rows(kept, size)
        if rows is None:
            rows = _scanned(Path(path))
            with contextlib.suppress(IResNetError, OSError):
                write_json(kept, {"images": rows})
    return rows


def _kept_rows(path: Path, size: int) -> list[Row] | None:
    """An index that was kept; None if there is none, or it is not one of a shard of `size` bytes."""
    try:
        rows = [(name, at, length, label) for name, at, length, label in json.loads(path.read_bytes())["images"]]
        sound = rows and all(
            isinstance(name, str)
            and type(at) is type(length) is type(label) is int
            and 0 <= at <= at + length <= size
            and length >= 0
            and 0 <= label < _MOST_CLASSES
            for name, at, length, label in rows
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return rows if sound else None


def _scanned(path: Path) -> list[Row]:
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    dotted: dict[str, str] = {}  # `a.seg.png` is another file of the sample `a`, as WebDataset has it
    try:
        with tarfile.open(path, "r:") as archive:
            for member in _members(path, archive):
                key, kind = _sample(member.name)
                if member.isdir() or kind is None:
                    continue
                if not member.isreg() or member.issparse():
                    raise _refused(path, member.name, f"is {_kind_of(member)} and no file: pack the files themselves (tar -h)")
                if "." in kind:
                    dotted.setdefault(key, member.name)
                elif key in (labels if kind == "cls" else images):
                    raise _refused(path, member.name, "is the second under this name: a sample has one image and one class")
                elif kind == "cls":
                    labels[key] = _class_in(path, member.name, archive.extractfile(member))
                else:
                    images[key] = member.name, member.offset_data, member.size
    except IResNetError:
        raise
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    alone = next((name for key, name in dotted.items() if key not in images or key not in labels), None)
    if alone is not None:
        raise _refused(path, alone, "has a dot within: what follows the first dot says what kind of file it is; rename it")
    lonely = sorted(images.keys() ^ labels.keys())
    if lonely or not images:
        found = f"{len(lonely)} names have only one of the two, such as {printable(lonely[0])}" if lonely else "there is none"
        raise InputError(f"The shard {printable(path)} should hold an image and its .cls under each name, but {found}.")
    return [(name, offset, size, labels[key]) for key, (name, offset, size) in images.items()]


def images_in_shard(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each image, in the shard's order, whether a class lies beside it or not; hidden ones are none."""
    try:
        with tarfile.open(path, "r:") as archive:
            for member in _members(path, archive):
                name = member.name.rpartition("/")[2]
                if member.isreg() and not member.issparse() and is_image_name(name):
                    yield member.name, member.offset_data, member.size
    except _DAMAGED as error:
        raise _damaged(path, error) from error


_DAMAGED = (tarfile.TarError, OSError, ValueError, EOFError, OverflowError)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"The shard {printable(path)} is damaged ({error}).", "Remove it, and get it again.")


def _members(path: Path, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members of an archive that ends where it says; ReadError for one that does not."""
    end = -1
    for member in archive:
        if member.size < 0 or member.offset <= end:  # tarfile would go round in circles
            raise tarfile.ReadError(f"the size of {member.name[:80]!r} cannot be")
        end = member.offset
        yield member
    _require_end(path, archive.offset)


def _sample(name: str) -> tuple[str, str | None]:
    """What a file in a shard belongs to, and what it is: cls, or the ending of an image, after its first dot; None for others."""
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    ending = ending.lower()
    is_one = bool(stem) and (ending.rpartition(".")[2] == "cls" or f".{ending}".endswith(image_suffixes()))
    return f"{folder or '.'}/{stem}", ending if is_one else None


def _class_in(path: Path, name: str, file: Any) -> int:
    content: bytes = file.read(32)
    match = re.fullmatch(rb"(?:\xef\xbb\xbf)?\s*([0-9]{1,9})\s*", content)
    if match is None or int(match[1]) >= _MOST_CLASSES:
        found = repr(content.decode("utf-8", "backslashreplace"))
        raise _refused(path, name, f"holds {found}, and not the number of a class: 0 to {_MOST_CLASSES - 1}, in digits")
    return int(match[1])


def _kind_of(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"a {'symbolic' if member.issym() else 'hard'} link"
    return "a sparse file" if member.issparse() else "a named pipe" if member.isfifo() else "a device"


def _refused(path: Path, name: str, what: str) -> InputError:
    return InputError(f"In the shard {printable(path)}, {printable(name)} {what}.")


def _require_end(path: Path, offset: int) -> None:
    """Raises ReadError if the archive does not end where `tarfile` stopped: it takes a bad or a missing header for the end."""
    with path.open("rb") as file:
        file.seek(offset)
        rest = file.read(tarfile.BLOCKSIZE)
        whole = len(rest) == tarfile.BLOCKSIZE
        while rest and whole:
            whole = not rest.strip(b"\0")
            rest = file.read(1 << 20)
    if not whole:
        raise tarfile.ReadError(f"its list of files breaks off at byte {offset} of {path.stat().st_size}")


def require_shard(path: Path) -> None:
    """InputError for what is no file."""
    try:
        require_regular(path)
    except FileNotFoundError:
        raise InputError(f"The shard {printable(path)} does not exist;", "check the pattern.") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"The shard {printable(path)} cannot be read ({reason_of(error)}).", "Remove it, or name others."
        ) from error
