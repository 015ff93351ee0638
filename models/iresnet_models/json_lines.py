"""Findings about files as lines of JSON, written while they are made, so that a run that was ended can go on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from iresnet_models.errors import InputError
from iresnet_models.files import json_line, replacing, require_place, unwritable

_LONGEST = 16 * 2**20
"""Bytes of a line: more than all of 100,000 classes take, and no more memory than that."""


def require_absent(file: Path) -> None:
    if file.exists():
        raise InputError(f"{file} is there already.", "Name another file, remove it, or go on with it by --resume in one process.")


class LineFile:
    """A file of findings of files in a known order, `by` whom each line says; a context manager.

    `count`: lines that it holds; `unreadable`: how many of them are of files that could not be read. Where it is there already
    and `resume` is given, its lines are held against `names` and `by`, and a last one that is cut off is taken away.
    Raises InputError for lines that are others.
    """

    def __init__(self, path: Path, by: dict[str, str], names: Iterable[str], *, resume: bool) -> None:
        self.count = self.unreadable = 0
        self._by = by
        if not resume:
            require_absent(path)
        self._path = require_place(path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self._path.open("r+b" if self._path.exists() else "w+b")
        except OSError as error:
            raise unwritable(path, error) from error
        try:
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
        self._file.close()

    def _counted(self, status: object) -> None:
        self.count += 1
        self.unreadable += status == "unreadable"

    def _go_to_the_end(self, names: Iterable[str]) -> None:
        expected, end = iter(names), 0
        while (line := self._file.readline(_LONGEST)).endswith(b"\n"):
            found, name = self._read(line), next(expected, None)
            if found.get("file") != name or name is None:
                what = "no further image" if name is None else name
                raise InputError(
                    f"{self._path}, line {self.count + 1}, is of {str(found.get('file'))!r:.200}, and now {what:.200} would stand "
                    "there: other images were named, or their folder has changed.",
                    "Name the same images, or another file.",
                )
            self._counted(found.get("status"))
            end = self._file.tell()
        if len(line) == _LONGEST:
            raise InputError(f"{self._path}, line {self.count + 1}, is longer than any prediction.", "Name another file.")
        self._file.seek(end)
        self._file.truncate()

    def _read(self, line: bytes) -> dict[str, object]:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise InputError(f"{self._path}, line {self.count + 1}, is no prediction.", "Name another file.")
        if any(found.get(key) != value for key, value in self._by.items()):
            raise InputError(
                f"{self._path}, line {self.count + 1}, was not predicted by this {self._by['artifact']}, or of other weights.",
                "Name another file.",
            )
        return found


def merge(parts: Sequence[Path], file: Path) -> None:
    """Brings lines together that were dealt out to `parts` in turn, and removes those."""
    with replacing(file) as temporary, ExitStack() as stack:
        opened = [stack.enter_context(part.open("rb")) for part in parts]
        with temporary.open("wb") as merged:
            for lines in zip_longest(*opened, fillvalue=b""):
                merged.writelines(lines)
    for part in parts:
        part.unlink()
