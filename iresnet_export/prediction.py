"""Labels and probabilities of image files, by whatever runs an artifact here, with the artifact's own preprocessing."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iresnet_data.addresses import content_of, is_address, listed, shown
from iresnet_data.named_data import remark
from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.manifest import SaidOfSpec, plain
from iresnet_export.artifacts.subject import spec_of
from iresnet_export.backends.base import HostSession, running, usable_batch_size
from iresnet_export.backends.registry import runtimes_for
from iresnet_export.errors import ArtifactError, CheckFailedError, InputError, IResNetError, UnavailableError
from iresnet_export.graph.ir import Array
from iresnet_export.reporting.schemas import ClassProbability, ImagePrediction, PredictReport, environment_here
from iresnet_export.system.progress import Progress, no_progress
from iresnet_models.cores import usable_cores
from iresnet_models.files import sha256_of
from iresnet_models.image_files import image_files, image_suffixes, is_image_name, left_out, printable
from iresnet_models.json_lines import LineFile, merge, part_of, require_absent, require_no_other_parts
from iresnet_models.preprocessing import UNREADABLE, load_image, pixels_of
from iresnet_models.spec import NOTHING_SAID, NetworkSpec, SpecOptions, Which
from iresnet_train.torchrun import processors, world_size

if TYPE_CHECKING:
    from PIL.Image import Image

    from iresnet_data.shards import ShardMember

_MOST_BYTES = 2**28
"""Of an image that comes from elsewhere. As many pixels as are read take less in any format that photos are kept in."""
_DECODERS = min(4, usable_cores())
_PATIENCE = timedelta(days=365)
"""How long processes wait for the slowest share: of a run that goes on one may be whole, and another hardly begun."""
_WORTH_STREAMS = 4
"""Images for each stream. Fewer are answered sooner by all cores together, one batch after the other."""


@dataclass(frozen=True)
class PredictOptions:
    """`top_k` is at most the number of classes; `batch_size` bounds memory; `backend`: None for the first that can run here."""

    top_k: int = 5
    batch_size: int = 32
    device: str = "cpu"
    checkpoint: Path | None = None
    trust: bool = False
    backend: str | None = None
    which: Which | None = None
    """Of a checkpoint's weights: None for their average where there is one."""
    said: SpecOptions = NOTHING_SAID
    """Of a checkpoint's images and classes, in place of what it says."""

    @property
    def in_lines(self) -> dict[str, Any]:
        """Those that change what is found, as plain values."""
        asked = {"checkpoint": None if self.checkpoint is None else sha256_of(self.checkpoint), "backend": self.backend}
        asked |= {"which": self.which} | plain(SaidOfSpec.of(self.said) or SaidOfSpec())
        return {"top_k": self.top_k, **{name: value for name, value in asked.items() if value is not None}}

    def __post_init__(self) -> None:
        for option, value in (("--top-k", self.top_k), ("--batch-size", self.batch_size)):
            if value < 1:
                raise InputError(f"{option} takes a number of at least 1, not {value}.")


@dataclass(frozen=True, slots=True)
class Found:
    """An image, and the name that reports give it: no longer than what the user typed makes it, and without a password.

    `place`: a file's path, an address, or where it lies in a shard.
    """

    place: str | ShardMember
    name: str

    def opened(self) -> Image:
        """InputError, which calls it by its name, where it cannot be read."""
        if not isinstance(self.place, str):
            if self.place.size > _MOST_BYTES:
                raise InputError(f"The image {self.name} cannot be read (it has more than {_MOST_BYTES:,} bytes).{UNREADABLE}")
            return load_image(Path(self.name), self.place.content())
        if is_address(self.place):
            return load_image(Path(self.name), content_of(self.place, _MOST_BYTES))
        return load_image(Path(self.place))


def predict(path: Path, images: Sequence[str | Path], options: PredictOptions, progress: Progress = no_progress) -> PredictReport:
    """The likeliest classes of every image that `images` names, or that lies in a folder that it names.

    Images that cannot be read are told of and left out. Raises InputError where there is no image at all, UnavailableError where
    the artifact cannot run here, and CheckFailedError where its outputs are not numbers.
    """
    return predicted(path, images, options, progress).report()


@dataclass(frozen=True)
class Predictions:
    """What an artifact says of images, before it is a report, which tells of the machine too: that takes longer than an image."""

    artifact: str
    backend: str
    computed_precision: str
    settings: dict[str, Any]
    results: tuple[ImagePrediction, ...]

    @property
    def unreadable(self) -> tuple[ImagePrediction, ...]:
        return tuple(image for image in self.results if image.status == "unreadable")

    def report(self) -> PredictReport:
        return PredictReport(environment_here(), self.settings, self.artifact, self.backend, self.computed_precision, self.results)


