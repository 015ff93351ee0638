"""Labels and probabilities of image files, by whatever runs an artifact here, with the artifact's own preprocessing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from iresnet_data.named_data import remark
from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.source import spec_of
from iresnet_export.backends.base import Session, running
from iresnet_export.backends.registry import runtimes_for
from iresnet_export.errors import ArtifactError, CheckFailedError, InputError, UnavailableError
from iresnet_export.reporting.schemas import ClassProbability, ImagePrediction, PredictReport, environment_here
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.outputs import usable_batch_sizes
from iresnet_export.verification.reference import in_batches
from iresnet_models.cores import usable_cores
from iresnet_models.image_files import image_files, image_suffixes, left_out, printable
from iresnet_models.preprocessing import load_image, to_pixels
from iresnet_models.spec import NOTHING_SAID, NetworkSpec, SpecOptions

_DECODERS = min(4, usable_cores())


@dataclass(frozen=True)
class PredictOptions:
    """`top_k` is at most the number of classes; `batch_size` bounds memory; `backend`: None for the first that can run here."""

    top_k: int = 5
    batch_size: int = 32
    device: torch.device = torch.device("cpu")
    checkpoint: Path | None = None
    trust: bool = False
    backend: str | None = None
    said: SpecOptions = NOTHING_SAID
    """Of a checkpoint's images and classes, in place of what it says."""

    def __post_init__(self) -> None:
        for option, value in (("--top-k", self.top_k), ("--batch-size", self.batch_size)):
            if value < 1:
                raise InputError(f"{option} takes a number of at least 1, not {value}.")


@dataclass(frozen=True)
class Found:
    """An image file, and the name that reports give it: no longer than what the user typed makes it."""

    path: Path
    name: str


def predict(path: Path, images: Sequence[Path], options: PredictOptions, progress: Progress = no_progress) -> PredictReport:
    """The likeliest classes of every image that `images` names, or that lies in a folder that it names.

    Images that cannot be read are told of and left out. Raises InputError where there is no image at all, UnavailableError where
    the artifact cannot run here, and CheckFailedError where its outputs are not numbers.
    """
    artifact = open_artifact(path)
    spec = spec_of(artifact, options.checkpoint, options.said)
    found = find_images(images)
    if artifact.manifest is not None:
        artifact.require_intact()
    backend, session = _session(artifact, options)
    (size,) = usable_batch_sizes(session, [options.batch_size])
    with session, closing(_decoded(found, spec, size)) as batches:
        predictions: list[ImagePrediction] = []
        for batch in batches:
            predictions += _predicted(session, spec, artifact, batch, options)
            progress(f"Predicting by {artifact.path.name}", len(predictions) / len(found))
        settings = {"top_k": options.top_k, "batch_size": options.batch_size, "device": options.device.type}
        found_by = (artifact.path.name, backend, session.computed_precision)
        return PredictReport(environment_here(), settings, *found_by, tuple(predictions))


def find_images(named: Sequence[Path]) -> list[Found]:
    """The files that are named, whatever they are, and the images in the folders that are named, at any depth, sorted.

    A file goes by the name it was given, an image in a folder by its path in that folder; after the folder's name, where more than
    one thing is named, so that the images of two folders can be told apart. Hidden files and folders are passed over.
    """
    found: list[Found] = []
    others: Counter[str] = Counter()
    for path in named:
        if not os.path.isdir(path):
            found.append(Found(path, printable(path)))
            continue
        files = image_files(path)
        others += files.others
        images = sorted(map(Path, files.paths))
        found += [Found(image, printable(image.relative_to(path) if len(named) == 1 else image)) for image in images]
    passed_over = left_out(others)
    if not found:
        where = ", ".join(map(printable, named[:4])) + (", ..." if len(named) > 4 else "")
        endings = ", ".join(image_suffixes())
        raise InputError(
            f"No image was found in {where or 'nothing'}: folders are searched for files that end in {endings}.",
            f"{'' if passed_over is None else passed_over + ' '}Name other folders, or the image files themselves, which may end "
            "in anything.",
        )
    if passed_over:
        remark(passed_over)
    return found


