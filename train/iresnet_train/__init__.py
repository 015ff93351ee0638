"""How an iResNet learns: data sets, recipes, the training loop, accuracy.

`TrainConfig`, the presets and `config_for` need no torch; the other names import it when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iresnet_train.config import DIGITS, OFFICIAL, PRESETS, TrainConfig, config_for

if TYPE_CHECKING:
    from iresnet_train.data import (
        calibration_set,
        digits_spec,
        evaluation_pixels,
        evaluation_set,
        spec_for,
        training_pixels,
        training_set,
    )
    from iresnet_train.loader import Loader
    from iresnet_train.loop import Progress, TrainingResult, train
    from iresnet_train.metrics import Evaluation, evaluate

_LAZY = {
    "Evaluation": "metrics",
    "Loader": "loader",
    "Progress": "loop",
    "TrainingResult": "loop",
    "calibration_set": "data",
    "digits_spec": "data",
    "evaluate": "metrics",
    "evaluation_pixels": "data",
    "evaluation_set": "data",
    "spec_for": "data",
    "train": "loop",
    "training_pixels": "data",
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
    "calibration_set",
    "config_for",
    "digits_spec",
    "evaluate",
    "evaluation_pixels",
    "evaluation_set",
    "spec_for",
    "train",
    "training_pixels",
    "training_set",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
