"""How a candidate is opened: here, or in a fresh process that is told by JSON."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from iresnet_export.artifacts.artifact import open_artifact
from iresnet_export.backends.base import Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.registry import runtime_named
from iresnet_export.errors import UnavailableError
from iresnet_export.system.torch_settings import torch_threads
from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.preprocessing import noise_pixels, normalised
from iresnet_models.spec import NetworkSpec, spec_from_json

COMPILED, TORCHVISION = "torch.compile", "torchvision"
"""Two peers that are no backends of ours: nothing is exported to them."""


@dataclass(frozen=True)
class Recipe:
    """`opener` is a runtime as the registry spells it, `torch.compile` or `torchvision`; `path` an artifact or a checkpoint.

    A `network` is of this process alone: there is no file then, and no other process can open it.
    """

    opener: str
    path: Path | None
    spec: NetworkSpec
    device: torch.device
    threads: int
    trust: bool = False
    network: nn.Module | None = None

    def open(self) -> Session:
        """A session; UnavailableError where it cannot be had here."""
        if self.opener == TORCHVISION:
            return EagerSession(torchvision_resnet(self.spec), self.device, self.threads)
        if self.opener == COMPILED:
            network = self.network or load_checkpoint(self.file).model
            return CompiledNetworkSession(network, self.device, self.threads)
        if self.network is not None:
            return EagerSession(self.network, self.device, self.threads)
        return runtime_named(self.opener).load(open_artifact(self.file), self.device, threads=self.threads, trust=self.trust)

    @property
    def file(self) -> Path:
        """UnavailableError where there is none."""
        if self.path is None:
            raise UnavailableError(f"{self.spec.name} is a module in memory, which no other process can open")
        return self.path

    def to_json(self) -> dict[str, Any]:
        """UnavailableError where it is of this process alone."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "network"}
        return plain | {"path": str(self.file), "spec": self.spec.to_json(), "device": str(self.device)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        made = {"path": Path(data["path"]), "spec": spec_from_json(data["spec"]), "device": torch.device(data["device"])}
        return cls(**data | made)


class CompiledNetworkSession(Session):
    """`torch.compile` as it comes: compiled for the first batch size, and at the next one for all others."""

    def __init__(self, network: nn.Module, device: torch.device, threads: int | None) -> None:
        self.device, self._threads = device, threads
        # It says on every CPU that there is no CUDA.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        self._network = torch.compile(network.eval().to(device))

    def run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), torch_threads(self._threads):
            logits: Tensor = self._network(batch)
        return logits


def torchvision_resnet(spec: NetworkSpec) -> nn.Module:
    """torchvision's ResNet of the spec's depth and classes, untrained; AttributeError where it has none."""
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = getattr(models, f"resnet{spec.depth}")(weights=None, num_classes=spec.num_classes)
    return made


def noise_inputs(spec: NetworkSpec, session: Session, batch: int, seed: int = 0) -> Tensor:
    """Inputs of noise in host memory, as the session takes them."""
    pixels = noise_pixels(spec, batch, seed)
    return pixels if session.with_preprocessing else normalised(pixels, spec)


def host_to_host(session: Session, images: Tensor) -> Tensor:
    """One inference: from images in host memory to logits in host memory."""
    return session.run(images.to(session.device, non_blocking=True)).cpu()
