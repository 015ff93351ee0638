"""WebDataset shards: tar files of images, each beside its class (`0001.jpg`, `0001.cls`), local or fetched.

Each shard is read through once for the places of its images; after that they are read wherever they lie, in any order, so that
a run is shuffled, divided among processes and resumed exactly, as with single files.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from filelock import FileLock
from PIL import Image

from iresnet_data.addresses import copied, is_address, reason_of, shown
from iresnet_data.named_data import require_name
from iresnet_data.shard_index import indexed, require_shard
from iresnet_models.cache import CACHE_VARIABLE, cache_folder
from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.files import replacing
from iresnet_models.image_files import printable, unsearchable
from iresnet_models.preprocessing import load_image
from iresnet_models.spec import NetworkSpec

if TYPE_CHECKING:
    import torch

_WINDOW = 8
"""Shards that are shuffled together."""

_MOST_SHARDS = 100_000
"""Names that a pattern may stand for; the largest data sets of images have some ten thousand shards."""

_BRACES = re.compile(r"\{([0-9]+)\.\.([0-9]+)\}")


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
                f"The shard {printable(self.shard)} cannot be read any more ({error.strerror}).", "Put it back."
            ) from error
        if len(content) != self.size:
            raise InputError(f"The shard {printable(self.shard)} has become shorter while it was in use.", "Put it back.")
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


class Shards:
    """The images of all shards of a part ("train" or "val"; a pattern is all of one part), in order, with their classes.

    `names`: of the classes, from the folder's classes.txt; None without one.
    """

    def __init__(self, data: str, part: str) -> None:
        paths = [local_shard(address) for address in expanded(data)] if is_pattern(data) else _in_folder(data, part)
        if not paths:
            raise InputError(f"{printable(data)} has no shards named {part}-*.tar; expected train-*.tar and val-*.tar.")
        found = [indexed(path) for path in paths]
        self.images = [ShardMember(str(path), name, at, size) for path, rows in found for name, at, size, _ in rows]
        self.labels = [label for _, rows in found for _, _, _, label in rows]
        self._sizes = [len(rows) for _, rows in found]
        self.names = None if is_pattern(data) else _listed_classes(Path(data) / "classes.txt")

    @property
    def num_classes(self) -> int:
        return max(self.labels) + 1 if self.names is None else len(self.names)

    def require_classes_of(self, spec: NetworkSpec) -> None:
        if max(self.labels) >= spec.num_classes:
            raise InputError(
                f"The shards have the class {max(self.labels)}, but this {spec.name} has {spec.num_classes} classes, from 0.",
                "Name the data that it was trained on, or a network of these classes.",
            )

    def order(self, generator: torch.Generator) -> list[int]:
        """All indices: shards shuffled, and the images of every few of them among each other."""
        import torch

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
            f"{printable(pattern)} stands for {found} shards or more, and up to {_MOST_SHARDS:,} are taken;", "check its braces."
        )


def _counted(pattern: str, match: re.Match[str] | None) -> range:
    """The numbers in a pair of braces; a single one where there is none."""
    if match is None:
        return range(1)
    first, last = match.groups()
    if max(len(first), len(last)) > 18:
        raise InputError(
            f"{printable(pattern)} counts in numbers of more than 18 digits, which no shards have;", "check its braces."
        )
    if int(first) > int(last):
        raise InputError(f"{printable(pattern)} counts from {first} down to {last};", "write the smaller number first.")
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
        raise InputError(f"{printable(path)} cannot be read as text in UTF-8 ({error}).", "Write it anew.") from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if "" in names or twice:
        found = f"line {names.index('') + 1} is empty" if "" in names else f"{twice[0][:40]!r} comes twice"
        raise InputError(f"{printable(path)} should hold the name of a class in each line, all different, but {found}.")
    return tuple(names)


def local_shard(address: str) -> Path:
    """The shard as a file: fetched once, into the cache, if it is somewhere else."""
    if not address.startswith("pipe:") and not is_address(address):
        require_shard(Path(address))
        return Path(address)
    name = re.sub(r"\W+", "-", shown(address).rsplit("/", 1)[-1].removesuffix(".tar"))[-40:]
    digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    path = cache_folder() / "shards" / f"{digest}-{name}.tar"
    try:
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock"))
        lock.acquire()
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise UnavailableError(
            f"{shown(address)} has to be kept while it is read, and the cache folder {printable(path.parent)} cannot be "
            f"written ({reason_of(error)}).",
            f"Name one that can with the environment variable {CACHE_VARIABLE}.",
        ) from error
    with lock:
        lock.release()  # `with` has acquired it a second time
        if not path.exists():
            with replacing(path) as temporary:
                _fetch(address, temporary)
    return path


def _fetch(address: str, path: Path) -> None:
    if not address.startswith("pipe:"):
        copied(address, path)
        return
    with path.open("wb") as file:
        status = subprocess.run(address.removeprefix("pipe:"), shell=True, stdout=file, check=False).returncode
    if status:
        raise UnavailableError(f"The command of {address} ended with status {status};", "run it by hand to see why.")
