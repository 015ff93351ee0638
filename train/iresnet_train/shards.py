"""WebDataset shards: tar files of images, each beside its class (`0001.jpg`, `0001.cls`), local or fetched.

Each shard is read through once for the places of its images; after that they are read wherever they lie, in any order, so that
a run is shuffled, divided among processes and resumed exactly, as with single files.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copyfileobj
from typing import Any, NamedTuple

import torch
from filelock import FileLock

from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.files import read_json, replacing, write_json
from iresnet_models.official import cache_folder
from iresnet_models.spec import ModelSpec

_WINDOW = 8
"""Shards that are shuffled together."""

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp")


class ShardMember(NamedTuple):
    """Where the bytes of an image lie."""

    shard: str
    name: str
    offset: int
    size: int

    @property
    def place(self) -> str:
        """What messages call it."""
        return str(Path(self.shard) / self.name)

    def content(self) -> bytes:
        with Path(self.shard).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


def is_pattern(data: str) -> bool:
    """Whether `data` names shards: `train-{0000..0146}.tar`, a URL of such, or `pipe:` and a command that writes one."""
    return data.endswith(".tar") or data.startswith("pipe:")


def has_shards(data: str) -> bool:
    """Whether `data` is such a pattern, or a folder of shards named train-*.tar or val-*.tar."""
    return is_pattern(data) or bool(_in_folder(data, "train") or _in_folder(data, "val"))


class Shards:
    """The images of all shards of a part ("train" or "val"; a pattern is all of one part), in order, with their classes.

    `names`: of the classes, from the folder's classes.txt; None without one.
    """

    def __init__(self, data: str, part: str) -> None:
        paths = [_local(address) for address in expanded(data)] if is_pattern(data) else _in_folder(data, part)
        if not paths:
            raise InputError(f"{data} has no shards named {part}-*.tar; expected train-*.tar and val-*.tar.")
        indexed = [_index(path) for path in paths]
        self.images = [ShardMember(str(path), name, at, size) for path, rows in indexed for name, at, size, _ in rows]
        self.labels = [label for _, rows in indexed for _, _, _, label in rows]
        self._sizes = [len(rows) for _, rows in indexed]
        listed = Path(data) / "classes.txt"
        self.names = tuple(listed.read_text(encoding="utf-8").split("\n")) if listed.is_file() else None
        if self.names is not None and self.names[-1] == "":
            self.names = self.names[:-1]

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
    """`a-{08..10}.tar` as three names; braces may come several times."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(first) > int(last):
        raise InputError(f"{pattern} counts from {first} down to {last}; write the smaller number first.")
    numbers = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    return [name for number in numbers for name in expanded(pattern[: match.start()] + number + pattern[match.end() :])]


def _in_folder(data: str, part: str) -> list[Path]:
    return sorted(Path(data).glob(f"{part}-*.tar")) if not is_pattern(data) and Path(data).is_dir() else []


def _local(address: str) -> Path:
    """The shard as a file: fetched once, into the cache, if it is somewhere else."""
    if not address.startswith("pipe:") and "://" not in address:
        if not Path(address).is_file():
            raise InputError(f"The shard {address} does not exist; check the pattern.")
        return Path(address)
    name = re.sub(r"\W+", "-", address.rsplit("/", 1)[-1].removesuffix(".tar"))[-40:]
    path = cache_folder() / "shards" / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{name}.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            with replacing(path) as temporary:
                _fetch(address, temporary)
    return path


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
                if length is not None and int(length) != file.tell():  # a connection that breaks off looks like the end
                    raise ConnectionError(f"{file.tell()} of {length} bytes came")
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise UnavailableError(f"The shard {address} cannot be fetched ({error}). Check address and network.") from error


def _index(path: Path) -> tuple[Path, list[tuple[str, int, int, int]]]:
    """Name, offset, size and class of every image, found once and kept in the cache."""
    status = path.stat()
    return path, _index_of(str(path.resolve()), status.st_size, status.st_mtime_ns)


@cache
def _index_of(path: str, size: int, changed: int) -> list[tuple[str, int, int, int]]:
    key = hashlib.sha256(f"{path}\n{size}\n{changed}".encode()).hexdigest()[:32]
    kept = cache_folder() / "shards" / f"{key}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):
        if not kept.exists():
            write_json(kept, {"images": _scanned(Path(path))})
    return [tuple(row) for row in read_json(kept, "The index of a shard")["images"]]


def _scanned(path: Path) -> list[tuple[str, int, int, int]]:
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                stem, _, ending = Path(member.name).name.partition(".")
                key = f"{Path(member.name).parent}/{stem}"
                if ending.lower() in _IMAGES:
                    images[key] = member.name, member.offset_data, member.size
                elif ending == "cls":
                    labels[key] = int(_content(archive.extractfile(member)))
            _require_end(path, archive.offset)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise InputError(f"The shard {path} is damaged ({error}). Remove it, and get it again.") from error
    lonely = sorted(images.keys() ^ labels.keys())
    if lonely or not images:
        found = f"{len(lonely)} names have only one of the two, such as {lonely[0]}" if lonely else "there is none"
        raise InputError(f"The shard {path} should hold an image and its .cls under each name, but {found}.")
    return [(name, offset, size, labels[key]) for key, (name, offset, size) in images.items()]


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


def _content(file: Any) -> bytes:
    read: Callable[[], bytes] = file.read
    return read()
