"""Accuracy of a checkpoint or an artifact, of any backend, counted the same way over the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from iresnet_export.artifact import Artifact, Weights, open_artifact
from iresnet_export.backends import runners
from iresnet_export.backends.base import Backend, running
from iresnet_export.data_choice import chosen_data, trained_on
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.identity import embedded_spec
from iresnet_export.progress import Progress, no_progress
from iresnet_export.source import source_of_artifact
from iresnet_export.verification.outputs import usable_batch_sizes
from iresnet_export.verification.reference import in_batches
from iresnet_models.preprocessing import to_pixels
from iresnet_models.spec import ModelSpec
from iresnet_train import Evaluation, Loader, evaluate, evaluation_set
from iresnet_train.named_data import remark


@dataclass(frozen=True)
class EvalOptions:
    """`data`: `digits` or a folder; None for the data set that the network was trained on. `batch_size` bounds memory."""

    data: str | None = None
    batch_size: int = 32
    workers: int = 0
    device: torch.device = torch.device("cpu")
    checkpoint: Path | None = None
    trust: bool = False
    backends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """`evaluation` is None where the artifact cannot run here, and `reason` says why."""

    artifact: Path
    backend: str
    status: Literal["ok", "skipped"]
    evaluation: Evaluation | None
    reason: str | None = None


def accuracies(paths: Sequence[Path], options: EvalOptions, progress: Progress = no_progress) -> list[Accuracy]:
    """Evaluates every file over the whole held-out part of the data."""
    artifacts = [open_artifact(path) for path in paths]
    return [
        accuracy_of(artifact, backend, options, progress)
        for artifact in artifacts
        for backend in runners(artifact.format, options.backends if artifact.format != "checkpoint" else ())
    ]


def accuracy_of(artifact: Artifact, backend: Backend, options: EvalOptions, progress: Progress = no_progress) -> Accuracy:
    subject = subject_of(artifact, options.checkpoint)
    spec = subject.spec
    data = chosen_data(options.data, spec, subject.weights, held_out=True)
    if data is None:
        known = "does not say which images it was trained on; name a folder with --data."
        if subject.trained_on is not None:
            known = f"was trained on {subject.trained_on}: name it with --data. Folders are opened because you name them."
        raise InputError(f"{artifact.path} {known}")
    if artifact.manifest is not None:
        artifact.require_intact()
    try:
        session = backend.load(artifact, options.device, trust=options.trust)
    except UnavailableError as error:
        return Accuracy(artifact.path, backend.name, "skipped", None, str(error))
    with session:
        (size,) = usable_batch_sizes(session, [options.batch_size])
        images = evaluation_set(data, spec, to_pixels(spec))
        if images.left_out is not None:
            remark(images.left_out)
        loader = Loader(images, size, workers=options.workers)
        done = 0

        def predict(pixels: Tensor) -> Tensor:
            nonlocal done
            with running(artifact.path):
                logits = in_batches(session.run, session.batch_of(pixels, spec), size).cpu()
            done += 1
            progress(f"Evaluating {artifact.path.name}", done / len(loader))
            return logits

        return Accuracy(artifact.path, backend.name, "ok", evaluate(predict, loader))


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
        from iresnet_models.checkpoint import load_checkpoint

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
