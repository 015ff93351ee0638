"""The errors that a user can meet, each with the exit status that the command line gives it.

Every message is one paragraph: what is wrong, what was found, and the remedy.
"""

from __future__ import annotations


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
