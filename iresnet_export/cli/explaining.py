"""What an error of any kind means for the user: one paragraph, and the exit status."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from iresnet_export.errors import IResNetError, UnavailableError
from iresnet_models.errors import first_line, is_out_of_memory, named_line

_THREADS = re.compile(r"can't start new thread|thread.*resource temporarily unavailable", re.IGNORECASE)
_FILES = re.compile(r"too many open files", re.IGNORECASE)

_NO_MEMORY = "There is not enough memory ({}). Use a smaller --batch, fewer --images or another device, or allow more (ulimit -v)."
_NO_THREADS = "No more threads or processes can be started ({}). Allow more (ulimit -u, ulimit -v), or end other programs."
_NO_FILES = "Too many files are open ({}). Allow more with `ulimit -n 1024`, or use fewer --workers."


def explained(error: Exception, debug_option: str) -> tuple[str, int]:
    """One paragraph for the user, and the exit status."""
    chain = list(_chain(error))
    if not isinstance(error, UnavailableError):
        for one in chain:
            if (said := _shortage(one)) is not None:
                return said, 3
    if isinstance(error, IResNetError):
        return str(error), error.exit_status
    if isinstance(error, UnicodeEncodeError) and "surrogates not allowed" in str(error):
        name = error.object.encode("utf-8", "replace").decode()
        return f"The name {name!r} holds bytes that are not UTF-8, which some library cannot take; rename the file.", 2
    if isinstance(error, FileNotFoundError) and _without_folder():
        return "The current folder is no longer there; change to one that is.", 2
    if isinstance(error, ConnectionError | TimeoutError):
        return f"A connection failed ({error}). Run the command again.", 3
    if isinstance(error, OSError) and (error.filename is not None or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)):
        return (
            f"The system refuses what is needed ({error}). Check the name, the permissions and the disk, or choose another place.",
            2,
        )
    if isinstance(error, OSError) and error.errno == errno.EIO:
        return f"A disk or another device fails ({error}).", 3
    name = os.path.basename(sys.argv[0])
    return (
        f"This is a fault of {name}, not of yours: {named_line(error)}. Please report it with the output of the "
        f"same command and {debug_option}, which shows where it happened.",
        4,
    )


def _shortage(error: BaseException) -> str | None:
    """What is short, if an error is about that."""
    text = first_line(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full ({text}). Free some space and run the command again."
    if number in (errno.EMFILE, errno.ENFILE) or (number is None and _FILES.search(str(error))):
        return _NO_FILES.format(text)
    if number == errno.EAGAIN or (number is None and _THREADS.search(str(error))):
        return _NO_THREADS.format(text)
    return _NO_MEMORY.format(text) if is_out_of_memory(error) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was raised from."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _without_folder() -> bool:
    try:
        Path.cwd()
    except OSError:
        return True
    return False
