"""PyTorch itself: the baseline that every artifact is compared with."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.backends.base import ExportJob, Format, Runtime, Session
from iresnet_export.errors import ExportError
from iresnet_export.graph.ir import Graph
from iresnet_export.graph.network import NetworkProbe, graph_of_network
from iresnet_export.system.torch_settings import torch_threads
from iresnet_models.checkpoint import load_checkpoint, save_checkpoint
from iresnet_models.network import Network


class Checkpoint(Format):
    name: ClassVar[FormatName] = "checkpoint"
    suffix: ClassVar[str] = ".pt"

    def write(self, job: ExportJob) -> dict[str, Any]:
        if not isinstance(job.network, Network):
            raise ExportError("A checkpoint holds a network as it was trained; its fold is not saved as one.")
        save_checkpoint(job.path, job.network)
        return {}

    def read(self, artifact: Artifact) -> Graph:
        return graph_of_network(load_checkpoint(artifact.path, which=artifact.which).model)


class Eager(Runtime):
    name: ClassVar[str] = "eager"
    format: ClassVar[FormatName] = "checkpoint"

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> EagerSession:
        return EagerSession(load_checkpoint(artifact.path, which=artifact.which).model, device, threads)

    def probe(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> NetworkProbe:
        return NetworkProbe(load_checkpoint(artifact.path, which=artifact.which).model.to(device))


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
