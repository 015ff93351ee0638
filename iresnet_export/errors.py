"""The typed errors of this project, in one place to import from; `exit_status` is the command line's."""

from __future__ import annotations

from iresnet_models.errors import (
    ArtifactError,
    CheckFailedError,
    CheckpointError,
    InputError,
    InterruptedRunError,
    IResNetError,
    PreemptedError,
    UnavailableError,
)

__all__ = [
    "ArtifactError",
    "CheckFailedError",
    "CheckpointError",
    "ExportError",
    "IResNetError",
    "InputError",
    "InterruptedRunError",
    "MissingPackageError",
    "PreemptedError",
    "StaleManifestError",
    "UnavailableError",
]


class ExportError(CheckFailedError):
    """An exporter or builder refused, or made something else than was asked for."""


class StaleManifestError(CheckFailedError):
    """A file is not the one that the manifest beside it, or beside its child, tells of."""


class MissingPackageError(UnavailableError):
    """A package is not installed; the message ends with the command that installs it."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is not installed here.", f"Run: pip install '{install}'")
