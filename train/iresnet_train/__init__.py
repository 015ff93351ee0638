"""How an iResNet learns: recipes, the training loop, accuracy.

`TrainConfig`, the presets and `config_for` need no torch; the other names import it when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iresnet_models.lazy import importer
from iresnet_train.config import TrainConfig
from iresnet_train.presets import DIGITS, FINETUNE, MODERN, OFFICIAL, PRESETS, config_for

if TYPE_CHECKING:
    from iresnet_train.loader import Loader
    from iresnet_train.loop import train
    from iresnet_train.metrics import Evaluation, evaluate
    from iresnet_train.records import Progress, TrainingResult

_LAZY = {
    "Evaluation": "metrics",
    "Loader": "loader",
    "Progress": "records",
    "TrainingResult": "records",
    "evaluate": "metrics",
    "train": "loop",
}

__all__ = [
    "DIGITS",
    "FINETUNE",
    "MODERN",
    "OFFICIAL",
    "PRESETS",
    "Evaluation",
    "Loader",
    "Progress",
    "TrainConfig",
    "TrainingResult",
    "config_for",
    "evaluate",
    "train",
]

__getattr__ = importer(__name__, _LAZY)
