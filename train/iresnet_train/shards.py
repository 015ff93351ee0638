"""WebDataset shards: tar files of images, each beside its class (`0001.jpg`, `0001.cls`), local or fetched.

Each shard is read through once for the places of its images; after that they are read wherever they lie, in any order, so that
a run is shuffled, divided among processes and resumed exactly, as with single files.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import http.client
import json
import math
import os
import re
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections import Counter
from functools import cache
from pathlib import Path
from shutil import copyfileobj
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from PIL import Image

from iresnet_models.errors import InputError, IResNetError, UnavailableError
from iresnet_models.files import replacing, write_json
from iresnet_models.image_files import image_suffixes, printable, require_regular, unsearchable
from iresnet_models.official import CACHE_VARIABLE, cache_folder
from iresnet_models.preprocessing import load_image
from iresnet_models.spec import ModelSpec

_WINDOW = 8
"""Shards that are shuffled together."""

_MOST_SHARDS = 100_000
"""Names that a pattern may stand for; the largest data sets of images have some ten thousand shards."""

_MOST_CLASSES = 1_000_000
_LONGEST_NAME = 4096
"""Characters of a name of data: as many as a path may have."""

_SCANNING = 2
"""Of the rules by which a shard is read, so that what other rules found is not taken from the cache."""

_BRACES = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")

Row = tuple[str, int, int, int]
"""Name, offset, size and class of an image in a shard."""


class ShardMember(NamedTuple):
    """Where the bytes of an image lie."""

    shard: str
    name: str
    offset: int
    size: int

    @property
    def place(self) -> str:
        """What messages call it."""
        return os.path.join(self.shard, self.name.lstrip("/"))

    def content(self) -> bytes:
        """InputError where the shard is there no more, or cannot be read."""
        try:
            with Path(self.shard).open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise InputError(
                f"The shard {printable(self.shard)} cannot be read any more ({error.strerror}). Put it back."
            ) from error
        if len(content) != self.size:
            raise InputError(f"The shard {printable(self.shard)} has become shorter while it was in use. Put it back.")
        return content

    def opened(self) -> Image.Image:
        return load_image(Path(self.place), self.content())


def is_pattern(data: str) -> bool:
    """Whether `data` names shards: `train-{0000..0146}.tar`, a URL of such, or `pipe:` and a command that writes one."""
    return data.endswith(".tar") or data.startswith("pipe:")


def has_shards(data: str) -> bool:
    """Whether `data` is such a pattern, or a folder of shards named train-*.tar or val-*.tar."""
    require_name(data)
    return is_pattern(data) or bool(_in_folder(data, "train") or _in_folder(data, "val"))


def require_name(data: str) -> None:
    """InputError for what no file, address or command can be called."""
    if not data.strip() or "\0" in data or len(data) > _LONGEST_NAME:
        found = "nothing" if not data.strip() else f"{data[:40]!r}{'...' if len(data) > 40 else ''} ({len(data)} characters)"
        raise InputError(
            "Data go by the name of a folder, a pattern of shards or an embedded data set, without NUL and of up to "
            f"{_LONGEST_NAME} characters; {found} was given."
        )


class Shards:
    """The images of all shards of a part ("train" or "val"; a pattern is all of one part), in order, with their classes.

    `names`: of the classes, from the folder's classes.txt; None without one.
    """

    def __init__(self, data: str, part: str) -> None:
        paths = [_local(address) for address in expanded(data)] if is_pattern(data) else _in_folder(data, part)
        if not paths:
            raise InputError(f"{printable(data)} has no shards named {part}-*.tar; expected train-*.tar and val-*.tar.")
        indexed = [_index(path) for path in paths]
        self.images = [ShardMember(str(path), name, at, size) for path, rows in indexed for name, at, size, _ in rows]
        self.labels = [label for _, rows in indexed for _, _, _, label in rows]
        self._sizes = [len(rows) for _, rows in indexed]
        self.names = None if is_pattern(data) else _listed_classes(Path(data) / "classes.txt")

    @property
    def num_classes(self) -> int:
        return max(self.labels) + 1 if self.names is None else len(self.names)

    def require_classes_of(self, spec: ModelSpec) -> None:
        if max(self.labels) >= spec.num_classes:
            raise InputError(
                f"The shards have the class {max(self.labels)}, but this {spec.name} has {spec.num_classes} classes, from 0. "
                "Name the data that it was trained on, or a network of these classes."
            )

    def order(self, generator: torch.Generator) -> list[int]:
        """All indices: shards shuffled, and the images of every few of them among each other."""
        starts = [sum(self._sizes[:shard]) for shard in range(len(self._sizes))]
        shards = torch.randperm(len(starts), generator=generator).tolist()
        found: list[int] = []
        for first in range(0, len(shards), _WINDOW):
            window = [starts[shard] + at for shard in shards[first : first + _WINDOW] for at in range(self._sizes[shard])]
            found += [window[at] for at in torch.randperm(len(window), generator=generator).tolist()]
        return found


def expanded(pattern: str) -> list[str]:
    """`a-{08..10}.tar` as three names; braces may come several times. InputError where there would be too many."""
    require_name(pattern)
    _require_few(pattern, math.prod(len(_counted(pattern, match)) for match in _BRACES.finditer(pattern)))
    names = [pattern]
    while any("{" in name for name in names):
        found = [(name, _BRACES.search(name)) for name in names]
        if not any(match for _, match in found):
            break
        ranges = [(name, match, _counted(pattern, match)) for name, match in found]
        _require_few(pattern, sum(len(numbers) for _, _, numbers in ranges))  # what lies within braces may have made new ones
        names = [
            name if match is None else f"{name[: match.start()]}{number:0{len(match[1])}}{name[match.end() :]}"
            for name, match, numbers in ranges
            for number in numbers
        ]
    return names


def _require_few(pattern: str, count: int) -> None:
    if count > _MOST_SHARDS:
        found = f"{count:,}" if count < 10**18 else "more than 10^18"
        raise InputError(
            f"{printable(pattern)} stands for {found} shards or more, and up to {_MOST_SHARDS:,} are taken; check its braces."
        )


def _counted(pattern: str, match: re.Match[str] | None) -> range:
    """The numbers in a pair of braces; a single one where there is none."""
    if match is None:
        return range(1)
    first, last = match.groups()
    if max(len(first), len(last)) > 18:
        raise InputError(f"{printable(pattern)} counts in numbers of more than 18 digits, which no shards have; check its braces.")
    if int(first) > int(last):
        raise InputError(f"{printable(pattern)} counts from {first} down to {last}; write the smaller number first.")
    return range(int(first), int(last) + 1)


def _in_folder(data: str, part: str) -> list[Path]:
    """The shards of a part; none where there is no such folder, of which others have more to say."""
    if is_pattern(data) or not os.path.isdir(data):
        return []
    try:
        names = os.listdir(data)
    except OSError as error:
        raise unsearchable(data, error) from error
    return [Path(data, name) for name in sorted(fnmatch.filter(names, f"{part}-*.tar"))]


def _listed_classes(path: Path) -> tuple[str, ...] | None:
    """The names in a classes.txt, one in each line; None without the file."""
    if not path.is_file():
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path)} cannot be read as text in UTF-8 ({error}). Write it anew.") from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if "" in names or twice:
        found = f"line {names.index('') + 1} is empty" if "" in names else f"{twice[0][:40]!r} comes twice"
        raise InputError(f"{printable(path)} should hold the name of a class in each line, all different, but {found}.")
    return tuple(names)


def _local(address: str) -> Path:
    """The shard as a file: fetched once, into the cache, if it is somewhere else."""
    if not address.startswith("pipe:") and "://" not in address:
        _require_shard(Path(address))
        return Path(address)
    name = re.sub(r"\W+", "-", address.rsplit("/", 1)[-1].removesuffix(".tar"))[-40:]
    digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    path = cache_folder() / "shards" / f"{digest}-{name}.tar"
    try:
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise UnavailableError(
            f"{printable(address)} has to be kept while it is read, and the cache folder {printable(path.parent)} cannot be "
            f"written ({_reason(error)}). Name one that can with the environment variable {CACHE_VARIABLE}."
        ) from error
    with lock:
        lock.release()  # `with` has acquired it a second time
        if not path.exists():
            with replacing(path) as temporary:
                _fetch(address, temporary)
    return path


def _require_shard(path: Path) -> None:
    try:
        require_regular(path)
    except FileNotFoundError:
        raise InputError(f"The shard {printable(path)} does not exist; check the pattern.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"The shard {printable(path)} cannot be read ({_reason(error)}). Remove it, or name others.") from error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _fetch(address: str, path: Path) -> None:
    with path.open("wb") as file:
        if address.startswith("pipe:"):
            status = subprocess.run(address.removeprefix("pipe:"), shell=True, stdout=file, check=False).returncode
            if status:
                raise UnavailableError(f"The command of {address} ended with status {status}; run it by hand to see why.")
            return
        try:
            with urllib.request.urlopen(address, timeout=60) as response:
                copyfileobj(response, file)
                length = response.headers.get("Content-Length")
                if length is not None and length.strip() != str(file.tell()):  # a connection that breaks off looks like the end
                    raise ConnectionError(f"{file.tell()} of {length} bytes came")
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise UnavailableError(f"The shard {address} cannot be fetched ({error}). Check address and network.") from error
        except ValueError as error:
            raise InputError(f"The shard {printable(address)} is no address ({error}); check the pattern.") from error


def _index(path: Path) -> tuple[Path, list[Row]]:
    """Name, offset, size and class of every image, found once and kept in the cache."""
    _require_shard(path)
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
            end = -1
            for member in archive:
                if member.size < 0 or member.offset <= end:  # tarfile would go round in circles
                    raise tarfile.ReadError(f"the size of {member.name[:80]!r} cannot be")
                end = member.offset
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
            _require_end(path, archive.offset)
    except IResNetError:
        raise
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        raise InputError(f"The shard {printable(path)} is damaged ({error}). Remove it, and get it again.") from error
    alone = next((name for key, name in dotted.items() if key not in images or key not in labels), None)
    if alone is not None:
        raise _refused(path, alone, "has a dot within: what follows the first dot says what kind of file it is; rename it")
    lonely = sorted(images.keys() ^ labels.keys())
    if lonely or not images:
        found = f"{len(lonely)} names have only one of the two, such as {printable(lonely[0])}" if lonely else "there is none"
        raise InputError(f"The shard {printable(path)} should hold an image and its .cls under each name, but {found}.")
    return [(name, offset, size, labels[key]) for key, (name, offset, size) in images.items()]


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