def predicted(path: Path, images: Sequence[str | Path], options: PredictOptions, progress: Progress = no_progress) -> Predictions:
    """What `predict` reports."""
    if world_size() > 1:
        raise InputError("Several processes share out what is written line by line:", "name a file with --jsonl, or run one alone.")
    artifact = open_artifact(path, options.which)
    found = find_images(images)
    settings = {"top_k": options.top_k, "batch_size": options.batch_size, "device": options.device.partition(":")[0]}
    with _running(artifact, options, len(found)) as running_one:
        results = tuple(running_one.predictions(found, progress))
        return Predictions(artifact.path.name, running_one.backend, running_one.session.computed_precision, settings, results)


@dataclass(frozen=True)
class Written:
    """What a file of `predict_to` holds: all images, those that could not be read, and those that were there before."""

    images: int
    unreadable: int
    before: int


def predict_to(
    file: Path,
    path: Path,
    images: Sequence[str | Path],
    options: PredictOptions,
    progress: Progress = no_progress,
    *,
    resume: bool = False,
) -> Written:
    """Writes what `predict` finds to `file` as it is found, a line of JSON for each image, in order; holds no more than a batch.

    With `resume` it goes on where a run that was ended left off: no image is left out, and none is written twice; images are known
    by their names. Under torchrun every process takes its share, in a file of its own, and the first one brings them together at
    the end. Raises what `predict` raises, and InputError where `file` is there and not to be resumed, is being written, or holds
    other images or what other options gave.
    """
    artifact = open_artifact(path, options.which)
    found = find_images(images)
    by = {"artifact": artifact.path.name, "sha256": sha256_of(artifact.path), "options": options.in_lines}
    if world_size() > 1:
        return _written_in_shares(file, found, by, artifact, options, progress, resume=resume)
    if not resume:
        require_absent(file)
    require_no_other_parts(file, 1)
    with LineFile(file, by, (image.name for image in found), resume=resume) as lines:
        return Written(*_write(lines, found, artifact, options, progress))


def _written_in_shares(
    file: Path,
    found: Sequence[Found],
    by: dict[str, Any],
    artifact: Artifact,
    options: PredictOptions,
    progress: Progress,
    *,
    resume: bool,
) -> Written:
    """This process's share of the images in a file of its own; the first process brings them together."""
    from iresnet_train.distributed import joined_world

    with joined_world(options.device.partition(":")[0], patience=_PATIENCE) as world:  # type: ignore[arg-type]
        options = dataclasses.replace(options, device=str(world.device))
        parts, own = [part_of(file, rank, world.size) for rank in range(world.size)], found[world.rank :: world.size]
        if not resume:
            require_absent(file)
        is_merged = os.path.lexists(file)
        try:
            require_no_other_parts(file, world.size)
            if is_merged:
                share = _merged(file, parts, by, found) if world.is_first else (0, 0, 0)
            else:
                with LineFile(parts[world.rank], by, (image.name for image in own), resume=resume) as lines:
                    share = _write(lines, own, artifact, options, progress if world.is_first else no_progress)
        except IResNetError as error:
            world.gather(str(error))  # the others would wait
            raise
        shares = world.gather(share)
        for rank, found_there in enumerate(shares):
            if isinstance(found_there, str):
                raise InputError(f"Process {rank} has failed: {found_there}", "Mend that, and go on with --resume.")
        if world.is_first and not is_merged:
            merge(parts, file)
    return Written(*map(sum, zip(*shares, strict=True)))


def _write(
    lines: LineFile, images: Sequence[Found], artifact: Artifact, options: PredictOptions, progress: Progress
) -> tuple[int, int, int]:
    """How many lines there are then, how many of unreadable images, and how many there were before."""
    before = lines.count
    if before < len(images):
        rest = images[before:]
        with _running(artifact, options, len(rest)) as running_one:
            for prediction in running_one.predictions(rest, progress):
                lines.write(prediction.to_json())
    return lines.count, lines.unreadable, before


def _merged(file: Path, parts: Sequence[Path], by: dict[str, Any], found: Sequence[Found]) -> tuple[int, int, int]:
    """The same of a file in which the shares are together already; removes what a run that was ended has left of them."""
    with LineFile(file, by, (image.name for image in found), resume=True) as lines:
        if lines.count < len(found):
            reason = (
                f"{file} has lines of {lines.count:,} of {len(found):,} images, and several processes write shares of their own."
            )
            raise InputError(reason, "Go on with it in one process.")
    for part in parts:
        part.unlink(missing_ok=True)
    return lines.count, lines.unreadable, lines.count


