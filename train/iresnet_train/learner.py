"""A network that is being trained, with its optimizer, on its device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.errors import InputError
from iresnet_models.network import Network, network_from_spec
from iresnet_models.spec import ModelSpec
from iresnet_train.config import TrainConfig
from iresnet_train.metrics import Evaluation, count

_CHANNELS_LAST_FROM = 112
"""Pixels from which channels-last order trains faster: 11 % at 112, 16 % at 224; not at 32 and 64 (two cores of an EPYC)."""


class Learner:
    """Takes a training step in two halves, so that a bad loss can be stopped before it reaches the weights."""

    def __init__(self, config: TrainConfig, spec: ModelSpec, device: torch.device) -> None:
        self.model = _initial_model(config, spec).to(device)
        self._device = device
        self._layout = torch.channels_last if config.train_crop_size >= _CHANNELS_LAST_FROM else torch.contiguous_format
        self.model.to(memory_format=self._layout)
        self._optimizer = SGD(
            self.model.parameters(), config.lr, momentum=config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay
        )

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    def backward(self, images: Tensor, labels: Tensor) -> tuple[float, Evaluation]:
        """The mean loss of a batch, whose gradients are left in the network, and what was counted."""
        self.model.train()
        logits = self._logits(images)
        loss = cross_entropy(logits, labels.to(self._device, non_blocking=True))
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), count(logits, labels)

    def update(self, lr: float) -> None:
        """Moves the weights along the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def predict(self, images: Tensor) -> Tensor:
        """Logits of a batch, as the exported network is to give them."""
        self.model.eval()
        with torch.no_grad():
            return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.to(self._device, memory_format=self._layout, non_blocking=True))
        return logits


def _initial_model(config: TrainConfig, spec: ModelSpec) -> Network:
    """A fresh network, or the one of `config.pretrained` with a fresh classifier where the classes are others."""
    if config.pretrained is None:
        return network_from_spec(spec, zero_init_residual=config.zero_init_residual)
    source = load_checkpoint(config.pretrained, arch=config.arch, depth=config.depth)
    if config.groups not in (None, source.spec.groups):
        raise InputError(
            f"{config.pretrained} holds {source.spec.name} with {source.spec.groups} groups, but {config.groups} were asked for. "
            "Leave out --groups, or name another checkpoint."
        )
    model = network_from_spec(replace(spec, groups=source.spec.groups))
    fresh = {} if _same_classes(source.spec, spec) else {"fc.weight": model.fc.weight, "fc.bias": model.fc.bias}
    model.load_state_dict(source.model.state_dict() | fresh)
    return model


def _same_classes(source: ModelSpec, spec: ModelSpec) -> bool:
    """Whether the classes are as many, and of the same names where both are known."""
    return source.num_classes == spec.num_classes and (source.labels is None or source.labels == spec.labels)
