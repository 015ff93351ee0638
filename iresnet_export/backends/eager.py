"""PyTorch itself: the baseline that every artifact is compared with."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, ExportJob, Session
from iresnet_export.errors import ExportError
from iresnet_export.observing import NetworkObserver
from iresnet_models.checkpoint import load_checkpoint, save_checkpoint
from iresnet_models.network import Network


class Eager(Backend):
    name: ClassVar[str] = "eager"
    format: ClassVar[Format] = "checkpoint"

    def export(self, job: ExportJob) -> dict[str, Any]:
        if not isinstance(job.network, Network):
            raise ExportError("A checkpoint holds a network as it was trained; its fold is not saved as one.")
        save_checkpoint(job.path, job.network)
        return {}

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> EagerSession:
        return EagerSession(load_checkpoint(artifact.path).model, device, threads)

    def observer(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> NetworkObserver:
        return NetworkObserver(load_checkpoint(artifact.path).model.to(device))


class EagerSession(Session):
    """A network, run as it is, on another device a copy. PyTorch's threads belong to the process: set before every run."""

    def __init__(self, network: torch.nn.Module, device: torch.device, threads: int | None = None) -> None:
        self.device = device
        self._threads = threads
        self._network = (network if device.type == "cpu" else copy.deepcopy(network).to(device)).eval()

    def run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch_threads(self._threads):
            logits: Tensor = self._network(batch)
        return logits


class torch_threads:  # noqa: N801 - a context manager, named like a function
    """Sets PyTorch's number of threads for a while; None leaves it. And keeps float32 what it says on GPUs meanwhile.

    cuDNN may round every product of a float32 convolution to TF32, 10 bits, unless it is told otherwise: torch lets it by default.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads

    def __enter__(self) -> None:
        self._before, self._tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        if self._threads is not None and self._threads != self._before:
            torch.set_num_threads(self._threads)

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = self._tf32
        if torch.get_num_threads() != self._before:
            torch.set_num_threads(self._before)


def without_tf32() -> torch_threads:
    """Keeps float32 what it says, with as many threads as there are."""
    return torch_threads(None)
