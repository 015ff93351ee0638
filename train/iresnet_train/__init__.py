"""How an iResNet learns: data sets, recipes, the training loop, accuracy.

`TrainConfig`, the presets and `config_for` need no torch; the other names import it when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iresnet_train.config import DIGITS, OFFICIAL, PRESETS, TrainConfig, config_for

if TYPE_CHECKING:
    from iresnet_train.data import digits_spec, evaluation_images, evaluation_set, spec_for, training_images, training_set
    from iresnet_train.loader import Loader
    from iresnet_train.loop import Progress, TrainingResult, train
    from iresnet_train.metrics import Evaluation, evaluate

_LAZY = {
    "Evaluation": "metrics",
    "Loader": "loader",
    "Progress": "loop",
    "TrainingResult": "loop",
    "digits_spec": "data",
    "evaluate": "metrics",
    "evaluation_images": "data",
    "evaluation_set": "data",
    "spec_for": "data",
    "train": "loop",
    "training_images": "data",
    "training_set": "data",
}

__all__ = [
    "DIGITS",
    "OFFICIAL",
    "PRESETS",
    "Evaluation",
    "Loader",
    "Progress",
    "TrainConfig",
    "TrainingResult",
    "config_for",
    "digits_spec",
    "evaluate",
    "evaluation_images",
    "evaluation_set",
    "spec_for",
    "train",
    "training_images",
    "training_set",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
