"""Findings about files as lines of JSON, written while they are made, so that a run that was ended can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from iresnet_models.errors import InputError
from iresnet_models.files import json_line, replacing, require_place, unwritable

_LONGEST = 16 * 2**20
"""Bytes of a line: more than all of 100,000 classes take, and no more memory than that."""


def require_absent(file: Path) -> None:
    if os.path.lexists(file):
        raise InputError(f"{file} is there already.", "Name another file, remove it, or go on with it by --resume.")


class LineFile:
    """A file of findings of files in a known order, `by` whom and how each line says; a context manager.

    `count`: lines that it holds; `unreadable`: how many of them are of files that could not be read. Where it is there already
    and `resume` is given, its lines are held against `names` and `by`, and a last one that is cut off is taken away.
    Raises InputError for lines that are others, and while another run writes it.
    """

    def __init__(self, path: Path, by: dict[str, Any], names: Iterable[str], *, resume: bool) -> None:
        self.count = self.unreadable = 0
        self._by = by
        if not resume:
            require_absent(path)
        self._path = require_place(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self._path.open("r+b" if self._path.exists() else "x+b")
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            self._lock()
            self._go_to_the_end(iter(names))
        except BaseException:
            self._file.close()
            raise

    def write(self, finding: dict[str, Any]) -> None:
        """One more line, with `file` and `status`; it is the system's, and outlives this process, when this returns."""
        try:
            self._file.write(json_line({**finding, **self._by}))
            self._file.flush()
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._counted(finding["status"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # of a full disk, which has been told
            self._file.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{self._path} is being written by another run.", "Wait for it, or name another file.") from error
        except OSError:  # a file system without locks
            return

    def _counted(self, status: object) -> None:
        self.count += 1
        self.unreadable += status == "unreadable"

    def _go_to_the_end(self, names: Iterator[str]) -> None:
        end, name = 0, next(names, None)
        while (line := self._file.readline(_LONGEST)).endswith(b"\n"):
            found = self._read(line)
            if name is None or found.get("file") != name:
                what = "no further image" if name is None else name
                raise InputError(
                    f"{self._path}, line {self.count + 1}, is of {str(found.get('file'))!r:.200}, and now {what:.200} would stand "
                    "there: other images were named, or their folder has changed.",
                    "Name the same images, or another file.",
                )
            self._counted(found.get("status"))
            end, name = self._file.tell(), next(names, None)
        begun = b"" if name is None else json_line({"file": name})[:-2]
        if line and not (begun.startswith(line) or (begun and line.startswith(begun))):
            raise InputError(f"{self._path}, line {self.count + 1}, is the beginning of no prediction here.", "Name another file.")
        self._file.seek(end)
        self._file.truncate()

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(f"{self._path}, line {self.count + 1}, is no prediction.", "Name another file.")
        other = next((key for key, value in self._by.items() if found.get(key) != value), None)
        if other is not None:
            raise InputError(
                f"{self._path}, line {self.count + 1}, has {other} {json.dumps(found.get(other)):.200}, and this run "
                f"{json.dumps(self._by[other]):.200}.",
                "Go on by the same artifact and options, or name another file.",
            )
        return found


def part_of(file: Path, rank: int, size: int) -> Path:
    """Where one of several processes writes its share."""
    return file if size == 1 else file.with_name(f"{file.name}.{rank}-of-{size}")


def require_no_other_parts(file: Path, size: int) -> None:
    """InputError where another number of processes has left its shares."""
    own = {part_of(file, rank, size) for rank in range(size)}
    there = file.parent.iterdir() if file.parent.is_dir() else ()
    parts = (path for path in there if path.stem == file.name and _is_part(path))
    other = next((part for part in parts if part not in own), None)
    if other is not None:
        raise InputError(
            f"{other} is a share of {file.name} that a run of {other.name.rpartition('-')[2]} processes has begun.",
            "Go on with as many, or remove its shares.",
        )


def _is_part(path: Path) -> bool:
    rank, of, size = path.suffix.removeprefix(".").partition("-of-")
    return bool(of) and rank.isdecimal() and size.isdecimal()


def merge(parts: Sequence[Path], file: Path) -> None:
    """Brings lines together that were dealt out to `parts` in turn, and removes those."""
    with replacing(file) as temporary, ExitStack() as stack:
        opened = [stack.enter_context(part.open("rb")) for part in parts]
        with temporary.open("wb") as merged:
            for lines in zip_longest(*opened, fillvalue=b""):
                merged.writelines(lines)
    for part in parts:
        part.unlink()
