"""What is known of an artifact's network without building it. Of artifacts that say it themselves this needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iresnet_data.named_data import remark
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.data_choice import trained_on
from iresnet_export.artifacts.manifest import Weights
from iresnet_export.artifacts.metadata import embedded_spec
from iresnet_export.errors import InputError
from iresnet_models.image_files import printable
from iresnet_models.spec import NOTHING_SAID, NetworkSpec, SpecOptions, Which
from iresnet_models.typed import shortly

if TYPE_CHECKING:
    from iresnet_export.artifacts.source import Source


@dataclass(frozen=True)
class Subject:
    """What is known of a network without building it. `trained_on`: what its checkpoint calls its data, to be shown only."""

    spec: NetworkSpec
    weights: Weights
    trained_on: str | None = None


def called(which: Which | None) -> str:
    return {None: "the only weights", "average": "the averaged weights", "raw": "the unaveraged weights"}[which]


def subject_of(
    artifact: Artifact, given: Source | Path | None, which: Which | None = None, said: SpecOptions = NOTHING_SAID
) -> Subject:
    """Of an artifact (from its manifest, the `given` network, or what the file says of itself) or of a checkpoint (from itself).

    Of a checkpoint with averaged weights and others it says which are taken. What the user `said` stands in place of what a
    checkpoint says; InputError where an artifact records something else.
    """
    if artifact.manifest is not None:
        require_recorded(artifact, artifact.manifest.spec, said)
        recorded = artifact.manifest.weights.which
        if (which or recorded) != recorded and (which, recorded) != ("raw", None):
            raise InputError(
                f"{artifact.path} is of {called(recorded)} of its checkpoint, as its manifest says, and --which {which} was asked "
                "for.",
                "Leave out --which, or export the weights that you mean.",
            )
        return Subject(artifact.manifest.spec, artifact.manifest.weights)
    if artifact.format != "checkpoint" and given is None and (embedded := embedded_spec(artifact)) is not None:
        require_recorded(artifact, embedded, said)
        return Subject(embedded, Weights("checkpoint", ""))  # whose weights they are only a manifest or a checkpoint says
    from iresnet_export.artifacts.source import source_of_artifact, spec_of_checkpoint

    if artifact.format == "checkpoint":
        from iresnet_models.checkpoint import load_checkpoint

        own = load_checkpoint(artifact.path, which=artifact.which)
        if own.layout.other is not None:
            remark(f"{printable(artifact.path)}: {own.layout.in_words['which weights']}.")
        weights = Weights("checkpoint", own.sha256, which=own.layout.which)
        return Subject(spec_of_checkpoint(own, said), weights, trained_on(own.details))
    source = source_of_artifact(artifact, given, which, said)
    return Subject(source.spec, source.weights, source.trained_on)


def spec_of(
    artifact: Artifact, checkpoint: Path | None, which: Which | None = None, said: SpecOptions = NOTHING_SAID
) -> NetworkSpec:
    """The same subject's spec."""
    return subject_of(artifact, checkpoint, which, said).spec


def require_recorded(artifact: Artifact, spec: NetworkSpec, said: SpecOptions) -> None:
    """InputError where a user says something else than an artifact's own spec."""
    own = spec.to_json()
    for name, value in said.said.items():
        found, plain = own[name], list(value) if isinstance(value, tuple) else value
        if found != plain:
            other = "other labels" if name == "labels" else f"{name} {shortly(found)}, and not {shortly(plain)}"
            raise InputError(
                f"{artifact.path} records {other}: an artifact says itself how its images are prepared, and what its classes are "
                "called.",
                f"Leave out --{name.replace('_', '-')}, or export it again with that.",
            )
