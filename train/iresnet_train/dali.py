"""Training images by NVIDIA DALI: JPEGs decoded, cropped and resized on the GPU that trains, or on processors (extra `dali`).

Crops and flips are those of the default loader, image by image, because they are drawn here, from the same seeds; pixels differ
from its by a third of a level of 256 on average, as another resampling rounds. So a run depends on no number of processes or
threads, and is resumed exactly. What DALI would read otherwise than `load_image` (turned or transparent images, four colours, 16
bits, files that are cut off) is decoded by that, and reaches DALI as plain pixels. Damage inside a JPEG's pixels, which Pillow may
refuse, DALI may pass over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms import v2

from iresnet_data.datasets import LabelledImages, file_content
from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.preprocessing import load_image
from iresnet_models.spec import ModelSpec
from iresnet_train.loader import Batch, Keys, Plan
from iresnet_train.randomness import seed_image

_READ_AHEAD = 2
"""Steps whose files are read while DALI decodes those before."""

_FLIPPED = 0.5
_INPUTS = {"encoded": ("UINT8", 1), "start": ("INT32", 1), "shape": ("INT32", 1), "mirrored": ("INT32", 0)}
"""What DALI is given of each image: type and number of dimensions."""


class Care(IntEnum):
    """What a step's files take: nothing, or, once DALI has failed over one of them, a look by Pillow, or all of its work."""

    NONE, CHECKED, DECODED = range(3)


class _DecodingError(Exception):
    """DALI ended in an error, which does not say by which file."""


@dataclass(frozen=True)
class _File:
    """A JPEG or PPM, whole, with its size in pixels."""

    content: bytes
    height: int
    width: int


@dataclass(frozen=True)
class _Task:
    """The images of a step, and what care their files take."""

    keys: Keys
    care: Care = Care.NONE


@dataclass(frozen=True)
class _Reading:
    """The files of a step, while they are read."""

    task: _Task
    files: list[Future[_File | InputError]]


@dataclass(frozen=True)
class _Step:
    """The images of a step as DALI takes them."""

    task: _Task
    given: dict[str, list[NDArray[Any]]]
    labels: list[int]
    unreadable: list[str]


