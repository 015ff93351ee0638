"""Images that are unlike those that codes were calibrated on are told as that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from iresnet_data.datasets import evaluation_pixels
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.exporting import export_artifact
from iresnet_export.verification.calibrated import unlike_calibration
from iresnet_export.verification.deployment import Deployment


@pytest.fixture(scope="module")
def deployment(small_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    options = ExportOptions(precision="int8", calibration_data="digits", calibration_images=64, calibrator="minmax")
    made = export_artifact("onnx", small_source, options, output=tmp_path_factory.mktemp("int8") / "x.onnx")
    return Deployment(small_source, made.manifest)


def said(deployment: Deployment, pixels: Tensor) -> str | None:
    reference: Any = SimpleNamespace(pixels=pixels, source=deployment.source)
    return unlike_calibration(deployment, reference)


@pytest.fixture
def digits(small_source: Source) -> Tensor:
    return evaluation_pixels("digits", small_source.spec, 32, seed=0)[0]


def test_other_images_of_the_kind_are_no_others(deployment: Deployment, digits: Tensor) -> None:
    assert said(deployment, digits) is None


def test_inverted_images_leave_the_ranges(deployment: Deployment, digits: Tensor) -> None:
    told = str(said(deployment, 255 - digits))
    assert told.startswith("the images differ from those that it was calibrated on: ")
    assert "of the values of " in told
    assert "beyond their ranges" in told


def test_images_of_no_contrast_leave_the_ranges_empty(deployment: Deployment, digits: Tensor) -> None:
    grey = (digits.float().mean() + 0.05 * (digits.float() - digits.float().mean())).round().to(torch.uint8)
    told = str(said(deployment, grey))
    assert "of their ranges" in told
