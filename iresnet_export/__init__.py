"""Exports iResNet to TorchScript, ONNX and TensorRT, and proves that what runs is what was trained.

The public API: everything in `__all__`, imported when it is first used. Everything else is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iresnet_models.lazy import importer

__version__ = "0.1.0"

if TYPE_CHECKING:
    from iresnet_export.api import (
        Opened,
        bench,
        evaluate,
        export,
        from_module,
        inspect,
        load,
        open,
        predict,
        pretrained,
        untrained,
        verify,
    )
    from iresnet_export.artifacts.artifact import Artifact
    from iresnet_export.artifacts.source import Source
    from iresnet_export.backends.base import Session
    from iresnet_export.errors import (
        ArtifactError,
        CheckFailedError,
        CheckpointError,
        ExportError,
        InputError,
        IResNetError,
        MissingPackageError,
        PreemptedError,
        StaleManifestError,
        UnavailableError,
    )
    from iresnet_models.spec import Preprocessing

_FUNCTIONS = (
    *("Opened", "bench", "evaluate", "export", "from_module", "inspect"),
    *("load", "open", "predict", "pretrained", "untrained", "verify"),
)
_ERRORS = (
    *("ArtifactError", "CheckFailedError", "CheckpointError", "ExportError", "IResNetError", "InputError"),
    *("MissingPackageError", "PreemptedError", "StaleManifestError", "UnavailableError"),
)
_PLACES = {
    **dict.fromkeys(_FUNCTIONS, "api"),
    **dict.fromkeys(_ERRORS, "errors"),
    "Artifact": "artifacts.artifact",
    "Session": "backends.base",
    "Source": "artifacts.source",
    "Preprocessing": "api",
}

__all__ = [
    "Artifact",
    "ArtifactError",
    "CheckFailedError",
    "CheckpointError",
    "ExportError",
    "IResNetError",
    "InputError",
    "MissingPackageError",
    "Opened",
    "PreemptedError",
    "Preprocessing",
    "Session",
    "Source",
    "StaleManifestError",
    "UnavailableError",
    "__version__",
    "bench",
    "evaluate",
    "export",
    "from_module",
    "inspect",
    "load",
    "open",
    "predict",
    "pretrained",
    "untrained",
    "verify",
]

__getattr__ = importer(__name__, _PLACES)


def __dir__() -> list[str]:
    return sorted(__all__)