def _session(artifact: Artifact, options: PredictOptions) -> tuple[str, Session]:
    """A session of the first backend that can run the artifact here, with the backend's name."""
    unavailable: list[UnavailableError] = []
    for backend in runtimes_for(artifact.format, () if options.backend is None else (options.backend,)):
        try:
            return backend.name, backend.load(artifact, options.device, trust=options.trust)
        except UnavailableError as error:
            unavailable.append(error)
    raise unavailable[0]


_Decoded = tuple[Found, Tensor | str]
"""An image with its pixels, or with the reason why it cannot be read."""


def _decoded(found: Sequence[Found], spec: NetworkSpec, size: int) -> Generator[list[_Decoded], None, None]:
    """Batch after batch; while the caller works on one, threads decode the next, and no more than that."""
    prepare = to_pixels(spec)

    def decode(image: Found) -> _Decoded:
        try:
            return image, prepare(load_image(image.path))
        except InputError as error:
            return image, str(error).replace(printable(image.path), image.name)

    pool = ThreadPoolExecutor(_DECODERS)
    try:
        ahead: list[Future[_Decoded]] = []
        for start in range(0, len(found) + size, size):
            now, ahead = ahead, [pool.submit(decode, image) for image in found[start : start + size]]
            if now:
                yield [future.result() for future in now]
    finally:
        pool.shutdown(cancel_futures=True)


def _predicted(
    session: Session, spec: NetworkSpec, artifact: Artifact, batch: Sequence[_Decoded], options: PredictOptions
) -> list[ImagePrediction]:
    """The predictions of one batch."""
    readable = [(image, pixels) for image, pixels in batch if isinstance(pixels, Tensor)]
    tops = iter(_tops(session, spec, artifact, readable, options) if readable else ())
    return [
        ImagePrediction(image.name, "ok", top=next(tops))
        if isinstance(pixels, Tensor)
        else ImagePrediction(image.name, "unreadable", pixels)
        for image, pixels in batch
    ]


def _tops(
    session: Session, spec: NetworkSpec, artifact: Artifact, batch: Sequence[tuple[Found, Tensor]], options: PredictOptions
) -> list[tuple[ClassProbability, ...]]:
    (size,) = usable_batch_sizes(session, [len(batch)])  # a few images need not cost what a full batch does
    inputs = session.batch_of(torch.stack([pixels for _, pixels in batch]), spec)
    with running(artifact.path):
        logits = in_batches(session.run, inputs, size).cpu().double()
    if logits.ndim != 2 or logits.shape[1] != spec.num_classes:
        raise ArtifactError(
            f"{artifact.path} gives outputs of the shape {tuple(logits.shape)} for {len(batch)} images, and not {spec.num_classes} "
            f"logits each, as {spec.name} does.",
            "Name the checkpoint that it was made from with --checkpoint, or export it again.",
        )
    wrong = [image.name for (image, _), finite in zip(batch, logits.isfinite().all(1), strict=True) if not finite]
    if wrong:
        raise CheckFailedError(
            f"{artifact.path} gives NaN or infinite outputs for {wrong[0]}: its numbers overflow.",
            "Check it with `iresnet-export verify`, and export it in another precision.",
        )
    # Of equal logits the first class wins, as in argmax.
    order = logits.sort(dim=1, descending=True, stable=True).indices[:, : options.top_k]
    probabilities = logits.softmax(dim=1).gather(1, order)
    return [
        tuple(
            ClassProbability(number, str(number) if spec.labels is None else spec.labels[number], probability)
            for number, probability in zip(numbers, values, strict=True)
        )
        for numbers, values in zip(order.tolist(), probabilities.tolist(), strict=True)
    ]
