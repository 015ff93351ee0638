"""What an export starts from: a network with its weights, and where those come from."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from iresnet_data.named_data import remark
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.data_choice import trained_on
from iresnet_export.artifacts.manifest import Manifest, Weights, inside, recorded_path
from iresnet_export.artifacts.subject import called, require_recorded
from iresnet_export.errors import ArtifactError, CheckpointError, InputError, StaleManifestError
from iresnet_models.checkpoint import Checkpoint, load_checkpoint
from iresnet_models.errors import named_line
from iresnet_models.files import sha256_of
from iresnet_models.image_files import printable
from iresnet_models.initialization import state_sha256, untrained_network
from iresnet_models.layouts import Layout
from iresnet_models.network import Network
from iresnet_models.preprocessing import noise_pixels, normalised
from iresnet_models.remembered import recall, remember
from iresnet_models.spec import NOTHING_SAID, ModelSpec, NetworkSpec, Preprocessing, SpecOptions, Which
from iresnet_models.typed import shortly

_ALONE = 1e-9
"""Relative: a million times what float64 rounds, and a hundredth of what float32 does."""
_PLACE, _SEEN_FROM = "checkpoint", "checkpoint-from-artifact"
"""What is remembered of a checkpoint: its place, and its place as an artifact saw it, for when both are moved together."""


@dataclass(frozen=True)
class Source:
    """A network (float32, evaluation mode, CPU), its spec, and the origin of its weights."""

    network: nn.Module
    spec: NetworkSpec
    weights: Weights
    checkpoint: Path | None = None
    trained_spec: NetworkSpec | None = None
    """The checkpoint's own spec, where `spec` is an artifact's, or what a user said."""
    trained_on: str | None = None
    """What the checkpoint calls its data: to be shown, never opened."""
    layout: Layout | None = None
    """How the checkpoint held the weights, and which of them these are."""
    said: SpecOptions = NOTHING_SAID
    """What of the spec the user said, in place of the checkpoint."""

    @property
    def own(self) -> Network:
        """The network as one of this project's families, as the fold needs it; InputError for any other module."""
        if not isinstance(self.network, Network):
            raise InputError(f"{self.spec.name} is none of this project's networks, and these alone are folded.")
        return self.network

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
    which: Which | None = None,
    said: SpecOptions = NOTHING_SAID,
) -> Source:
    """A checkpoint's network; `said` stands in place of what the file says of images and classes. `which`: of its weights."""
    checkpoint = load_checkpoint(path, arch=arch, depth=depth, num_classes=num_classes, which=which)
    return dataclasses.replace(_source_of(checkpoint, spec_of_checkpoint(checkpoint, said)), said=said)


def _source_of(checkpoint: Checkpoint, spec: ModelSpec) -> Source:
    checkpoint.model.spec = spec
    return Source(
        checkpoint.model,
        spec,
        Weights("checkpoint", checkpoint.sha256, which=checkpoint.layout.which),
        checkpoint.path,
        trained_spec=checkpoint.spec,
        trained_on=trained_on(checkpoint.details),
        layout=checkpoint.layout,
    )


def spec_of_checkpoint(checkpoint: Checkpoint, said: SpecOptions) -> ModelSpec:
    """A checkpoint's spec with what was said in its place; where neither says how images are prepared, what is taken is told."""
    spec = said.applied(checkpoint.spec)
    if not checkpoint.says_preprocessing and not said.say_all_of_preprocessing:
        remark(
            f"{printable(checkpoint.path)} does not say how its images were prepared: {spec.in_words} are taken. --resize, "
            "--image-size, --interpolation, --mean and --std change that."
        )
    return spec


