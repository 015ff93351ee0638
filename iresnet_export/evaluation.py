"""Accuracy of a checkpoint or an artifact, of any backend, counted the same way over the same images; and where it errs."""

from __future__ import annotations

import dataclasses
import hashlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from iresnet_data import evaluation_set
from iresnet_data.datasets import LabelledImages, image_name
from iresnet_data.named_data import remark
from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.data_choice import chosen_data
from iresnet_export.artifacts.subject import subject_of
from iresnet_export.backends.base import Runtime, Session, running, usable_batch_size
from iresnet_export.backends.registry import runtimes_for
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.reporting.schemas import MOST_THUMBNAIL, ClassChanges, EvalReport, Evaluated, environment_here, validated
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.classes import (
    ClassCounts,
    Predictions,
    calibration,
    class_changes,
    confusions,
    counts_by_class,
    first_classes,
    least_images,
    worst_mistakes,
)
from iresnet_export.verification.decisions import Proportion
from iresnet_export.verification.reference import in_batches
from iresnet_models.files import names_apart
from iresnet_models.preprocessing import to_pixels
from iresnet_models.spec import NOTHING_SAID, NetworkSpec, SpecOptions, Which
from iresnet_train import Evaluation, Loader, evaluate

LISTED_CONFUSIONS = 2000
"""Pairs of classes in a report: all that there can be of 45 classes."""


@dataclass(frozen=True)
class EvalOptions:
    """`data`: `digits` or a folder; None for the data set that the network was trained on. `batch_size` bounds memory.

    `mistakes`: how many of the most confident ones to name; `thumbnails`: with small pictures of them, as the network sees them.
    `which`: of the weights of checkpoints, None for their average where there is one.
    """

    data: str | None = None
    batch_size: int = 32
    workers: int = 0
    device: torch.device = torch.device("cpu")
    checkpoint: Path | None = None
    trust: bool = False
    backends: tuple[str, ...] = ()
    mistakes: int = 5
    thumbnails: bool = False
    which: Which | None = None
    said: SpecOptions = NOTHING_SAID
    """Of checkpoints' images and classes, in place of what they say."""

    def __post_init__(self) -> None:
        if self.mistakes < 0:
            raise InputError(f"--mistakes takes a number of at least 0, not {self.mistakes}.")


@dataclass(frozen=True)
class PredictedImage:
    """An image by its place and, where it is one, its file; its class and the first class by their labels (None for NaN)."""

    artifact: str
    backend: str
    image: int
    file: str | None
    actual: str
    predicted: str | None
    confidence: float


Keep = Callable[[Iterator[PredictedImage]], object]
"""Takes what a file made of each image, while that is known."""


def accuracies(
    paths: Sequence[Path], options: EvalOptions, progress: Progress = no_progress, keep: Keep | None = None
) -> list[Evaluated]:
    """Evaluates every file over the whole held-out part of the data, and compares each class with the first float32 file's."""
    artifacts = [open_artifact(path, options.which) for path in paths]
    judged = [
        _judged(name, artifact, runtime, options, progress, keep)
        for name, artifact in zip(names_apart(paths), artifacts, strict=True)
        for runtime in runtimes_for(artifact.format, options.backends if artifact.format != "checkpoint" else ())
    ]
    return _compared(judged)


_Judged = tuple[Evaluated, Predictions | None]


def _judged(
    name: str, artifact: Artifact, runtime: Runtime, options: EvalOptions, progress: Progress, keep: Keep | None
) -> _Judged:
    subject = subject_of(artifact, options.checkpoint, options.which, options.said)
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
        return _skipped(name, runtime.name, str(error)), None
    with session:
        images = evaluation_set(data, spec, to_pixels(spec))
        if images.left_out is not None:
            remark(images.left_out)
        counted, found = _predictions(artifact, session, spec, images, options, progress)
        found = dataclasses.replace(found, images=_identity(data, images))
        pictured = _Pictured(data, images, spec, options)
        if keep is not None:
            keep(pictured.rows(name, runtime.name, found))
        return evaluated(name, runtime.name, counted, session.computed_precision, found, pictured), found


