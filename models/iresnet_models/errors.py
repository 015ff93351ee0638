"""The errors that a user can meet, each with the exit status that the command line gives it.

Every message is one paragraph: what is wrong, what was found, and the remedy.
"""

from __future__ import annotations

import errno
import re


class IResNetError(Exception):
    """Base of all errors that are not a fault of this project's code.

    `reason`: what is wrong. `remedy`: what to do about it, empty where the reason says it all. As text both are one paragraph.
    """

    exit_status = 2

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason} {remedy}".rstrip())
        self.reason, self.remedy = reason.rstrip(" .;:"), remedy.rstrip(" .")


class InputError(IResNetError, ValueError):
    """Wrong use or bad input: a missing file, foreign weights, options that contradict each other."""

    exit_status = 2


class ArtifactError(InputError):
    """An artifact, or an archive of torch's, that is missing, broken, of an unknown format, or not to be trusted."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, recognised or trusted."""


class CheckFailedError(IResNetError):
    """A check failed: parity, weights, a stale manifest, a loss that is not a number."""

    exit_status = 1


class UnavailableError(IResNetError):
    """Something needed is not here: a package, a device, the network, disk space."""

    exit_status = 3


class PreemptedError(IResNetError):
    """A run was asked to stop, and its state is saved."""

    exit_status = 75


class InterruptedRunError(PreemptedError):
    """The same, by Ctrl-C."""

    exit_status = 130


class ReaderGoneError(IResNetError):
    """Whoever read what is written, through a pipe, has gone."""

    exit_status = 141


_NO_MEMORY = re.compile(
    r"allocate memory|DefaultCPUAllocator|could not create a (primitive|memory)|bad[ _]alloc|(failed|unable) to allocate"
    r"|out ?of ?memory|not enough memory|failed to map segment|arena alloc failed|cu(blas|dnn)_status_alloc_failed",
    re.IGNORECASE,
)
"""What torch, oneDNN, CUDA's libraries, C++, ONNX Runtime, OpenVINO, TensorRT, NumPy and the loader of libraries say of it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is of too little memory, of the machine or of a GPU: libraries have no common type for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    if isinstance(error, IResNetError) and not isinstance(error, UnavailableError):
        return False  # the words may be those of a file's name
    return _NO_MEMORY.search(str(error)) is not None


def first_line(error: object) -> str:
    """The first line of what an error, or a text of one, says; without any, the name of its type."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def named_line(error: BaseException) -> str:
    """The same after the name of the error's type, where the type is a part of what was found."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
