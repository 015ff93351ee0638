"""Artifacts that several tests share; a test that changes one copies it first."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from iresnet_export.artifact import Artifact, open_artifact, record
from iresnet_export.backends.base import ExportOptions
from iresnet_export.exporting import export_artifact
from iresnet_export.source import Source
from iresnet_models.files import sha256_of


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> dict[str, Artifact]:
    """The small network as it is, unfolded, exported to every format that needs no GPU."""
    folder = tmp_path_factory.mktemp("artifacts")
    names = {"torchscript": "small.ts", "onnxruntime": "small.onnx"}
    return {
        name: export_artifact(name, small_source, ExportOptions(fold=False), output=folder / file) for name, file in names.items()
    }


@pytest.fixture(scope="session")
def _references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("references")


@pytest.fixture
def shared_references(_references: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that verify one network again and again and leave the references as they are: each is computed once."""
    monkeypatch.setenv("IRESNET_EXPORT_CACHE", str(_references))


@pytest.fixture
def copied(tmp_path: Path, artifacts: dict[str, Artifact], small_checkpoint: Path) -> Callable[[str], Artifact]:
    """A copy of an artifact, with its manifest and its checkpoint, that a test may spoil."""

    def copy(name: str) -> Artifact:
        original = artifacts[name]
        manifest = original.manifest
        assert manifest is not None
        path = Path(shutil.copy(original.path, tmp_path))
        checkpoint = shutil.copy(small_checkpoint, tmp_path)
        weights = dataclasses.replace(manifest.weights, checkpoint=Path(checkpoint).name)
        return record(path, dataclasses.replace(manifest, weights=weights))

    return copy


@pytest.fixture
def vouch() -> Callable[[Path], Artifact]:
    """Makes a spoiled artifact's manifest fit it, so that no hash gives it away."""

    def fit(path: Path) -> Artifact:
        manifest = open_artifact(path).manifest
        assert manifest is not None
        return record(path, dataclasses.replace(manifest, sha256=sha256_of(path), size_bytes=path.stat().st_size))

    return fit