def _predictions(
    artifact: Artifact, session: Session, spec: NetworkSpec, images: LabelledImages, options: EvalOptions, progress: Progress
) -> tuple[Evaluation, Predictions]:
    """What is right, and the first class of each image: of all logits no more is kept."""
    size = usable_batch_size(session, options.batch_size)
    loader = Loader(images, size, workers=options.workers)
    total = len(images)
    predicted, confidence, done = np.empty(total, np.int32), np.empty(total, np.float32), 0

    def predict(pixels: Tensor) -> Tensor:
        nonlocal done
        with running(artifact.path):
            logits = in_batches(session.run, session.batch_of(pixels, spec), size).cpu()
        if logits.ndim == 2:  # `evaluate` refuses others
            own = slice(done, done + len(logits))
            predicted[own], confidence[own] = first_classes(logits)
        done += len(logits)
        progress(f"Evaluating {artifact.path.name}", done / total)
        return logits

    counted = evaluate(predict, loader)
    return counted, Predictions(np.fromiter(images.labels, np.int32, total), predicted, confidence)


def _identity(data: str, images: LabelledImages) -> str:
    """A hash of which images these are, in order, and of the names of their classes."""
    found = hashlib.sha256(repr((data, images.names)).encode("utf-8", "replace"))
    for image in images.images:
        if not isinstance(image, Image.Image):  # embedded data are known by their name
            found.update(repr(image).encode("utf-8", "replace"))
    found.update(np.fromiter(images.labels, np.int32, len(images)).tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class _Pictured:
    """The images that were evaluated, with the names of theirs and of their classes."""

    data: str
    images: LabelledImages
    spec: NetworkSpec
    options: EvalOptions

    def label(self, number: int) -> str:
        names = self.spec.labels or self.images.names
        return str(number) if names is None or number >= len(names) else names[number]

    def file(self, index: int) -> str | None:
        return image_name(self.images.images[index], self.data)

    def thumbnail(self, index: int) -> str | None:
        """What the network sees of an image, as a small JPEG in a data URI; None where it was not asked for."""
        if not self.options.thumbnails:
            return None
        picture, buffer = Image.fromarray(self.images[index][0].numpy()), BytesIO()
        picture.thumbnail((MOST_THUMBNAIL, MOST_THUMBNAIL))
        picture.save(buffer, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"

    def rows(self, artifact: str, backend: str, found: Predictions) -> Iterator[PredictedImage]:
        for index, (actual, predicted, confidence) in enumerate(zip(found.labels, found.predicted, found.confidence, strict=True)):
            told = self.label(int(predicted)) if predicted >= 0 else None
            named = (self.file(index), self.label(int(actual)), told, float(confidence))
            yield PredictedImage(artifact, backend, index, *named)

    def mistake(self, index: int, found: Predictions) -> dict[str, Any]:
        return {
            "image": index,
            "file": self.file(index),
            "actual": int(found.labels[index]),
            "predicted": int(found.predicted[index]),
            "confidence": float(found.confidence[index]),
            "thumbnail": self.thumbnail(index),
        }


def _skipped(artifact: str, backend: str, reason: str) -> Evaluated:
    which = {"artifact": artifact, "backend": backend, "status": "skipped", "reason": reason}
    missing = [one.name for one in dataclasses.fields(Evaluated) if one.name not in (*which, "null_reasons")]
    return validated(Evaluated, which | {"null_reasons": dict.fromkeys(missing, reason)})


def evaluated(
    artifact: str,
    backend: str,
    counted: Evaluation,
    computed_precision: str,
    found: Predictions,
    pictured: _Pictured,
) -> Evaluated:
    """What was counted, with its intervals."""
    top1, top5 = (Proportion(count, counted.images).percent_ci95 for count in (counted.top1_correct, counted.top5_correct))
    figures = {"images": counted.images, "top1": counted.top1, "top1_ci95": top1, "top5": counted.top5, "top5_ci95": top5}
    pairs, classes = confusions(found), [_class(one, pictured.label(one.number)) for one in counts_by_class(found)]
    worst = [pictured.mistake(index, found) for index in worst_mistakes(found, pictured.options.mistakes)]
    document = {
        "artifact": artifact,
        "backend": backend,
        "status": "ok",
        "computed_precision": computed_precision,
        **figures,
        "loss": counted.loss,
        "without_class": found.without_class,
        "calibration": _calibration(found),
        "classes": classes,
        "confusions": {
            "pairs": len(pairs),
            "listed": [dict(zip(("actual", "predicted", "images"), pair, strict=True)) for pair in pairs[:LISTED_CONFUSIONS]],
        },
        "mistakes": worst,
    }
    reasons = {
        "loss": "a logit is NaN or infinite",
        "calibration": "no image has outputs that are numbers",
        "changes": "nothing else was evaluated over the same images",
    }
    nested = {
        "classes.recall": (classes, "recall", "no image is of this class"),
        "classes.precision": (classes, "precision", "no image was taken for this class"),
        "mistakes.file": (worst, "file", "embedded images are no files"),
        "mistakes.thumbnail": (worst, "thumbnail", "with --thumbnails"),
    }
    null = {key: why for key, why in reasons.items() if key != "loss" and document.get(key) is None}
    null |= {} if np.isfinite(counted.loss) else {"loss": reasons["loss"]}
    null |= {key: why for key, (entries, name, why) in nested.items() if any(entry[name] is None for entry in entries)}
    return validated(Evaluated, document | {"null_reasons": null})


def _class(one: ClassCounts, label: str) -> dict[str, Any]:
    def percent(name: str, found: Proportion | None) -> dict[str, Any]:
        return {name: found and found.percent, f"{name}_ci95": found and found.percent_ci95}

    counts = {"class": one.number, "label": label, "images": one.images, "predicted": one.predicted, "right": one.right}
    return counts | percent("recall", one.recall) | percent("precision", one.precision)


def _calibration(found: Predictions) -> dict[str, Any] | None:
    measured = calibration(found)
    if measured is None:
        return None
    error, bins = measured
    return {
        "ece": error,
        "bins": [
            {
                "low": one.low,
                "high": one.high,
                "images": one.accuracy.total,
                "confidence": one.confidence,
                "accuracy": one.accuracy.share,
                "accuracy_ci95": one.accuracy.ci95,
            }
            for one in bins
        ],
    }


def _compared(judged: Sequence[_Judged]) -> list[Evaluated]:
    """Each beside the first that computes in float32, or else the first that ran, where the images are the same."""
    ran = [(one, found) for one, found in judged if found is not None]
    reference = next((pair for pair in ran if pair[0].computed_precision == "fp32"), ran[0] if ran else None)
    return [one if found is None or reference is None else _beside(one, found, *reference) for one, found in judged]


def _beside(one: Evaluated, found: Predictions, first: Evaluated, reference: Predictions) -> Evaluated:
    if one is first:
        return _without_changes(one, "the others are compared with it")
    if found.images != reference.images:
        return _without_changes(one, f"{first.artifact} was evaluated over other images or classes")
    changes = class_changes(found, reference)
    document = {
        "artifact": first.artifact,
        "backend": first.backend,
        "classes": len(changes),
        "least_images": least_images(len(changes)),
        "largest_class": max(change.drop.images for change in changes),
        "listed": [
            {
                "class": change.number,
                "images": change.drop.images,
                "reference": change.drop.reference.percent,
                "candidate": change.drop.candidate.percent,
                "only_reference_right": change.drop.only_reference,
                "only_candidate_right": change.drop.only_candidate,
                "p": change.drop.mcnemar_p,
                "p_holm": change.p_holm,
            }
            for change in changes
            if change.drop.only_reference or change.drop.only_candidate
        ],
    }
    reasons = {key: why for key, why in one.null_reasons.items() if key != "changes"}
    return dataclasses.replace(one, changes=validated(ClassChanges, document), null_reasons=reasons)


def _without_changes(one: Evaluated, reason: str) -> Evaluated:
    return dataclasses.replace(one, null_reasons={**one.null_reasons, "changes": reason})


def eval_report(results: Sequence[Evaluated], options: EvalOptions) -> EvalReport:
    """The report of `eval`."""
    settings = {"data": None if options.data is None else Path(options.data).name, "device": options.device.type}
    return EvalReport(environment_here(), tuple(results), settings | {"mistakes": options.mistakes})
