"""iResNet and its family as PyTorch networks, and their checkpoints.

`ModelSpec` and `list_models` need no torch; the other names import it when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iresnet_models.lazy import importer
from iresnet_models.spec import ModelSpec, list_models

if TYPE_CHECKING:
    from iresnet_models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from iresnet_models.folded import FoldedNetwork
    from iresnet_models.folding import fold
    from iresnet_models.network import Network, build_model, network_from_spec

_LAZY = {
    "FoldedNetwork": "folded",
    "fold": "folding",
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "Network": "network",
    "build_model": "network",
    "network_from_spec": "network",
}

__all__ = [
    "Checkpoint",
    "FoldedNetwork",
    "ModelSpec",
    "Network",
    "build_model",
    "fold",
    "list_models",
    "load_checkpoint",
    "network_from_spec",
    "save_checkpoint",
]

__getattr__ = importer(__name__, _LAZY)
