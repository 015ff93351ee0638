"""What of a network is trained, and how fast: frozen parts, frozen statistics, and rates that fall from the head down."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import Parameter

from iresnet_models.network import Network
from iresnet_train.config import TrainConfig


def freeze(network: Network, config: TrainConfig) -> None:
    """Takes the frozen parts out of training: no gradient is computed of their weights, or through them."""
    for module in _frozen_parts(network, config):
        module.requires_grad_(False)


def still_modules(network: Network, config: TrainConfig) -> list[nn.Module]:
    """What stays in evaluation mode throughout training: the frozen parts, and the BatchNorms whose statistics are frozen."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)] if config.freeze_bn else []
    return [*_frozen_parts(network, config), *norms]


def parameter_groups(network: Network, config: TrainConfig) -> list[dict[str, Any]]:
    """The weights that are trained, by their weight decay and their share of the learning rate (`lr_share`)."""
    norms = {value for module in network.modules() if isinstance(module, _BatchNorm) for value in module.parameters()}
    norm_decay = config.weight_decay if config.norm_weight_decay is None else config.norm_weight_decay
    groups = defaultdict[tuple[float, float], list[Parameter]](list)
    below_head = len(network.parts) - 1
    for depth, modules in enumerate(network.parts.values()):
        share = config.layer_decay ** (below_head - depth)
        for value in (value for module in modules for value in module.parameters() if value.requires_grad):
            groups[share, norm_decay if value in norms else config.weight_decay].append(value)
    return [{"params": values, "lr_share": share, "weight_decay": decay} for (share, decay), values in groups.items()]


def _frozen_parts(network: Network, config: TrainConfig) -> list[nn.Module]:
    parts = network.parts
    count = 0 if config.freeze_until == "none" else 1 + list(parts).index(config.freeze_until)
    return [module for modules in list(parts.values())[:count] for module in modules]
