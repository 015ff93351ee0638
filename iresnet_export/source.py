"""What an export starts from: a network with its weights, and where those come from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.artifact import Artifact, Manifest, Weights, relative_path
from iresnet_export.data_choice import trained_on
from iresnet_export.errors import InputError, StaleManifestError
from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.initialization import state_sha256, untrained_network
from iresnet_models.network import Network
from iresnet_models.spec import ModelSpec


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
        return dataclasses.replace(self.weights, checkpoint=relative_path(self.checkpoint, folder))


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
    path = checkpoint if checkpoint is not None else artifact.path.parent / (manifest.weights.checkpoint or "")
    if checkpoint is None and not path.is_file():
        raise InputError(
            f"The checkpoint of {artifact.path}, recorded as {manifest.weights.checkpoint}, is no longer there. Name it with "
            "--checkpoint."
        )
    source = source_from_checkpoint(path)
    if source.weights.sha256 != manifest.weights.sha256:
        raise StaleManifestError(
            f"{artifact.path} was exported from another checkpoint than {path}: the checkpoint's SHA-256 is "
            f"{source.weights.sha256[:16]}…, the recorded one {manifest.weights.sha256[:16]}…. Export it again from the "
            "checkpoint you mean."
        )
    trained = source.spec
    source.network.spec = manifest.spec
    return dataclasses.replace(source, spec=manifest.spec, trained_spec=trained)


def _rebuilt(artifact: Artifact, manifest: Manifest) -> Source:
    source = untrained_source(manifest.spec, manifest.weights.seed or 0)
    if source.weights.sha256 != manifest.weights.sha256:
        raise StaleManifestError(
            f"The untrained weights of {artifact.path} (seed {manifest.weights.seed}) cannot be made again here: another "
            "version of this "
            "project or of numpy draws other numbers. Export it again."
        )
    return source
