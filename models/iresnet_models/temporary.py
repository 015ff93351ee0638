"""Temporary files and folders that do not outlive their processes: what a killed one left is removed by the next.

A living process holds a lock (flock) on each, which ends with it, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: there no open file can be renamed, so none is held
    fcntl = None  # type: ignore[assignment]

_LONG_AGO = 24 * 3600.0
"""Seconds after which what another machine left, whose locks may not be seen from here, is taken for abandoned."""


def _kernel() -> str:
    """Eight digits that differ between machines that share a folder, and are one for containers on one machine."""
    try:
        running = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        running = platform.node()
    return hashlib.sha256(running.encode(errors="replace")).hexdigest()[:8]


_HERE = _kernel()
_FILE = re.compile(r"\..*\.([0-9a-f]{8})-\w{8}\.partial", re.DOTALL)
_FOLDER = re.compile(r"iresnet-export-([0-9a-f]{8})-\w{8}")


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """An empty file in `folder`, hidden, called after `name`; removed at the end if it is still there."""
    _sweep(folder, _FILE)
    while True:
        handle, made = tempfile.mkstemp(prefix=f".{name[:40]}.{_HERE}-", suffix=".partial", dir=folder)
        if _hold(handle, made):
            break
        os.close(handle)
    if fcntl is None:
        os.close(handle)
    try:
        yield Path(made)
    finally:
        Path(made).unlink(missing_ok=True)
        if fcntl is not None:
            os.close(handle)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of its own among the system's temporary ones; removed at the end with all that is in it."""
    _sweep(Path(tempfile.gettempdir()), _FOLDER)
    with tempfile.TemporaryDirectory(prefix=f"iresnet-export-{_HERE}-", ignore_cleanup_errors=True) as made:
        handle = None if fcntl is None else os.open(made, os.O_RDONLY)
        try:
            if handle is not None:
                _hold(handle, made)
            yield Path(made)
        finally:
            if handle is not None:
                os.close(handle)


def _hold(handle: int, path: str) -> bool:
    """Locks a new file or folder; False if another process has removed it before that."""
    if fcntl is None:
        return True
    with suppress(OSError):  # some file systems have no locks: there age alone says what is abandoned
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.path.exists(path)


def _sweep(folder: Path, names: re.Pattern[str]) -> None:
    """Removes what processes that are no more have left in `folder`. What cannot be removed is left."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        found = [(entry.path, match[1]) for entry in entries if (match := names.fullmatch(entry.name))]
    for path, kernel in found:
        with suppress(OSError):
            _remove_abandoned(path, kernel)


def _remove_abandoned(path: str, kernel: str) -> None:
    status = os.lstat(path)
    folder = stat.S_ISDIR(status.st_mode)
    if not folder and not stat.S_ISREG(status.st_mode):
        return
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        return
    old = time.time() - status.st_mtime > _LONG_AGO
    if fcntl is None:
        if old:
            _remove(path, folder)
        return
    handle = os.open(path, (os.O_RDONLY if folder else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen = kernel == _HERE
        except BlockingIOError:
            return  # its process lives
        except OSError:
            seen = False
        # It may have been renamed to its place meanwhile: then the path is gone, or another's.
        if (seen or old) and os.path.samestat(os.fstat(handle), os.lstat(path)):
            _remove(path, folder)
    finally:
        os.close(handle)


def _remove(path: str, folder: bool) -> None:
    if folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)
