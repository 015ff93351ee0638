"""How an iResNet learns: data sets, recipes, the training loop, accuracy.

`TrainConfig`, the presets and `config_for` need no torch; the other names import it when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from iresnet_train.config import TrainConfig
from iresnet_train.presets import DIGITS, MODERN, OFFICIAL, PRESETS, config_for

if TYPE_CHECKING:
    from iresnet_train.data import (
        calibration_set,
        evaluation_pixels,
        evaluation_set,
        spec_for,
        training_pixels,
        training_set,
    )
    from iresnet_train.digits import digits_spec
    from iresnet_train.loader import Loader
    from iresnet_train.loop import train
    from iresnet_train.metrics import Evaluation, evaluate
    from iresnet_train.records import Progress, TrainingResult

_LAZY = {
    "Evaluation": "metrics",
    "Loader": "loader",
    "Progress": "records",
    "TrainingResult": "records",
    "calibration_set": "data",
    "digits_spec": "digits",
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
    "MODERN",
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
