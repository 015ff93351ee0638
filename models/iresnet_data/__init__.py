"""Data sets: digits, folders of images, shards and noise. Below training: calibration and verification use them too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iresnet_models.lazy import importer

if TYPE_CHECKING:
    from iresnet_data.datasets import calibration_set, evaluation_pixels, evaluation_set, spec_for, training_pixels, training_set
    from iresnet_data.digits import digits_spec

_LAZY = {
    "calibration_set": "datasets",
    "digits_spec": "digits",
    "evaluation_pixels": "datasets",
    "evaluation_set": "datasets",
    "spec_for": "datasets",
    "training_pixels": "datasets",
    "training_set": "datasets",
}

__all__ = [
    "calibration_set",
    "digits_spec",
    "evaluation_pixels",
    "evaluation_set",
    "spec_for",
    "training_pixels",
    "training_set",
]

__getattr__ = importer(__name__, _LAZY)
