"""Artifacts of the small network, for every test of the benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.exporting import export_artifact


@pytest.fixture(scope="session")
def benched(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> dict[str, Artifact]:
    """The small network, unfolded, as ONNX and as TorchScript. A test that changes one copies it first."""
    folder = tmp_path_factory.mktemp("benched")
    names = {"torchscript": "small.ts", "onnx": "small.onnx"}
    options = ExportOptions(fold=False)
    return {name: export_artifact(name, small_source, options, output=folder / file) for name, file in names.items()}


@pytest.fixture(scope="session")
def benched_paths(benched: dict[str, Artifact]) -> list[Path]:
    return [artifact.path for artifact in benched.values()]
