"""What an artifact says of itself from inside, and whether that, its manifest and its checkpoint tell the same."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from iresnet_export.artifact import Artifact, Format, embedded_identity
from iresnet_export.backends.onnx_graph import METADATA_KEY
from iresnet_export.backends.onnxruntime import read_onnx
from iresnet_export.backends.torchscript import METADATA_FILE
from iresnet_export.errors import ArtifactError, InputError
from iresnet_models.archives import DAMAGED_ZIP
from iresnet_models.spec import ModelSpec
from iresnet_models.typed import json_from, typed

_OF_THE_IMAGE_SIZE = ("image_size", "resize")
"""An export may be made for other images than those of the training."""


def identity_of(path: Path, format: Format) -> dict[str, Any] | None:
    """What an ONNX file's metadata or a TorchScript or torch.export archive says; None where there is nothing of ours."""
    text: str | None = None
    if format == "onnx":
        text = {entry.key: entry.value for entry in read_onnx(path).metadata_props}.get(METADATA_KEY)
    elif format in ("torchscript", "pt2", "aoti"):
        text = _told_in_archive(path)
    if text is None:
        return None
    what = f"What {path} says of itself"
    try:
        found = json_from(text)
    except ValueError as error:
        raise ArtifactError(f"{what} is damaged ({error}). Export it again.") from error
    if not isinstance(found, dict):
        return None
    from iresnet_export.manifest_schema import Identity

    try:
        typed(Identity, found, what)
    except InputError as error:
        raise ArtifactError(f"{error} Export it again.") from error
    return found


_LONGEST = 64 * 2**20


def _told_in_archive(path: Path) -> str | None:
    """The record of ours in an archive of torch's; ArtifactError where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = next((entry for entry in archive.infolist() if entry.filename.endswith(f"extra/{METADATA_FILE}")), None)
            if inside is None:
                return None
            if inside.file_size > _LONGEST:
                raise ValueError(f"it has {inside.file_size:,} bytes")
            return archive.read(inside).decode("utf-8")
    except DAMAGED_ZIP as error:
        raise ArtifactError(f"What {path} says of itself cannot be read ({error}). Export it again.") from error


def contradiction(artifact: Artifact, checkpoint: ModelSpec) -> str | None:
    """The first thing that file, manifest and checkpoint tell differently, such as the mean of the images; else None."""
    manifest = artifact.manifest
    if manifest is None:
        return None
    told, known = manifest.spec.to_json(), checkpoint.to_json()
    for key in (key for key in known if key not in _OF_THE_IMAGE_SIZE and told[key] != known[key]):
        return f"the manifest says that {key} is {told[key]}, and the checkpoint that it is {known[key]}"
    inside = identity_of(artifact.path, manifest.format)
    if inside is None:
        return None
    expected = embedded_identity(manifest.spec, manifest.weights, manifest.precision, manifest.fold, manifest.with_preprocessing)
    for key, value in _flat(expected).items():
        if key != "producer" and _flat(inside).get(key) != value:
            return f"the file says of itself that {key} is {_flat(inside).get(key)}, and the manifest that it is {value}"
    return None


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    return {**identity, **(identity.get("spec") or {}), "spec": None}
