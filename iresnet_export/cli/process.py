"""The program as a process: its standard streams, the signals that end it, and a user that the system does not know."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, cast

_GONE = (errno.EPIPE, errno.EBADF, errno.EIO, errno.ESHUTDOWN, errno.ECONNRESET)
_SIGNALS = ("SIGTERM", "SIGHUP")
READER_GONE = 141
PATIENCE = 20.0
"""Seconds for cleaning up; after that the process ends as it is: the exception may have been lost in a library's callback."""


class Stream:
    """A standard stream that outlives its reader: what nobody reads any more is dropped, and `error` says why.

    The command goes on, so that its report and its artifact are written, and its exit status tells in the end.
    """

    error: OSError | None = None

    def __init__(self, stream: TextIO, *, closed: bool = False) -> None:
        self._stream, self._closed = stream, closed

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("text, not bytes")
        if self._closed and text and self.error is None:
            self.error = OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.error is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.error = error
        with contextlib.suppress(OSError, ValueError):  # what is still buffered goes nowhere, without a word at the end
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    @property
    def reader_gone(self) -> bool:
        return self.error is not None and self.error.errno in _GONE

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def standard_streams() -> Iterator[Stream]:
    """Stdout and stderr that can be written to whatever becomes of their readers, in any locale. Gives stdout.

    Those that were closed are opened to nowhere: else the next file that is opened would take their number, and get what is
    printed.
    """
    if os.name == "posix":
        while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(opened, True)
        os.close(opened)
    before = sys.stdout, sys.stderr
    out, err = (_stream(stream, number) for number, stream in ((1, before[0]), (2, before[1])))
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _stream(stream: TextIO | None, number: int) -> Stream:
    if stream is None:
        return Stream(open(number, "w", encoding="utf-8", errors="replace", closefd=False), closed=True)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace" if number == 1 else "backslashreplace")
    return Stream(stream)


class Stopped(SystemExit):
    """This process was asked to end; what it has open cleans up."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


@contextmanager
def ending_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as an error does, so that nothing half-written stays. What is ignored stays ignored.

    Training has handlers of its own while it runs, which save its state first.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own, last_resort = os.getpid(), list[threading.Timer]()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a process that was forked from this one ends as any does
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # once is enough: a second one would break off the cleaning up
        timer = threading.Timer(PATIENCE, os._exit, (128 + number,))
        timer.daemon = True
        timer.start()
        last_resort.append(timer)
        raise Stopped(number)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield
    finally:
        for timer in last_resort:
            timer.cancel()
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)


def be_somebody() -> None:
    """Names a user without an entry in the system's list, and gives it a home, which libraries ask for and fail without."""
    try:
        import pwd
    except ImportError:  # Windows
        return
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            os.environ["LOGNAME"] = f"uid{os.getuid()}"
        if "HOME" not in os.environ:
            os.environ["HOME"] = str(_made_home())


def _made_home() -> Path:
    """A folder of this user's alone, the same each time where that can be."""
    home = Path(tempfile.gettempdir()) / f"iresnet-export-home-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        home.mkdir(mode=0o700)
    status = home.lstat()
    if home.is_dir() and not home.is_symlink() and status.st_uid == os.getuid() and not status.st_mode & 0o077:
        return home
    return Path(tempfile.mkdtemp(prefix="iresnet-export-home-"))