def find_images(named: Sequence[str | Path]) -> list[Found]:
    """The files that are named, whatever they are, and the images in folders and shards that are named, at any depth.

    A file goes by the name it was given, an image in a folder by its path in that folder; after the folder's name, where more than
    one thing is named, so that the images of two folders can be told apart. One in a shard goes by its name after the shard's,
    and what has an address by that. Hidden files and folders are passed over.
    """
    found: list[Found] = []
    others: Counter[str] = Counter()
    for typed in map(str, named):
        if is_address(typed):
            found += _at_address(typed, others)
        elif os.path.isdir(typed):
            files = image_files(Path(typed))
            others += files.others
            images = sorted(map(Path, files.paths))
            found += [Found(str(image), printable(image.relative_to(typed) if len(named) == 1 else image)) for image in images]
        elif _is_shard(typed):
            found += _in_shard(typed)
        else:
            found.append(Found(typed, printable(Path(typed))))
    passed_over = left_out(others)
    if not found:
        where = ", ".join(map(shown, map(str, named[:4]))) + (", ..." if len(named) > 4 else "")
        endings = ", ".join(image_suffixes())
        raise InputError(
            f"No image was found in {where or 'nothing'}: folders and shards are searched for files that end in {endings}.",
            f"{'' if passed_over is None else passed_over + ' '}Name other folders, or the image files themselves, which may end "
            "in anything.",
        )
    if passed_over:
        remark(passed_over)
    return found


def _at_address(typed: str, others: Counter[str]) -> Iterator[Found]:
    """What lies at an address. Of several files those that are named like images are taken, and what is in shards."""
    places = listed(typed)
    for place in places:
        name = shown(place).rpartition("/")[2]
        if _is_shard(shown(place)):
            yield from _in_shard(place)
        elif places == [typed] or is_image_name(name):
            yield Found(place, shown(place))
        elif not name.startswith("."):
            others[os.path.splitext(name)[1].lower()] += 1


def _is_shard(name: str) -> bool:
    return name.lower().endswith(".tar")


def _in_shard(place: str) -> Iterator[Found]:
    from iresnet_data.shard_index import images_in_shard
    from iresnet_data.shards import ShardMember, local_shard

    path = local_shard(place)
    name = shown(place) if is_address(place) else printable(Path(place))
    for member, offset, size in images_in_shard(path):
        yield Found(ShardMember(str(path), member, offset, size), f"{name}/{printable(member.lstrip('/'))}")


@dataclass(frozen=True)
class _Running:
    """An artifact that runs here, by a backend, on images of its spec, `size` at a time."""

    artifact: Artifact
    spec: NetworkSpec
    options: PredictOptions
    backend: str
    session: HostSession
    size: int

    def predictions(self, found: Sequence[Found], progress: Progress) -> Iterator[ImagePrediction]:
        """Batch after batch."""
        done = 0
        with closing(self._in_streams(found) if self.session.streams > 1 else self._in_turn(found)) as batches:
            for batch in batches:
                yield from batch
                done += len(batch)
                progress(f"Predicting by {self.artifact.path.name}", done / len(found))

    def _in_turn(self, found: Sequence[Found]) -> Generator[list[ImagePrediction], None, None]:
        with closing(_decoded(found, self.spec, self.size)) as batches:
            for batch in batches:
                yield _predicted(self.session, self.spec, self.artifact, batch, self.options)

    def _in_streams(self, found: Sequence[Found]) -> Generator[list[ImagePrediction], None, None]:
        """Each stream decodes its own batches: no core waits for another, and there are no more images than streams' batches."""
        pool, waiting = ThreadPoolExecutor(self.session.streams), deque[Future[list[ImagePrediction]]]()
        try:
            for start in range(0, len(found), self.size):
                waiting.append(pool.submit(self._answer, found[start : start + self.size]))
                if len(waiting) == 2 * self.session.streams:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _answer(self, images: Sequence[Found]) -> list[ImagePrediction]:
        batch = [_decode(image, self.spec) for image in images]
        return _predicted(self.session, self.spec, self.artifact, batch, self.options)


