"""Reading and writing files so that nothing is lost: whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from iresnet_models.errors import InputError, IResNetError, ReaderGoneError, UnavailableError
from iresnet_models.temporary import temporary_file
from iresnet_models.typed import json_from

READER_PATIENCE = 10.0
"""Seconds that a named pipe without a reader is waited for."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DESCRIPTORS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""What stands in a text for bytes of a file's name that are not UTF-8."""
_NUMBERS = re.compile(r"\[\n\s+-?\d[\d.eE+-]*(?:,\n\s+-?\d[\d.eE+-]*)*\n\s+\]")
"""A list of numbers in indented JSON; texts hold no ends of lines there."""


def names_apart(paths: Sequence[Path]) -> list[str]:
    """File names, with as many folders in front as tell them apart; never an absolute path."""
    whole = [Path(os.path.abspath(path)) for path in paths]
    names = []
    for path in whole:
        parts = [part for part in path.parts if part != path.anchor]
        count = 1
        while count < len(parts) and any(list(other.parts[-count:]) == parts[-count:] for other in whole if other != path):
            count += 1
        names.append("/".join(parts[-count:]))
    return names


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; on success it is flushed to disk and takes `path`'s place.

    A symbolic link stays, and the file that it leads to is replaced. If anything fails, or the process is killed, `path` is as it
    was. InputError for what is no file, such as a folder, a pipe or a device; a full disk raises UnavailableError.
    """
    path = Path(path)
    place = require_place(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(place.parent, place.name) as temporary:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, place)
            _flush_directory(place.parent)
    except IResNetError as error:
        if "No space left" in str(error):
            raise unwritable(path, error) from error
        raise
    except Exception as error:
        if isinstance(error, OSError) or "No space left" in str(error) or _is_torch_write_failure(error):
            raise unwritable(path, error) from error
        raise


def require_place(path: Path) -> Path:
    """Where a file of this name is: the end of its symbolic links. InputError if what is there is no file."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise unwritable(path, error) from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder;", "name a file in it.")
    if not stat.S_ISREG(mode) or _descriptor(path) is not None:
        raise InputError(f"{path} is no file, but a pipe or a device, which cannot hold what is written here;", "name a file.")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def require_writable_folder(path: Path) -> None:
    """InputError if a file of this name could not be written in the end, as far as that can be seen before any work is done."""
    folder = Path(os.path.realpath(path)).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: {folder} is a file, not a folder.", "Choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written: this user may not write to the folder {folder}, or its disk is read-only.",
            "Choose another place, or change the folder's permissions.",
        )


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all. A pipe, a terminal or another character device is written to as it is."""
    stream = _stream(Path(path))
    if stream is None:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return
    try:
        with stream:
            left = memoryview(data)
            while left:  # a pipe may take a part, and its reader go then
                left = left[stream.write(left) :]
    except BrokenPipeError as error:
        raise ReaderGoneError(f"Whoever read {path} has gone.") from error
    except OSError as error:
        raise unwritable(Path(path), error) from error


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8 whole or not at all; bytes of names that are not UTF-8 become �."""
    write_bytes(path, _LONE_SURROGATE.sub("\ufffd", text).encode())


def write_json(path: Path, data: Any) -> None:
    """Writes strict, indented JSON (no NaN) whole or not at all."""
    write_text(path, json_text(data))


def json_text(data: Any) -> str:
    """Strict JSON in ASCII, indented but for lists of numbers, with an end of line; bytes of names that are not UTF-8 become �."""
    text = json.dumps(_encodable(data), indent=2, allow_nan=False) + "\n"
    return _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"), text)


def json_line(data: Any) -> bytes:
    """The same in one line."""
    return (json.dumps(_encodable(data), allow_nan=False) + "\n").encode("ascii")


def _encodable(data: Any) -> Any:
    plain = json.dumps(data, allow_nan=False, ensure_ascii=False)
    return json.loads(_LONE_SURROGATE.sub("\ufffd", plain)) if _LONE_SURROGATE.search(plain) else data


_LARGEST_JSON = 256 * 2**20


def read_json(path: Path, what: str) -> Any:
    """Parsed JSON of a file, read strictly; InputError, which calls it `what`, if it is not JSON."""
    require_file(path, what)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"it is larger than {_LARGEST_JSON:,} bytes")
        return json_from(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read as JSON ({error}).", "Make it anew.") from error


def require_file(path: Path, what: str) -> Path:
    """`path`, if a readable, non-empty, regular file is there; else InputError, which calls it `what`."""
    path = Path(path)
    if "\0" in str(path):
        raise InputError(f"{what} cannot be named {str(path)!r:.200}: no file has a zero byte in its name.")
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{what} {path} does not exist;", "check its name and the current folder.") from None
    except OSError as error:
        raise InputError(f"{what} {path!s:.500} cannot be opened ({error.strerror});", "check its name and permissions.") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{what} {path} is a folder;", "name a file in it.")
    if not stat.S_ISREG(found.st_mode):  # opening a FIFO waits for a writer, perhaps for ever
        raise InputError(f"{what} {path} is no regular file (a pipe, a socket or a device);", "save it to a file and name that.")
    if found.st_size == 0:
        raise InputError(f"{what} {path} is empty: it was cut off while it was written or copied.", "Get it again.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{what} {path} may not be read by this user;", "change its permissions.")
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


def _stream(path: Path) -> IO[bytes] | None:
    """What `path` names if that is written through and not replaced: a pipe or a character device; None for a file."""
    try:
        descriptor = _descriptor(path)
        if descriptor is not None:
            for buffered in (sys.stdout, sys.stderr):
                if buffered is not None:
                    buffered.flush()
            return os.fdopen(os.dup(descriptor), "wb")
        mode = path.stat().st_mode
        if stat.S_ISFIFO(mode):
            return _pipe(path)
        if stat.S_ISCHR(mode):
            return path.open("wb", buffering=0)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unwritable(path, error) from error
    return None


def _pipe(path: Path) -> IO[bytes]:
    """A named pipe, opened for writing once somebody reads it; UnavailableError where nobody comes to."""
    last = time.monotonic() + READER_PATIENCE
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > last:
                raise UnavailableError(
                    f"{path} is a pipe that nobody has read for {READER_PATIENCE:g} seconds.",
                    "Start its reader first, or name a file.",
                ) from error
            time.sleep(0.05)
            continue
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "wb", buffering=0)


def _descriptor(path: Path) -> int | None:
    """The number of the open file that a name such as /dev/stdout, or a link to it, stands for; None for other names."""
    name = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        if name in _DESCRIPTORS:
            return _DESCRIPTORS[name]
        if found := re.fullmatch(rf"/(?:dev|proc/(?:self|{os.getpid()}))/fd/(\d+)", name):
            return int(found[1])
        if not os.path.islink(name):
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), os.readlink(name)))
    return None


def unwritable(path: Path, error: BaseException) -> Exception:
    """What to raise where `path` cannot be written: UnavailableError for a full disk, InputError else."""
    number = getattr(error, "errno", None)
    if number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM) and isinstance(error, Exception):
        return error  # not for want of a place
    if number in _FULL or not isinstance(error, OSError):
        return UnavailableError(
            f"{path} could not be written: the disk is full, or a limit on the size of files is reached ({error}).",
            "Free some space and run the command again; what was there before is untouched.",
        )
    return InputError(
        f"{path} cannot be written ({error}).",
        "Choose another place, or change the folder's permissions; what was there before is untouched.",
    )