def source_from_module(
    module: nn.Module, preprocessing: Preprocessing, *, labels: Sequence[str] | None = None, name: str | None = None
) -> Source:
    """Any classifier in memory, as a copy: inputs (n, 3, size, size) as `preprocessing` makes them, to logits (n, classes).

    Raises InputError for a module that is no such classifier in float32, or whose answers float64 or repetition does not give.
    """
    if not isinstance(module, nn.Module) or not isinstance(preprocessing, Preprocessing):
        found = type(preprocessing if isinstance(module, nn.Module) else module).__name__
        raise InputError(f"A source is made from a torch.nn.Module and an iresnet_export.Preprocessing, not from a {found}.")
    if isinstance(module, Network):
        raise InputError(f"This is {module.spec.name}, a network of this project:", "save it by save_checkpoint, and load that.")
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError("This module is TorchScript already;", "give the torch.nn.Module that it was made from.")
    network = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    if not any(True for _ in network.parameters()):
        raise InputError("The module has no parameters, so there are no weights to be compared.")
    kinds = {value.dtype for value in network.state_dict().values() if value.is_floating_point()}
    if kinds != {torch.float32}:
        found = ", ".join(sorted(str(kind) for kind in kinds))
        raise InputError(f"The module's weights are to be float32, and it has {found}.", "Convert it by module.float().")
    images = normalised(noise_pixels(preprocessing, 2, seed=0), preprocessing)
    try:
        with torch.inference_mode():
            logits, again = network(images.clone()), network(images.clone())
            exact_network = copy.deepcopy(network).double()
            exact = exact_network(images.double())
            alone = exact_network(images[:1].double())
    except Exception as error:
        raise InputError(
            f"The module does not run on images {tuple(images.shape)} in float32 and in float64: {named_line(error)}."
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != 2 or logits.dtype is not torch.float32:
        found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise InputError(f"A classifier gives logits (images, classes) in float32, and for two images this module gives {found}.")
    if not torch.equal(logits, again) or exact.dtype is not torch.float64:
        raise InputError("The module gives other answers the second time, or none in float64: there is nothing to compare with.")
    if not torch.allclose(alone, exact[:1], rtol=_ALONE, atol=_ALONE * float(exact.abs().max())):
        raise InputError("What the module says of an image depends on the others of its batch: there is no answer to compare with.")
    spec = NetworkSpec(
        **dataclasses.asdict(preprocessing),
        arch=name or type(module).__name__,
        depth=None,
        num_classes=logits.shape[1],
        labels=None if labels is None else tuple(labels),
    )
    return Source(network, spec, Weights("module", state_sha256(network)))


def untrained_source(spec: ModelSpec, seed: int, said: SpecOptions = NOTHING_SAID) -> Source:
    """An untrained network, filled from `seed`."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise InputError(f"A seed is a whole number from 0 to 2^64 - 1, not {shortly(seed)}.")
    spec = said.applied(spec)
    network = untrained_network(spec, seed=seed)
    return Source(network, spec, Weights("untrained", state_sha256(network), seed=seed), said=said)


def source_of_artifact(
    artifact: Artifact, given: Source | Path | None = None, which: Which | None = None, said: SpecOptions = NOTHING_SAID
) -> Source:
    """The network that an artifact should be: the `given` one, or that of the manifest beside it. A path is a checkpoint's.

    `which` of a checkpoint's weights: None for those that the manifest tells of, or without one the average where there is one.

    Raises StaleManifestError where the given network is not the recorded one, ArtifactError or InputError where nothing leads to
    one, and InputError where the user `said` something else of its images or classes than the manifest records.
    """
    if artifact.manifest is None:
        if given is None:
            artifact.require_intact()  # says what is missing
            raise AssertionError
        if not isinstance(given, Source):
            return source_from_checkpoint(given, which=which, said=said)
        return given if not said.said else dataclasses.replace(given, spec=said.applied(given.spec))
    manifest = artifact.manifest
    require_recorded(artifact, manifest.spec, said)
    if given is None:
        if manifest.weights.kind == "module":
            raise InputError(
                f"{artifact.path} was exported from a module in memory, which no file makes again.",
                "Give it in Python, as in iresnet_export.verify(artifact, source=source).",
            )
        if manifest.weights.kind == "untrained":
            return _rebuilt(artifact, manifest)
        given = _checkpoint_of(artifact, manifest)
    source = given if isinstance(given, Source) else _as_recorded(artifact, manifest, given, which)
    if source.weights.sha256 != manifest.weights.sha256:
        what = (
            f"network than the given {source.spec.name}: its"
            if isinstance(given, Source)
            else f"checkpoint than {given}: the checkpoint's"
        )
        raise StaleManifestError(
            f"{artifact.path} was exported from another {what} SHA-256 is "
            f"{source.weights.sha256[:16]}…, the recorded one {manifest.weights.sha256[:16]}….",
            "Export it again from the one you mean.",
        )
    if source.weights.which != manifest.weights.which:
        raise StaleManifestError(
            f"{artifact.path} is of {called(manifest.weights.which)} of its checkpoint, as its manifest says, and was to be "
            f"compared with {called(source.weights.which)}.",
            "Export it again from the weights that you mean, which --which names.",
        )
    network = source.network
    if isinstance(network, Network) and isinstance(manifest.spec, ModelSpec):
        network = copy.copy(network)  # the given source stays as it is
        network.spec = manifest.spec
    return dataclasses.replace(source, network=network, spec=manifest.spec, trained_spec=source.trained_spec or source.spec)


def _as_recorded(artifact: Artifact, manifest: Manifest, path: Path, which: Which | None) -> Source:
    """The network in a checkpoint, read as the manifest says if it is the very file that it tells of."""
    is_same = _has(path, manifest.weights.sha256)
    arch, chosen = (manifest.spec.arch, which or manifest.weights.which) if is_same else (None, which)
    try:
        checkpoint = load_checkpoint(path, arch=arch, which=chosen)
    except CheckpointError as error:
        if not is_same:
            raise
        raise StaleManifestError(
            f"{artifact.path} was not made of its checkpoint as its manifest says ({called(manifest.weights.which)}, "
            f"{manifest.spec.name}). {error.reason}",
            "Export it again.",
        ) from error
    return _source_of(checkpoint, checkpoint.spec)


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


def _rebuilt(artifact: Artifact, manifest: Manifest) -> Source:
    if not isinstance(manifest.spec, ModelSpec):
        raise ArtifactError(
            f"The manifest of {artifact.path} tells of untrained weights of {manifest.spec.name}, which none can make."
        )
    source = untrained_source(manifest.spec, manifest.weights.seed or 0)
    if source.weights.sha256 != manifest.weights.sha256:
        raise StaleManifestError(
            f"The untrained weights of {artifact.path} (seed {manifest.weights.seed}) cannot be made again here: another "
            "version of this "
            "project or of numpy draws other numbers.",
            "Export it again.",
        )
    return source
