"""Manifests: complete, relative, and a witness of every change."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.manifest import Manifest, manifest_path
from iresnet_export.artifacts.source import Source, source_from_checkpoint, source_of_artifact, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.format import OnnxOptions
from iresnet_export.errors import ArtifactError, InputError, StaleManifestError
from iresnet_export.exporting import export_artifact
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
        assert data["weights"]["checkpoint"] == small_checkpoint.name  # which lies elsewhere: where, no file says
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
    export_artifact("onnx", source_from_checkpoint(checkpoint), ExportOptions(), output=home / "artifacts" / "a.onnx")
    home.rename(tmp_path / "two")
    moved = open_artifact(tmp_path / "two" / "artifacts" / "a.onnx")
    assert source_of_artifact(moved).weights.sha256 == sha256_of(small_checkpoint)


def test_a_changed_file_is_stale(copied: Copy) -> None:
    artifact = copied("onnx")
    data = bytearray(artifact.path.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.path.write_bytes(data)
    with pytest.raises(StaleManifestError, match="changed or replaced"):
        open_artifact(artifact.path).require_intact()


def test_another_checkpoint_in_the_same_place_is_stale(
    copied: Copy, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = copied("onnx")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))  # who remembers no other place of the right one
    save_checkpoint(tmp_path / "small.pt", untrained_network(small_spec, seed=2))
    with pytest.raises(StaleManifestError, match="exported from another checkpoint"):
        source_of_artifact(artifact)


def test_a_checkpoint_that_is_gone_is_named(copied: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = copied("onnx")
    (tmp_path / "small.pt").unlink()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))
    with pytest.raises(InputError, match=r"small\.pt', is not in its folder.*--checkpoint"):
        source_of_artifact(artifact)


def in_default_layout(folder: Path, small_checkpoint: Path) -> Artifact:
    """An artifact in artifacts/ whose checkpoint lies in runs/, beside it."""
    (folder / "runs").mkdir(parents=True)
    source = source_from_checkpoint(Path(shutil.copy(small_checkpoint, folder / "runs" / "best.pt")))
    return export_artifact("onnx", source, ExportOptions(), output=folder / "artifacts" / "a.onnx")


def test_a_checkpoint_elsewhere_is_remembered_outside_the_file(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    artifact = in_default_layout(tmp_path / "home", small_checkpoint)
    assert artifact.require_intact().weights.checkpoint == "best.pt"
    assert source_of_artifact(artifact).checkpoint == (tmp_path / "home" / "runs" / "best.pt").resolve()
    (artifact.path.parent / "best.pt").write_bytes(b"another of the same name")
    assert source_of_artifact(artifact).checkpoint == (tmp_path / "home" / "runs" / "best.pt").resolve()
    (artifact.path.parent / "best.pt").unlink()
    save_checkpoint(tmp_path / "home" / "runs" / "best.pt", untrained_network(artifact.require_intact().spec, seed=9))
    with pytest.raises(StaleManifestError, match="exported from another checkpoint"):
        source_of_artifact(artifact)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))
    with pytest.raises(InputError, match="--checkpoint"):
        source_of_artifact(artifact)
    assert source_of_artifact(artifact, small_checkpoint).weights.sha256 == sha256_of(small_checkpoint)


def test_a_checkpoint_in_the_artifacts_folder_goes_with_it(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one" / "weights").mkdir(parents=True)
    checkpoint = Path(shutil.copy(small_checkpoint, tmp_path / "one" / "weights"))
    export_artifact("onnx", source_from_checkpoint(checkpoint), ExportOptions(), output=tmp_path / "one" / "a.onnx")
    (tmp_path / "one").rename(tmp_path / "two")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))
    moved = open_artifact(tmp_path / "two" / "a.onnx")
    assert moved.require_intact().weights.checkpoint == "weights/small.pt"
    assert source_of_artifact(moved).weights.sha256 == sha256_of(small_checkpoint)


@pytest.mark.parametrize("place", ["../small.pt", "/etc/passwd", "a/../../small.pt", "..", "."])
def test_a_manifest_leads_nowhere_out_of_its_folder(place: str, copied: Copy, small_checkpoint: Path) -> None:
    artifact = copied("onnx")
    data = json.loads(manifest_path(artifact.path).read_text(encoding="utf-8"))
    data["weights"]["checkpoint"], data["parent"] = place, {"file": place, "sha256": data["sha256"]}
    manifest_path(artifact.path).write_text(json.dumps(data), encoding="utf-8")
    lying = open_artifact(artifact.path)
    with pytest.raises(ArtifactError, match=r"leads out of its folder.*--checkpoint"):
        source_of_artifact(lying)
    with pytest.raises(ArtifactError, match="leads out of its folder"):
        lying.parent()
    assert source_of_artifact(lying, small_checkpoint).weights.sha256 == data["weights"]["sha256"]


def test_untrained_weights_are_made_again_and_their_hash_checked(small_spec: ModelSpec, tmp_path: Path) -> None:
    artifact = export_artifact("onnx", untrained_source(small_spec, 5), ExportOptions(), output=tmp_path / "u.onnx")
    assert artifact.manifest is not None
    assert artifact.manifest.weights.checkpoint is None
    assert source_of_artifact(artifact).weights.sha256 == artifact.manifest.weights.sha256
    weights = dataclasses.replace(artifact.manifest.weights, seed=6)
    lying = dataclasses.replace(artifact, manifest=dataclasses.replace(artifact.manifest, weights=weights))
    with pytest.raises(StaleManifestError, match="cannot be made again"):
        source_of_artifact(lying)


@pytest.mark.slow
def test_renewing_the_same_export_needs_no_force_and_another_does(
    small_source: Source, small_spec: ModelSpec, tmp_path: Path
) -> None:
    output = tmp_path / "a.onnx"
    export_artifact("onnx", small_source, ExportOptions(), output=output)
    export_artifact("onnx", small_source, ExportOptions(), output=output)
    before = output.read_bytes()
    for source, options in ((untrained_source(small_spec, 9), ExportOptions()), (small_source, OnnxOptions(opset=19))):
        with pytest.raises(InputError, match=r"another recipe.*--force"):
            export_artifact("onnx", source, options, output=output)
    assert output.read_bytes() == before
    export_artifact("onnx", small_source, OnnxOptions(opset=19), output=output, force=True)
    assert output.read_bytes() != before


def test_a_file_of_somebody_else_is_not_replaced(small_source: Source, tmp_path: Path) -> None:
    (tmp_path / "notes.onnx").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="another origin"):
        export_artifact("onnx", small_source, ExportOptions(), output=tmp_path / "notes.onnx")
    assert (tmp_path / "notes.onnx").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"text"), ("a.ts", b"PK\x03\x04 cut"), ("archive.zip", b"PK\x05\x06" + bytes(18)), ("none.ts", b"\0" * 50)],
)
def test_files_that_are_no_artifacts(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not an artifact that this project knows|an archive without its end"):
        open_artifact(tmp_path / name)


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"schema": "other/1"}', '{"schema": "iresnet-export/manifest/1", "spec": {}}', NESTED, "\ufeff{}"),
        '{"schema": NaN}',
        '{"schema": "iresnet-export/manifest/1", "schema": "iresnet-export/manifest/1"}',
        '{"schema": "\\ud800"}',
        '{"schema": ' + NESTED + "}",
        '{"size_bytes": ' + "9" * 5000 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_damaged_manifests(text: str, copied: Copy) -> None:
    artifact = copied("onnx")
    manifest_path(artifact.path).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"small\.onnx\.json"):
        open_artifact(artifact.path)


@pytest.fixture(scope="module")
def folded(small_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = tmp_path_factory.mktemp("folded") / "small.onnx"
    return export_artifact("onnx", small_source, ExportOptions(), output=output)


FIELDS: list[tuple[str, object]] = [
    ("file", 3),
    ("file", "a\0b"),
    ("format", "engine"),
    ("format", "exe"),
    ("sha256", "zz"),
    ("sha256", None),
    ("size_bytes", -1),
    ("size_bytes", 10**400),
    ("size_bytes", True),
    ("spec", None),
    ("spec.data", "pipe:touch was-run; false"),
    ("spec.data", "http://127.0.0.1:9/x.tar"),
    ("spec.data", "/etc"),
    ("spec.data", "synthetic:99999999999"),
    ("spec.std", [0.0, 1.0, 1.0]),
    ("spec.std", [1.0, 1.0]),
    ("spec.mean", [float("nan")] * 3),
    ("spec.resize", 1_000_000),
    ("spec.interpolation", "lanczos"),
    ("spec.num_classes", 10**9),
    ("spec.labels", [1] * 10),
    ("spec.dropout", float("nan")),
    ("spec.depth", "18"),
    ("spec.surprise", 1),
    ("weights.kind", "magic"),
    ("weights.sha256", "0" * 63),
    ("weights.seed", -1),
    ("weights.checkpoint", 5),
    ("weights.checkpoint", "x" * 5000),
    ("precision", "fp3"),
    ("precision", 8),
    ("fold", 1),
    ("batch", [0, 4]),
    ("batch", [-1, 4]),
    ("batch", [8, 1]),
    ("batch", [1, 10**12]),
    ("batch", [1]),
    ("batch", {"1": 2}),
    ("with_preprocessing", "no"),
    ("parent", []),
    ("parent", {"file": "a.onnx"}),
    ("details", []),
    ("details.settings", 3),
    ("details.settings.version_compatible", "yes"),
    ("details.fold", 1),
    ("details.fold.plan.tau", float("nan")),
    ("details.fold.plan.tau", 1e308),
    ("details.fold.plan.sample", [1, 2, 3]),
    ("details.fold.plan.scales", [None]),
    ("details.fold.plan.scales", [[1e-320], None, None, None]),
    ("details.fold.plan.norms", {"a": {"kept": [10**400]}}),
    ("details.fold.plan.norms", {"a": {"off": {"9" * 5000: 1.0}}}),
    ("details.fold.proof.error_ratio", "small"),
    ("details.multiply_accumulates", {"int8": "all"}),
    ("details.quantization", []),
    ("details.gpu", {"name": 3}),
    ("details.cpu_extensions", 5),
    ("details.device", ["cpu"]),
    ("versions", {"torch": 2}),
    ("versions", []),
    ("hardware", "a big one"),
    ("command", ["rm"]),
    ("command", "\ud800"),
    ("created", 10**400),
    ("surprise", 1),
]


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=[f"{field}={str(value)[:20]!a}" for field, value in FIELDS if field])
def test_a_manifest_with_a_field_of_the_wrong_kind_is_refused_by_its_name(
    field: str, value: object, folded: Artifact, tmp_path: Path
) -> None:
    """Whatever a command does with a manifest, it reads it by this one way first."""
    artifact = folded
    path = Path(shutil.copy(artifact.path, tmp_path))
    data = json.loads(manifest_path(artifact.path).read_text(encoding="utf-8"))
    *parents, last = field.split(".")
    inner = data
    for name in parents:
        inner = inner[name]
    inner[last] = value
    with without_digit_limit():
        manifest_path(path).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=r"small\.onnx\.json") as caught:
        open_artifact(path)
    assert caught.value.exit_status == 2
    found = str(caught.value)
    assert last in found or "cannot be read as JSON" in found or value == "engine"
    assert len(found) < 1200
    found.encode()
    assert not list(tmp_path.glob("was-run"))


@contextlib.contextmanager
def without_digit_limit() -> Iterator[None]:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)
