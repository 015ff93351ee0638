"""Artifacts of a checkpoint that holds averaged weights and others: each remembers which it was made from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

import iresnet_export as ie
from iresnet_export.artifacts.artifact import Artifact, open_artifact, record
from iresnet_export.artifacts.source import source_from_checkpoint, source_of_artifact
from iresnet_export.artifacts.subject import subject_of
from iresnet_export.backends.base import ExportOptions
from iresnet_export.errors import InputError, StaleManifestError
from iresnet_export.exporting import export_artifact
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models import ModelSpec, load_checkpoint
from iresnet_models.initialization import untrained_network
from iresnet_models.spec import SpecOptions, Which


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As timm saves a network and its average."""
    spec = ModelSpec("resnet", 18, num_classes=3, image_size=32, resize=32)
    raw, average = (untrained_network(spec, seed=seed).state_dict() for seed in (1, 2))
    path = tmp_path_factory.mktemp("both") / "last.pth.tar"
    torch.save({"state_dict": raw, "state_dict_ema": average, "arch": "resnet18", "version": 2, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def made(both: Path) -> dict[Which, Artifact]:
    """An export of each."""
    kinds: tuple[Which, ...] = ("average", "raw")
    sources = {which: source_from_checkpoint(both, which=which, said=SpecOptions(image_size=32)) for which in kinds}
    return {
        which: export_artifact("onnx", source, ExportOptions(fold=False), output=both.parent / f"{which}.onnx")
        for which, source in sources.items()
    }


def test_verify_takes_the_weights_that_an_artifact_was_made_from(both: Path, made: dict[Which, Artifact]) -> None:
    paths = [artifact.path for artifact in made.values()]
    found = verify(paths, VerifyOptions(images=32, batch_sizes=(1,), backends=("onnxruntime",)))
    assert [candidate.status for candidate in found.candidates] == ["pass", "pass"]
    assert len(found.references) == 2  # of one file, and yet of two networks
    assert [artifact.manifest.weights.which for artifact in made.values() if artifact.manifest] == ["average", "raw"]


@pytest.mark.parametrize("told", ["raw", None])
def test_a_manifest_that_tells_of_other_weights_fails(told: Which | None, made: dict[Which, Artifact], tmp_path: Path) -> None:
    original = made["average"]
    manifest = original.require_intact()
    path = tmp_path / "edited.onnx"
    path.write_bytes(original.path.read_bytes())
    record(path, dataclasses.replace(manifest, weights=dataclasses.replace(manifest.weights, which=told)))
    (candidate,) = verify([path], VerifyOptions(checkpoint=original.path.parent / "last.pth.tar", quick=True)).candidates
    assert candidate.status == "fail"


def test_other_weights_than_the_recorded_ones_are_refused(both: Path, made: dict[Which, Artifact]) -> None:
    artifact = open_artifact(made["average"].path)
    for given, which in ((both, "raw"), (source_from_checkpoint(both, which="raw", said=SpecOptions(image_size=32)), None)):
        with pytest.raises(StaleManifestError, match="is of the averaged weights of its checkpoint"):
            source_of_artifact(artifact, given, which)
    assert source_of_artifact(artifact, both, "average").weights.which == "average"


def test_other_weights_than_the_recorded_ones_are_not_evaluated_in_their_place(made: dict[Which, Artifact]) -> None:
    pairs: list[tuple[Which, Which]] = [("raw", "average"), ("average", "raw")]
    for own, other in pairs:
        artifact = open_artifact(made[own].path)
        assert subject_of(artifact, None, own).weights.which == own
        with pytest.raises(InputError, match=f"weights of its checkpoint, as its manifest says, and --which {other} was asked for"):
            subject_of(artifact, None, other)
    assert artifact.manifest is not None
    only = dataclasses.replace(artifact.manifest.weights, which=None)
    artifact = dataclasses.replace(artifact, manifest=dataclasses.replace(artifact.manifest, weights=only))
    assert subject_of(artifact, None, "raw").weights.which is None, "of weights that are no average"
    with pytest.raises(InputError, match="is of the only weights"):
        subject_of(artifact, None, "average")


def test_which_weights_by_every_way_in(both: Path, tmp_path: Path) -> None:
    average, raw = (load_checkpoint(both, which=which).model.fc.weight for which in ("average", "raw"))
    assert torch.equal(ie.load(both).network.fc.weight, average)
    assert torch.equal(ie.load(both, which="raw").network.fc.weight, raw)
    with pytest.raises(InputError, match="which is one of average, raw, not 'ema'"):
        ie.load(both, which="ema")
    images = torch.randn(1, 3, 224, 224)
    with open_as(both, "raw") as session:
        expected = load_checkpoint(both, which="raw").model(images)
        torch.testing.assert_close(session.run(images), expected.detach())
    found = ie.inspect(both, which="raw", save=tmp_path / "raw.safetensors")
    assert found.notes["which weights"] == "the raw ones; --which average takes the averaged ones, in state_dict_ema"
    saved = load_checkpoint(tmp_path / "raw.safetensors")
    assert torch.equal(saved.model.fc.weight, raw)
    assert (saved.layout.which, saved.details["epoch"], saved.spec.name) == ("raw", 3, "resnet18")
    ie.inspect(tmp_path / "raw.safetensors", save=tmp_path / "again.pt")
    for file in (both, tmp_path / "raw.safetensors", tmp_path / "again.pt"):
        assert not load_checkpoint(file).says_preprocessing, "what no file has said is not made up by saving it"
    with pytest.raises(InputError, match="is there already"):
        ie.inspect(both, save=tmp_path / "raw.safetensors")


def open_as(path: Path, which: Which) -> ie.Session:
    return ie.open(open_artifact(path, which)).session()
