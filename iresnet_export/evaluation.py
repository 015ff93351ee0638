"""Accuracy of a checkpoint or an artifact, of any backend, counted the same way over the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iresnet_data import evaluation_set
from iresnet_data.named_data import remark
from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.data_choice import chosen_data
from iresnet_export.artifacts.source import subject_of
from iresnet_export.backends.base import Runtime, running
from iresnet_export.backends.registry import runtimes_for
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.reporting.schemas import EvalReport, Evaluated, environment_here, validated
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.decisions import Proportion
from iresnet_export.verification.outputs import usable_batch_sizes
from iresnet_export.verification.reference import in_batches
from iresnet_models.preprocessing import to_pixels
from iresnet_models.spec import NOTHING_SAID, SpecOptions
from iresnet_train import Evaluation, Loader, evaluate


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
    said: SpecOptions = NOTHING_SAID
    """Of checkpoints' images and classes, in place of what they say."""


def accuracies(paths: Sequence[Path], options: EvalOptions, progress: Progress = no_progress) -> list[Evaluated]:
    """Evaluates every file over the whole held-out part of the data."""
    artifacts = [open_artifact(path) for path in paths]
    return [
        accuracy_of(artifact, runtime, options, progress)
        for artifact in artifacts
        for runtime in runtimes_for(artifact.format, options.backends if artifact.format != "checkpoint" else ())
    ]


def accuracy_of(artifact: Artifact, runtime: Runtime, options: EvalOptions, progress: Progress = no_progress) -> Evaluated:
    subject = subject_of(artifact, options.checkpoint, options.said)
    spec = subject.spec
    data = chosen_data(options.data, spec, subject.weights, held_out=True)
    if data is None:
        if subject.trained_on is None:
            raise InputError(f"{artifact.path} does not say which images it was trained on;", "name a folder with --data.")
        known = f"{artifact.path} was trained on {subject.trained_on}:"
        raise InputError(known, "name it with --data. Folders are opened because you name them.")
    if artifact.manifest is not None:
        artifact.require_intact()
    try:
        session = runtime.load(artifact, options.device, trust=options.trust)
    except UnavailableError as error:
        reasons = dict.fromkeys(("images", "top1", "top1_ci95", "top5", "top5_ci95", "loss"), str(error))
        return Evaluated(artifact.path.name, runtime.name, "skipped", str(error), null_reasons=reasons)
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

        return evaluated(artifact.path.name, runtime.name, evaluate(predict, loader))


def evaluated(artifact: str, backend: str, found: Evaluation) -> Evaluated:
    """What was counted, with its intervals."""
    top1, top5 = (Proportion(count, found.images).percent_ci95 for count in (found.top1_correct, found.top5_correct))
    figures = {"images": found.images, "top1": found.top1, "top1_ci95": top1, "top5": found.top5, "top5_ci95": top5}
    which = {"artifact": artifact, "backend": backend, "status": "ok"}
    return validated(Evaluated, which | figures | {"loss": found.loss})


def eval_report(results: Sequence[Evaluated], options: EvalOptions) -> EvalReport:
    """The report of `eval`."""
    settings = {"data": None if options.data is None else Path(options.data).name, "device": options.device.type}
    return EvalReport(environment_here(), tuple(results), settings)
