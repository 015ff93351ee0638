"""What a backend is: it exports a network to a file, loads such a file to run it, and reads its weights back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, Format
from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.layers import Deployable, Layer

Progress = Callable[[str, float], None]
"""Told what is being done and which share of it, 0 to 1, is done; may raise KeyboardInterrupt to cancel."""


@dataclass(frozen=True)
class ExportOptions:
    """How to export. `batch` is the static batch size, or the one to optimise for; `max_batch` bounds a dynamic one."""

    precision: str = "fp32"
    fold: bool = True
    dynamic_batch: bool = True
    batch: int = 1
    max_batch: int = 32
    opset: int = 20
    calibration_data: str | None = None
    """`digits` or a folder, whose training images say how far activations reach; None for the network's own, or noise."""
    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build an engine for, such as `8.6`; TensorRT-RTX alone. Empty: its own choice."""
    flavour: str | None = None
    """`tensorrt` or `tensorrt_rtx`; None for whichever can be used here."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.max_batch and self.dynamic_batch:
            raise InputError(f"The batch to optimise for ({self.batch}) must lie between 1 and the largest one ({self.max_batch}).")
        if self.batch < 1:
            raise InputError(f"A batch has at least one image, not {self.batch}.")


class Session(ABC):
    """A network that is ready to run; a context manager that frees what it holds."""

    device: torch.device
    batch: tuple[int, int] | None = None
    """The smallest and largest batch that it takes; None for any."""

    @abstractmethod
    def run(self, batch: Tensor) -> Tensor:
        """Logits (n, classes), float32, for images (n, 3, h, w), float32, both on `device`."""

    def close(self) -> None:  # noqa: B027 - most sessions hold nothing that Python does not free
        """Frees memory, device and threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Backend(ABC):
    """One way to deploy a network. Backends neither time themselves nor print."""

    name: ClassVar[str]
    format: ClassVar[Format]
    native: ClassVar[bool] = False
    """Whether loading such a file can run native code."""
    parent_format: ClassVar[Format | None] = None
    """What it builds from, where that is not the network itself."""

    def settings(self, options: ExportOptions) -> dict[str, Any]:
        """Those of the options that change what this backend makes, for the descent."""
        return {}

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        """The batch sizes that an export with these options takes; None for any."""
        return None

    @abstractmethod
    def export(
        self,
        network: Deployable,
        path: Path,
        options: ExportOptions,
        identity: dict[str, Any],
        parent: Artifact | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Writes the network to `path`, with `identity` inside where the format has a place; returns details for the descent."""

    @abstractmethod
    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> Session:
        """A session of the artifact on the device; UnavailableError where that cannot be had here."""

    def layers(self, artifact: Artifact) -> list[Layer] | None:
        """Every weighted layer as the artifact holds it, in execution order; None where the format hides them."""
        return None


def require_trusted(artifact: Artifact, trust: bool) -> None:
    """Refuses a file that runs native code unless its descent vouches for it, or the user does."""
    if trust:
        return
    if artifact.descent is None:
        raise ArtifactError(
            f"Loading {artifact.path} can run native code, and no descent beside it vouches for it. If you trust where it "
            "comes from, add --trust."
        )
    artifact.require_intact()


def no_progress(_step: str, _share: float) -> None:
    """For callers that show nothing."""