class DaliBatches:
    """The batches of a plan, each time that it is gone through. Where a GPU trains, the images lie there, the labels do not."""

    def __init__(
        self, images: LabelledImages, plan: Plan, spec: ModelSpec, size: int, *, seed: int, device: torch.device, threads: int
    ) -> None:
        self._dali = imported()
        self._images, self._plan, self._spec, self._seed = images, plan, spec, seed
        self._crop = v2.RandomResizedCrop(size)
        self._size, self._device, self._threads = size, device, max(1, threads)
        self._ahead, self._waiting = deque[_Reading](), deque[_Step]()
        self._source: Iterator[_Step] = iter(())

    def __iter__(self) -> Iterator[Batch]:
        todo: Iterator[_Task] = (_Task(keys) for keys in self._plan)
        with ThreadPoolExecutor(self._threads) as readers:
            while True:
                self._ahead.clear()
                self._waiting.clear()
                self._source = self._steps(todo, readers)
                try:
                    yield from self._decoded()
                    return
                except _DecodingError as error:
                    undone = [step.task for step in self._waiting] + [reading.task for reading in self._ahead]
                    if not self._waiting or undone[0].care is Care.DECODED:
                        raise UnavailableError(f"DALI cannot go on: {error}", "Leave out --loader dali.") from error
                # A file that only decoding shows to be damaged ends the pipeline: another one begins at its step.
                todo = chain([_Task(undone[0].keys, Care(undone[0].care + 1))], undone[1:], todo)

    def _decoded(self) -> Iterator[Batch]:
        """By one pipeline, which prepares the next steps meanwhile."""
        pipeline = self._pipeline()
        while True:
            try:
                (found,) = pipeline.run()
            except StopIteration:
                return
            except RuntimeError as error:
                raise _DecodingError(_reason(error)) from error
            step, images = self._waiting[0], self._tensor(found)
            self._waiting.popleft()
            if not step.labels:
                yield Batch(None, None, step.unreadable)
            else:
                yield Batch(images, torch.tensor(step.labels), step.unreadable)

    def _pipeline(self) -> Any:
        dali = self._dali
        fn, types = dali.fn, dali.types
        on_gpu = self._device.type == "cuda"
        pipeline = dali.Pipeline(
            batch_size=self._plan.most,
            num_threads=self._threads,
            device_id=(self._device.index or 0) if on_gpu else None,
        )
        with pipeline:
            encoded, start, shape, mirrored = fn.external_source(
                source=self._next,
                num_outputs=len(_INPUTS),
                dtype=[getattr(types, kind) for kind, _ in _INPUTS.values()],
                ndim=[dimensions for _, dimensions in _INPUTS.values()],
            )
            images = fn.decoders.image_slice(
                encoded, start, shape, device="mixed" if on_gpu else "cpu", output_type=types.RGB, axis_names="HW"
            )
            kind = {"nearest": "INTERP_NN", "bilinear": "INTERP_LINEAR", "bicubic": "INTERP_CUBIC"}[self._spec.interpolation]
            images = fn.resize(images, size=[self._size, self._size], interp_type=getattr(types, kind), antialias=True)
            images = fn.crop_mirror_normalize(
                images,
                mirror=mirrored,
                mean=[255 * value for value in self._spec.mean],
                std=[255 * value for value in self._spec.std],
                dtype=types.FLOAT,
                output_layout="CHW",
            )
            pipeline.set_outputs(images)
        pipeline.build()
        return pipeline

    def _next(self) -> tuple[list[NDArray[Any]], ...]:
        """A step for DALI, which asks before it has given back the one before."""
        step = next(self._source)
        self._waiting.append(step)
        return tuple(step.given.values())

    def _tensor(self, found: Any) -> Tensor:
        """The caller's own: DALI uses its memory again."""
        images = torch.empty((len(found), 3, self._size, self._size), device=self._device)
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        self._dali.plugin.pytorch.feed_ndarray(found.as_tensor(), images, cuda_stream=stream)
        return images

    def _steps(self, todo: Iterator[_Task], readers: ThreadPoolExecutor) -> Iterator[_Step]:
        """Files are read ahead; what is random is drawn in order, by this thread, whose generator it is."""
        for task in todo:
            self._ahead.append(_Reading(task, [readers.submit(self._read, number, task.care) for _, number in task.keys]))
            if len(self._ahead) > _READ_AHEAD:
                yield self._drawn(self._ahead.popleft())
        while self._ahead:
            yield self._drawn(self._ahead.popleft())

    def _read(self, number: int, care: Care) -> _File | InputError:
        try:
            name, content = file_content(self._images.images[number % len(self._images)])
            plain = _plain_jpeg(content)
            if plain is not None and care is Care.NONE:
                return plain
            image = load_image(Path(name), content)
            return plain if plain is not None and care is Care.CHECKED else _as_ppm(image)
        except InputError as error:
            return error

    def _drawn(self, reading: _Reading) -> _Step:
        step = _Step(reading.task, {name: [] for name in _INPUTS}, [], [])
        for (epoch, number), future in zip(reading.task.keys, reading.files, strict=True):
            file = future.result()
            if isinstance(file, InputError):
                step.unreadable.append(str(file))
                continue
            seed_image(self._seed, epoch, number)
            # As torchvision's transforms draw: the crop's place and size, then whether it is flipped.
            crop = self._crop.make_params([torch.empty(()).expand(3, file.height, file.width)])
            self._give(step, file.content, crop, bool(torch.rand(1) < _FLIPPED))
            step.labels.append(self._images.labels[number % len(self._images)])
        if not step.labels:  # DALI takes no empty batch
            self._give(step, _as_ppm(Image.new("RGB", (1, 1))).content, {"top": 0, "left": 0, "height": 1, "width": 1}, False)
        return step

    def _give(self, step: _Step, content: bytes, crop: dict[str, int], mirrored: bool) -> None:
        step.given["encoded"].append(np.frombuffer(content, np.uint8))
        step.given["start"].append(np.array([crop["top"], crop["left"]], np.int32))
        step.given["shape"].append(np.array([crop["height"], crop["width"]], np.int32))
        step.given["mirrored"].append(np.array(mirrored, np.int32))


def imported() -> Any:
    """DALI; UnavailableError without it."""
    try:
        for part in ("fn", "types", "plugin.pytorch"):
            import_module(f"nvidia.dali.{part}")
        return import_module("nvidia.dali")
    except ImportError as error:
        raise UnavailableError(
            "--loader dali needs the package nvidia-dali-cuda130, which is not installed here.",
            "Run: pip install 'iresnet-export[dali]' (Linux); or leave out --loader.",
        ) from error


def _plain_jpeg(content: bytes) -> _File | None:
    """A JPEG that every decoder takes alike; None for anything else."""
    if not content.startswith(b"\xff\xd8") or not content.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None  # another format, or cut off
    try:
        with Image.open(BytesIO(content)) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            return _File(content, image.height, image.width) if upright and image.mode in ("RGB", "L") else None
    except Exception:  # a damaged header: `load_image` says what is wrong with it
        return None


def _as_ppm(image: Image.Image) -> _File:
    """Pixels without loss, in the simplest of the formats that DALI reads."""
    return _File(b"P6\n%d %d\n255\n" % image.size + image.tobytes(), image.height, image.width)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Critical error" not in line]
    return " ".join(lines[-3:]) or type(error).__name__