@contextmanager
def _running(artifact: Artifact, options: PredictOptions, count: int) -> Iterator[_Running]:
    """To predict so many images."""
    spec = spec_of(artifact, options.checkpoint, options.which, options.said)
    if artifact.manifest is not None:
        artifact.require_intact()
    streams = min(processors(), options.batch_size)
    backend, session = _session(artifact, options, streams if count >= _WORTH_STREAMS * streams else 1)
    size = usable_batch_size(session, options.batch_size // session.streams)
    with session:
        yield _Running(artifact, spec, options, backend, session, size)


def _own_threads() -> int | None:
    """For a session without streams: this process's share of the processors; of a process alone None, the runtime's choice."""
    return processors() if world_size() > 1 else None


def _session(artifact: Artifact, options: PredictOptions, streams: int) -> tuple[str, HostSession]:
    """A session of the first backend that can run the artifact here, with the backend's name."""
    unavailable: list[UnavailableError] = []
    for backend in runtimes_for(artifact.format, () if options.backend is None else (options.backend,)):
        try:
            session = backend.load_for_arrays(
                artifact, options.device, streams=streams, threads=_own_threads(), trust=options.trust
            )
            return backend.name, session
        except UnavailableError as error:
            unavailable.append(error)
    raise unavailable[0]


_Decoded = tuple[Found, Array | str]
"""An image with its pixels, or with the reason why it cannot be read."""


def _decode(image: Found, spec: NetworkSpec) -> _Decoded:
    try:
        return image, pixels_of(image.opened(), spec)
    except InputError as error:
        path = image.place if isinstance(image.place, str) and not is_address(image.place) else image.name
        return image, str(error).replace(printable(Path(path)), image.name)


def _decoded(found: Sequence[Found], spec: NetworkSpec, size: int) -> Generator[list[_Decoded], None, None]:
    """Batch after batch; while the caller works on one, threads decode the next, and no more than that."""
    pool = ThreadPoolExecutor(_DECODERS)
    try:
        ahead: list[Future[_Decoded]] = []
        for start in range(0, len(found) + size, size):
            now, ahead = ahead, [pool.submit(_decode, image, spec) for image in found[start : start + size]]
            if now:
                yield [future.result() for future in now]
    finally:
        pool.shutdown(cancel_futures=True)


def _predicted(
    session: HostSession, spec: NetworkSpec, artifact: Artifact, batch: Sequence[_Decoded], options: PredictOptions
) -> list[ImagePrediction]:
    """The predictions of one batch."""
    readable = [(image, pixels) for image, pixels in batch if not isinstance(pixels, str)]
    tops = iter(_tops(session, spec, artifact, readable, options) if readable else ())
    return [
        ImagePrediction(image.name, "unreadable", pixels)
        if isinstance(pixels, str)
        else ImagePrediction(image.name, "ok", top=next(tops))
        for image, pixels in batch
    ]


def _tops(
    session: HostSession, spec: NetworkSpec, artifact: Artifact, batch: Sequence[tuple[Found, Array]], options: PredictOptions
) -> list[tuple[ClassProbability, ...]]:
    size = usable_batch_size(session, len(batch))  # a few images need not cost what a full batch does
    with running(artifact.path):
        logits = _logits(session, spec, np.stack([pixels for _, pixels in batch]), size)
    if logits.ndim != 2 or logits.shape[1] != spec.num_classes:
        raise ArtifactError(
            f"{artifact.path} gives outputs of the shape {tuple(logits.shape)} for {len(batch)} images, and not {spec.num_classes} "
            f"logits each, as {spec.name} does.",
            "Name the checkpoint that it was made from with --checkpoint, or export it again.",
        )
    wrong = [image.name for (image, _), values in zip(batch, logits, strict=True) if not np.isfinite(values).all()]
    if wrong:
        raise CheckFailedError(
            f"{artifact.path} gives NaN or infinite outputs for {wrong[0]}: its numbers overflow.",
            "Check it with `iresnet-export verify`, and export it in another precision.",
        )
    # Of equal logits the first class wins, as in argmax.
    order = np.argsort(-logits, axis=1, kind="stable")[:, : options.top_k]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = np.take_along_axis(powers / powers.sum(axis=1, keepdims=True), order, axis=1)
    return [
        tuple(
            ClassProbability(number, str(number) if spec.labels is None else spec.labels[number], probability)
            for number, probability in zip(numbers, values, strict=True)
        )
        for numbers, values in zip(order.tolist(), probabilities.tolist(), strict=True)
    ]


def _logits(session: HostSession, spec: NetworkSpec, pixels: Array, size: int) -> Array:
    """Those of all images (n, classes), float64, in batches of `size`, of which the last is filled up with its first image."""
    outputs = []
    for start in range(0, len(pixels), size):
        batch = pixels[start : start + size]
        lacking = size - len(batch)
        filled = np.concatenate([batch, np.repeat(batch[:1], lacking, axis=0)]) if lacking else batch
        outputs.append(session.run(session.batch_of(filled, spec))[: len(batch)])
    return np.concatenate(outputs).astype(np.float64)
