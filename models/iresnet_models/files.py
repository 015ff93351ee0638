"""Reading and writing files so that nothing is lost: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.typed import json_from


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it is flushed to disk and takes `path`'s place.

    If anything fails, or the process is killed, `path` is as it was. A full disk raises UnavailableError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_directory(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) or "No space left" in str(error) or _is_torch_write_failure(error):
            raise _unwritable(path, error) from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8 whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Writes strict, indented JSON (no NaN) whole or not at all."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


_LARGEST_JSON = 256 * 2**20


def read_json(path: Path, what: str) -> Any:
    """Parsed JSON of a file, read strictly; InputError, which calls it `what`, if it is not JSON."""
    require_file(path, what)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it is larger than {_LARGEST_JSON:,} bytes")
        return json_from(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read as JSON ({error}). Make it anew.") from error


def require_file(path: Path, what: str) -> Path:
    """`path`, if a readable, non-empty, regular file is there; else InputError, which calls it `what`."""
    path = Path(path)
    if "\0" in str(path):
        raise InputError(f"{what} cannot be named {str(path)!r:.200}: no file has a zero byte in its name.")
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{what} {path} does not exist; check its name and the current folder.") from None
    except OSError as error:
        raise InputError(f"{what} {path!s:.500} cannot be opened ({error.strerror}); check its name and permissions.") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{what} {path} is a folder; name a file in it.")
    if not stat.S_ISREG(found.st_mode):  # opening a FIFO waits for a writer, perhaps for ever
        raise InputError(f"{what} {path} is no regular file (a pipe, a socket or a device); save it to a file and name that.")
    if found.st_size == 0:
        raise InputError(f"{what} {path} is empty: it was cut off while it was written or copied. Get it again.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{what} {path} may not be read by this user; change its permissions.")
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_directory(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the system can (not on Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_torch_write_failure(error: BaseException) -> bool:
    """torch.save reports a full disk as a RuntimeError of its own archive writer."""
    return isinstance(error, RuntimeError) and ("PytorchStreamWriter failed" in str(error) or "unexpected pos" in str(error))


def _unwritable(path: Path, error: BaseException) -> Exception:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or not isinstance(error, OSError):
        return UnavailableError(
            f"{path} could not be written: the disk is full ({error}). Free some space and run the command again; "
            "what was there before is untouched."
        )
    return InputError(
        f"{path} cannot be written ({error}). Choose another place, or change the folder's permissions; "
        "what was there before is untouched."
    )
