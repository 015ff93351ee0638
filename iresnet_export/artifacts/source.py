"""What an export starts from: a network with its weights, and where those come from."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.artifacts.artifact import Artifact, Manifest, Weights, inside, recorded_path
from iresnet_export.artifacts.data_choice import trained_on
from iresnet_export.artifacts.metadata import embedded_spec
from iresnet_export.errors import ArtifactError, InputError, StaleManifestError
from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.files import sha256_of
from iresnet_models.initialization import state_sha256, untrained_network
from iresnet_models.network import Network
from iresnet_models.remembered import recall, remember
from iresnet_models.spec import ModelSpec
from iresnet_models.typed import shortly

_PLACE, _SEEN_FROM = "checkpoint", "checkpoint-from-artifact"
"""What is remembered of a checkpoint: its place, and its place as an artifact saw it, for when both are moved together."""


@dataclass(frozen=True)
class Source:
    """A network (float32, evaluation mode, CPU), its spec, and the origin of its weights."""

    network: Network
    spec: ModelSpec
    weights: Weights
    checkpoint: Path | None = None
    trained_spec: ModelSpec | None = None
    """The checkpoint's own spec, where `spec` is an artifact's."""
    trained_on: str | None = None
    """What the checkpoint calls its data: to be shown, never opened."""

    def weights_seen_from(self, folder: Path) -> Weights:
        """The origin as an artifact in `folder` records it."""
        if self.checkpoint is None:
            return self.weights
        return dataclasses.replace(self.weights, checkpoint=recorded_path(self.checkpoint, folder))

    def remember_for(self, folder: Path) -> None:
        """Notes in the user's state folder where the checkpoint of an artifact in `folder` lies: no file may say that."""
        if self.checkpoint is None:
            return
        place = self.checkpoint.resolve()
        remember(_PLACE, self.weights.sha256, str(place))
        with contextlib.suppress(ValueError):  # another drive: no relative path leads there
            remember(_SEEN_FROM, self.weights.sha256, os.path.relpath(place, folder.resolve()))


def source_from_checkpoint(
    path: Path,
    *,
    arch: str | None = None,
    depth: int | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> Source:
    """A checkpoint's network; `image_size` overrides the size that it was trained at."""
    checkpoint = load_checkpoint(path, arch=arch, depth=depth, num_classes=num_classes)
    spec = checkpoint.spec if image_size is None else checkpoint.spec.with_image_size(image_size)
    checkpoint.model.spec = spec
    weights = Weights("checkpoint", checkpoint.sha256)
    return Source(checkpoint.model, spec, weights, Path(path), trained_on=trained_on(checkpoint.details))


def untrained_source(spec: ModelSpec, seed: int) -> Source:
    """An untrained network, filled from `seed`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InputError(f"A seed is a whole number from 0 to 2^64 - 1, not {shortly(seed)}.")
    network = untrained_network(spec, seed=seed)
    return Source(network, spec, Weights("untrained", state_sha256(network), seed=seed))


def source_of_artifact(artifact: Artifact, checkpoint: Path | None = None) -> Source:
    """The network that an artifact should be: that of `checkpoint`, or of the manifest beside it.

    Raises StaleManifestError where the checkpoint is not the recorded one, and ArtifactError or InputError where
    nothing leads to one.
    """
    if artifact.manifest is None:
        if checkpoint is None:
            artifact.require_intact()  # says what is missing
            raise AssertionError
        return source_from_checkpoint(checkpoint)
    manifest = artifact.manifest
    if manifest.weights.kind == "untrained" and checkpoint is None:
        return _rebuilt(artifact, manifest)
    path = checkpoint if checkpoint is not None else _checkpoint_of(artifact, manifest)
    source = source_from_checkpoint(path)
    if source.weights.sha256 != manifest.weights.sha256:
        raise StaleManifestError(
            f"{artifact.path} was exported from another checkpoint than {path}: the checkpoint's SHA-256 is "
            f"{source.weights.sha256[:16]}…, the recorded one {manifest.weights.sha256[:16]}….",
            "Export it again from the checkpoint you mean.",
        )
    trained = source.spec
    source.network.spec = manifest.spec
    return dataclasses.replace(source, spec=manifest.spec, trained_spec=trained)


def _checkpoint_of(artifact: Artifact, manifest: Manifest) -> Path:
    """The checkpoint that an artifact was made from: in its folder, where its manifest says, or where this user's exports saw it.

    Raises InputError where nothing leads to one. What is there may be another: the hash decides.
    """
    recorded, sha256, folder = manifest.weights.checkpoint or "", manifest.weights.sha256, artifact.path.parent
    named = inside(folder, recorded)
    if named is None:
        raise ArtifactError(
            f"The manifest of {artifact.path} names {shortly(recorded)} as its checkpoint: that leads out of its folder, and no "
            "file decides what is opened.",
            "Name the checkpoint with --checkpoint.",
        )
    known, seen_from = recall(_PLACE, sha256), recall(_SEEN_FROM, sha256)
    places = [named, *([Path(known)] if known else []), *([folder / seen_from] if seen_from else [])]
    there = [place for place in places if os.path.isfile(place)]
    if not there:
        raise InputError(
            f"The checkpoint of {artifact.path}, recorded as {shortly(recorded)}, is not in its folder, nor where this user last "
            "exported it from.",
            "Name it with --checkpoint.",
        )
    return next((place for place in there if _has(place, sha256)), there[0])


def _has(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


@dataclass(frozen=True)
class Subject:
    """What is known of a network without building it. `trained_on`: what its checkpoint calls its data, to be shown only."""

    spec: ModelSpec
    weights: Weights
    trained_on: str | None = None


def subject_of(artifact: Artifact, checkpoint: Path | None) -> Subject:
    """Of an artifact (from its manifest, `checkpoint`, or what the file says of itself) or of a checkpoint (from itself)."""
    if artifact.manifest is not None:
        return Subject(artifact.manifest.spec, artifact.manifest.weights)
    if artifact.format == "checkpoint":
        own = load_checkpoint(artifact.path)
        return Subject(own.spec, Weights("checkpoint", own.sha256), trained_on(own.details))
    embedded = embedded_spec(artifact) if checkpoint is None else None
    if embedded is not None:
        return Subject(embedded, Weights("checkpoint", ""))  # whose weights they are only a manifest or a checkpoint says
    source = source_of_artifact(artifact, checkpoint)
    return Subject(source.spec, source.weights, source.trained_on)


def spec_of(artifact: Artifact, checkpoint: Path | None) -> ModelSpec:
    """The same subject's spec."""
    return subject_of(artifact, checkpoint).spec


def _rebuilt(artifact: Artifact, manifest: Manifest) -> Source:
    source = untrained_source(manifest.spec, manifest.weights.seed or 0)
    if source.weights.sha256 != manifest.weights.sha256:
        raise StaleManifestError(
            f"The untrained weights of {artifact.path} (seed {manifest.weights.seed}) cannot be made again here: another "
            "version of this "
            "project or of numpy draws other numbers.",
            "Export it again.",
        )
    return source
