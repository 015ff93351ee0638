"""Fixtures that every test may use."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from browser import chromium

from iresnet_export.artifacts.artifact import Artifact, open_artifact, record
from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.backends.base import ExportOptions
from iresnet_export.exporting import export_artifact
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.files import sha256_of
from iresnet_models.initialization import untrained_network

# Test processes share the cores: each takes its part, so that none waits for another's threads.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
torch.set_num_threads(max(1, (os.cpu_count() or 1) // _WORKERS))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that cannot run here are skipped, and counted with their reason."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
        if item.get_closest_marker("compiler") and not _has_compiler():
            item.add_marker(pytest.mark.skip(reason="needs a C++ compiler"))
        if item.get_closest_marker("browser") and chromium() is None:
            item.add_marker(pytest.mark.skip(reason="needs Chromium"))
        if item.get_closest_marker("slow") and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --run-slow, as CI does"))


@functools.cache
def _has_compiler() -> bool:
    from iresnet_export.backends.aotinductor.package import cpp_compiler
    from iresnet_export.errors import UnavailableError

    try:
        cpp_compiler()
    except UnavailableError:
        return False
    return True


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test writes to a default place lands in the project."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _no_shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that several tests share neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRESNET_EXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_shared_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests remember of checkpoints never lands in the user's state folder, nor is it read from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a test, and none finds what another left. The folder is beside the test's own, which some tests expect empty."""
    monkeypatch.setenv("IRESNET_EXPORT_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `iresnet-export` with the given arguments in this process."""
    from iresnet_export.cli.main import main

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["iresnet-export", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def small_spec() -> ModelSpec:
    """iResNet-18 for ten classes of 32 pixel images: runs in a millisecond."""
    return ModelSpec("iresnet", 18, num_classes=10, image_size=32, resize=32)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_spec: ModelSpec) -> Path:
    """A checkpoint of ours of the small network."""
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    save_checkpoint(path, untrained_network(small_spec, seed=1))
    return path


@pytest.fixture(scope="session")
def small_source(small_checkpoint: Path) -> Source:
    return source_from_checkpoint(small_checkpoint)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> dict[str, Artifact]:
    """The small network as it is, unfolded, exported to every format that needs no GPU."""
    folder = tmp_path_factory.mktemp("artifacts")
    names = {"torchscript": "small.ts", "onnx": "small.onnx"}
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
