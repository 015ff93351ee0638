"""Manifests: complete, relative, and a witness of every change."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from iresnet_export.artifact import Artifact, Manifest, manifest_path, open_artifact
from iresnet_export.backends.base import ExportOptions
from iresnet_export.errors import ArtifactError, InputError, StaleManifestError
from iresnet_export.exporting import export_artifact
from iresnet_export.source import Source, source_from_checkpoint, source_of_artifact, untrained_source
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.files import sha256_of
from iresnet_models.initialization import untrained_network

Copy = Callable[[str], Artifact]


def test_a_manifest_tells_everything_and_no_absolute_path(artifacts: dict[str, Artifact], small_checkpoint: Path) -> None:
    for artifact in artifacts.values():
        data = json.loads(manifest_path(artifact.path).read_text(encoding="utf-8"))
        assert data["sha256"] == sha256_of(artifact.path)
        assert data["size_bytes"] == artifact.path.stat().st_size
        assert data["weights"]["sha256"] == sha256_of(small_checkpoint)
        assert (artifact.path.parent / data["weights"]["checkpoint"]).resolve() == small_checkpoint.resolve()
        assert data["spec"]["depth"] == 18
        assert {"torch", "onnx", "python", "iresnet-export"} <= data["versions"].keys()
        assert data["hardware"]["cores"] >= 1
        text = json.dumps({key: value for key, value in data.items() if key != "command"})
        assert '"/' not in text
        assert str(Path.home()) not in text
        assert Manifest.from_json(data, artifact.path) == artifact.manifest


def test_the_folder_can_be_moved(tmp_path: Path, small_checkpoint: Path) -> None:
    home = tmp_path / "one"
    (home / "runs").mkdir(parents=True)
    checkpoint = Path(shutil.copy(small_checkpoint, home / "runs"))
    export_artifact("onnxruntime", source_from_checkpoint(checkpoint), ExportOptions(), output=home / "artifacts" / "a.onnx")
    home.rename(tmp_path / "two")
    moved = open_artifact(tmp_path / "two" / "artifacts" / "a.onnx")
    assert source_of_artifact(moved).weights.sha256 == sha256_of(small_checkpoint)


def test_a_changed_file_is_stale(copied: Copy) -> None:
    artifact = copied("onnxruntime")
    data = bytearray(artifact.path.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.path.write_bytes(data)
    with pytest.raises(StaleManifestError, match="changed or replaced"):
        open_artifact(artifact.path).require_intact()


def test_another_checkpoint_in_the_same_place_is_stale(copied: Copy, small_spec: ModelSpec, tmp_path: Path) -> None:
    artifact = copied("onnxruntime")
    save_checkpoint(tmp_path / "small.pt", untrained_network(small_spec, seed=2))
    with pytest.raises(StaleManifestError, match="exported from another checkpoint"):
        source_of_artifact(artifact)


def test_a_checkpoint_that_is_gone_is_named(copied: Copy, tmp_path: Path) -> None:
    artifact = copied("onnxruntime")
    (tmp_path / "small.pt").unlink()
    with pytest.raises(InputError, match=r"small\.pt, is no longer there.*--checkpoint"):
        source_of_artifact(artifact)


def test_untrained_weights_are_made_again_and_their_hash_checked(small_spec: ModelSpec, tmp_path: Path) -> None:
    artifact = export_artifact("onnxruntime", untrained_source(small_spec, 5), ExportOptions(), output=tmp_path / "u.onnx")
    assert artifact.manifest is not None
    assert artifact.manifest.weights.checkpoint is None
    assert source_of_artifact(artifact).weights.sha256 == artifact.manifest.weights.sha256
    weights = dataclasses.replace(artifact.manifest.weights, seed=6)
    lying = dataclasses.replace(artifact, manifest=dataclasses.replace(artifact.manifest, weights=weights))
    with pytest.raises(StaleManifestError, match="cannot be made again"):
        source_of_artifact(lying)


def test_renewing_the_same_export_needs_no_force_and_another_does(
    small_source: Source, small_spec: ModelSpec, tmp_path: Path
) -> None:
    output = tmp_path / "a.onnx"
    export_artifact("onnxruntime", small_source, ExportOptions(), output=output)
    export_artifact("onnxruntime", small_source, ExportOptions(), output=output)
    before = output.read_bytes()
    for source, options in ((untrained_source(small_spec, 9), ExportOptions()), (small_source, ExportOptions(opset=19))):
        with pytest.raises(InputError, match=r"another making.*--force"):
            export_artifact("onnxruntime", source, options, output=output)
    assert output.read_bytes() == before
    export_artifact("onnxruntime", small_source, ExportOptions(opset=19), output=output, force=True)
    assert output.read_bytes() != before


def test_a_file_of_somebody_else_is_not_replaced(small_source: Source, tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="another origin"):
        export_artifact("onnxruntime", small_source, ExportOptions(), output=tmp_path / "notes.onnx")
    assert (tmp_path / "notes.onnx").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"text"), ("a.ts", b"PK\x03\x04 cut"), ("archive.zip", b"PK\x05\x06" + bytes(18)), ("none.ts", b"\0" * 50)],
)
def test_files_that_are_no_artifacts(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match="not an artifact that this project knows"):
        open_artifact(tmp_path / name)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "other/1"}', '{"schema": "iresnet-export/manifest/1", "spec": {}}'])
def test_damaged_manifests(text: str, copied: Copy) -> None:
    artifact = copied("onnxruntime")
    manifest_path(artifact.path).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"small\.onnx\.json"):
        open_artifact(artifact.path)
