"""Data sets: digits, folders of images, shards and noise, for training, evaluation and calibration alike."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from iresnet_data.digits import digits_of, digits_spec, permutation
from iresnet_data.folders import (
    class_folders,
    class_names,
    data_folder,
    held_out_folder,
    images_in,
    is_flat,
    labelled_images,
    training_folder,
)
from iresnet_data.named_data import DIGITS_DATA, is_embedded, is_synthetic
from iresnet_data.shards import ShardMember, Shards, has_shards
from iresnet_data.splits import split_of
from iresnet_data.synthetic import CLASSES, Prepared, synthetic_images
from iresnet_models.errors import InputError
from iresnet_models.image_files import printable, require_regular, subfolders
from iresnet_models.preprocessing import UNREADABLE, load_image, preprocessing, to_pixels, unreadable
from iresnet_models.spec import ModelSpec, NetworkSpec, Split

__all__ = [
    "DIGITS_DATA",
    "LabelledImages",
    "all_read",
    "calibration_set",
    "digits_spec",
    "evaluation_pixels",
    "evaluation_set",
    "has_labels",
    "held_out_set",
    "image_name",
    "spec_for",
    "training_pixels",
    "training_set",
]

Source = Image.Image | str | ShardMember
"""An image, the path of one, or its place in a shard."""

Transform = Callable[[Image.Image], Tensor]

T = TypeVar("T")


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images, each opened and transformed when it is asked for, with the numbers of their classes.

    `left_out`: a sentence about files that lie among them and were passed over; None where there are none. `names`: of the
    classes, where the data know them.
    """

    def __init__(
        self,
        images: Sequence[Source],
        labels: Sequence[int],
        transform: Transform,
        left_out: str | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform
        self.left_out = left_out
        self.names = names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(_opened(self.images[index])), self.labels[index]

    def order(self, generator: torch.Generator) -> Sequence[int]:
        """All indices, shuffled for an epoch."""
        shuffled: Sequence[int] = torch.randperm(len(self), generator=generator).tolist()
        return shuffled


class ShardImages(LabelledImages):
    """The same, out of shards: the order goes through a few of them at a time, so that a disk reads them nearly in sequence."""

    def __init__(self, shards: Shards, transform: Transform) -> None:
        super().__init__(shards.images, shards.labels, transform, names=shards.names)
        self._shards = shards

    def order(self, generator: torch.Generator) -> Sequence[int]:
        return self._shards.order(generator)


def spec_for(data: str, arch: str, depth: int, *, val_split: float | None = None, **fields: Any) -> ModelSpec:
    """The spec of a network that is to learn `data`: its classes follow from the data, `fields` are as given.

    `val_split`: what is held out of each class of a folder without train/ and val/.
    """
    if val_split is not None:
        folder = _undivided(data)
        labels = class_folders(folder)
        images, numbers, _ = labelled_images(folder, labels, held_out=False)
        split, _ = split_of(images, numbers, labels, val_split)
        return ModelSpec(arch, depth, num_classes=len(labels), labels=labels, split=split, **fields)
    if data == DIGITS_DATA:
        return dataclasses.replace(digits_spec(arch, depth), **fields)
    if is_synthetic(data):
        return ModelSpec(arch, depth, num_classes=CLASSES, **fields)
    if has_shards(data):
        shards = Shards(data, "train")
        return ModelSpec(arch, depth, num_classes=shards.num_classes, labels=shards.names, **fields)
    labels = class_folders(training_folder(data))
    return ModelSpec(arch, depth, num_classes=len(labels), labels=labels, **fields)


def _undivided(data: str) -> Path:
    if is_embedded(data) or has_shards(data) or not is_flat(data):
        raise InputError(
            f"val_split divides a folder whose folders are the classes, and {printable(data)} is none: it is divided already.",
            "Leave out --val-split, or name a folder of classes.",
        )
    return data_folder(data)


def training_set(data: str, spec: NetworkSpec, augment: Transform | None = None) -> LabelledImages:
    """The training part; `augment` makes a tensor of each image, None prepares it as for evaluation."""
    return _part(data, spec, augment or preprocessing(spec), held_out=False)


def evaluation_set(data: str, spec: NetworkSpec, prepare: Transform | None = None) -> LabelledImages:
    """The held-out part, prepared in the one way of `spec`, or by `prepare`.

    That is the held-out digits; of a folder its val/, or, where it has neither train/ nor val/, what the network's split held out
    of it, without one all of it; of a pattern of shards all of them. Raises InputError where the data's classes are not those of
    `spec`, or its images not those of its split.
    """
    return _part(data, spec, prepare or preprocessing(spec), held_out=True)


def _part(data: str, spec: NetworkSpec, transform: Transform, *, held_out: bool) -> LabelledImages:
    if data == DIGITS_DATA:
        return LabelledImages(*digits_of(spec, held_out=held_out), transform)
    if is_synthetic(data):
        return LabelledImages(*synthetic_images(data, held_out=held_out), Prepared(transform))
    if has_shards(data):
        shards = Shards(data, "val" if held_out else "train")
        shards.require_classes_of(spec)
        return ShardImages(shards, transform)
    training = data_folder(data) / "train"
    if spec.split is not None and is_flat(data):
        return _of_split(data_folder(data), spec, spec.split, transform, held_out=held_out)
    if not held_out:
        folder = training_folder(data)
        return _of_folder(folder, class_names(spec, folder), transform, held_out=False)
    folder = held_out_folder(data)
    names = class_names(spec, training if training.is_dir() else folder)
    return _of_folder(folder, names, transform, held_out=True)


def _of_folder(folder: Path, names: tuple[str, ...], transform: Transform, *, held_out: bool) -> LabelledImages:
    images, labels, left_out = labelled_images(folder, names, held_out=held_out)
    return LabelledImages(images, labels, transform, left_out, names)


def _of_split(folder: Path, spec: NetworkSpec, split: Split, transform: Transform, *, held_out: bool) -> LabelledImages:
    """One side of a flat folder, of which it has to be known what the network has seen."""
    names = class_names(spec, folder)
    images, labels, left_out = labelled_images(folder, names, held_out=False)
    found, sides = split_of(images, labels, names, split.fraction)
    if found.sha256 != split.sha256:
        raise InputError(
            f"{printable(folder)} holds other photos than this {spec.name} was trained with ({found.images}; "
            f"{split.images} were divided by --val-split {split.fraction:g}), so that nothing says which it has seen.",
            "Name the folder as it was; or put photos that it has not seen into NEW/val/, a folder for every class, and name NEW.",
        )
    chosen = [index for index, side in enumerate(sides) if side == held_out]
    return LabelledImages([images[index] for index in chosen], [labels[index] for index in chosen], transform, left_out, names)


def evaluation_pixels(data: str, spec: NetworkSpec, count: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """`count` held-out images as pixels (n, s, s, 3) and their labels (n), chosen by `seed`; all of them if there are fewer.

    `data` may also be a folder of images without classes: then there are no labels.
    """
    unlabelled = _images_without_classes(data)
    if unlabelled:
        return _pixels(unlabelled, spec, _choice(len(unlabelled), count, seed)), None
    return _selection(evaluation_set(data, spec), spec, count, seed)


def has_labels(data: str) -> bool:
    """Whether `evaluation_pixels` gives labels for these data."""
    return not _images_without_classes(data)


def training_pixels(data: str, spec: NetworkSpec, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same from the training part, prepared as for evaluation."""
    return _selection(training_set(data, spec), spec, count, seed)


def calibration_set(data: str, spec: NetworkSpec, count: int, seed: int = 0) -> Dataset[tuple[Tensor, int]]:
    """The same images, each opened when it is asked for: what an int8 network is calibrated with, however many there are."""
    training = training_set(data, spec, to_pixels(spec))
    return Subset(training, _choice(len(training), count, seed))


def held_out_set(data: str, spec: NetworkSpec, count: int, seed: int = 0) -> tuple[Dataset[tuple[Tensor, int]], list[int]]:
    """`count` images of the held-out part, each opened when it is asked for, and their labels; all of them if there are fewer."""
    images = evaluation_set(data, spec, to_pixels(spec))
    chosen = _choice(len(images), count, seed)
    return Subset(images, chosen), [images.labels[index] for index in chosen]


def _selection(images: LabelledImages, spec: NetworkSpec, count: int, seed: int) -> tuple[Tensor, Tensor]:
    chosen = _choice(len(images), count, seed)
    return _pixels(images.images, spec, chosen), torch.tensor([images.labels[index] for index in chosen])


def _pixels(images: Sequence[Source], spec: NetworkSpec, chosen: list[int]) -> Tensor:
    prepare = to_pixels(spec)
    return torch.stack(list(all_read(lambda index: prepare(_opened(images[index])), chosen)))


def all_read(read: Callable[[int], T], indices: Iterable[int], others: Iterable[int] = ()) -> Iterator[T]:
    """What `read` gives for each index. If that raises InputError, one error names all of `indices` and `others` that do."""
    left = iter(indices)
    for index in left:
        try:
            yield read(index)
        except InputError as error:
            raise unreadable([str(error), *_reasons(read, left), *_reasons(read, others)]) from error


def _reasons(read: Callable[[int], object], indices: Iterable[int]) -> Iterator[str]:
    for index in indices:
        try:
            read(index)
        except InputError as error:
            yield str(error)


def _choice(available: int, count: int, seed: int) -> list[int]:
    if count < 1:
        raise InputError(f"At least one image has to be chosen, not {count}.")
    return permutation(available, seed, count)


def file_content(image: Source) -> tuple[str, bytes]:
    """The name and the bytes of an image's file; InputError where it cannot be read, or there is none."""
    if isinstance(image, ShardMember):
        return image.place, image.content()
    if isinstance(image, Image.Image):
        raise InputError("The embedded images are no files; they can be loaded by the default loader alone.")
    try:
        require_regular(image)
        return image, Path(image).read_bytes()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(f"The image {printable(image)} cannot be read ({reason}).{UNREADABLE}") from error


def image_name(image: Source, data: str) -> str | None:
    """What reports call an image: its path in the folder of the data, or its shard's and its own; None for no file."""
    if isinstance(image, ShardMember):
        return printable(os.path.join(os.path.basename(image.shard), image.name.lstrip("/")))
    return printable(os.path.relpath(image, data)) if isinstance(image, str) else None


def _opened(image: Source) -> Image.Image:
    if isinstance(image, ShardMember):
        return image.opened()
    return image if isinstance(image, Image.Image) else load_image(Path(image))


def _images_without_classes(data: str) -> list[str]:
    """The images that lie in the folder itself, where it has no folders of classes."""
    if is_embedded(data) or has_shards(data):
        return []
    folder = held_out_folder(data)
    return [] if subfolders(folder) else images_in(folder)
