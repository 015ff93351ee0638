"""PyTorch itself: the baseline that every artifact is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, ExportOptions, Session
from iresnet_export.errors import ExportError
from iresnet_export.layers import Layer, layers_of_network
from iresnet_export.progress import Progress
from iresnet_export.quantization.parameters import Quantization
from iresnet_models.checkpoint import load_checkpoint, save_checkpoint
from iresnet_models.deployed import Deployable
from iresnet_models.network import Network


class Eager(Backend):
    name: ClassVar[str] = "eager"
    format: ClassVar[Format] = "checkpoint"

    def export(
        self,
        network: Deployable,
        quantization: Quantization | None,
        path: Path,
        options: ExportOptions,
        identity: dict[str, Any],
        parent: Artifact | None,
        progress: Progress,
    ) -> dict[str, Any]:
        if not isinstance(network, Network):
            raise ExportError("A checkpoint holds a network as it was trained; its fold is not saved as one.")
        save_checkpoint(path, network)
        return {}

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> EagerSession:
        return EagerSession(load_checkpoint(artifact.path).model, device, threads)

    def layers(self, artifact: Artifact) -> list[Layer]:
        return layers_of_network(load_checkpoint(artifact.path).model)


class EagerSession(Session):
    """A network, run as it is. PyTorch's number of threads belongs to the process: it is set before every run."""

    def __init__(self, network: torch.nn.Module, device: torch.device, threads: int | None = None) -> None:
        self.device = device
        self._threads = threads
        self._network = network.eval().to(device)

    def run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch_threads(self._threads):
            logits: Tensor = self._network(batch)
        return logits


class torch_threads:  # noqa: N801 - a context manager, named like a function
    """Sets PyTorch's number of threads for a while; None leaves it."""

    def __init__(self, threads: int | None) -> None:
        self._threads = threads

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._threads is not None and self._threads != self._before:
            torch.set_num_threads(self._threads)

    def __exit__(self, *_: object) -> None:
        if torch.get_num_threads() != self._before:
            torch.set_num_threads(self._before)
