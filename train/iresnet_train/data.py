"""Data sets: digits, folders of images, shards and noise, for training, evaluation and calibration alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from iresnet_models.errors import InputError
from iresnet_models.preprocessing import load_image, preprocessing, to_pixels
from iresnet_models.spec import ModelSpec
from iresnet_train.digits import DIGITS_DATA, digits_of, digits_spec, permutation, some_of
from iresnet_train.shards import ShardMember, Shards, has_shards
from iresnet_train.synthetic import CLASSES, Prepared, is_synthetic, synthetic_images

__all__ = [
    "DIGITS_DATA",
    "LabelledImages",
    "calibration_set",
    "digits_spec",
    "evaluation_pixels",
    "evaluation_set",
    "has_labels",
    "spec_for",
    "training_pixels",
    "training_set",
]

_LAYOUT = "train/ and val/, and in each of them one folder of images for every class"

Source = Image.Image | str | ShardMember
"""An image, the path of one, or its place in a shard."""

Transform = Callable[[Image.Image], Tensor]


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images, each opened and transformed when it is asked for, with the numbers of their classes."""

    def __init__(self, images: Sequence[Source], labels: Sequence[int], transform: Transform) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

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
        super().__init__(shards.images, shards.labels, transform)
        self._shards = shards

    def order(self, generator: torch.Generator) -> Sequence[int]:
        return self._shards.order(generator)


def spec_for(data: str, arch: str, depth: int, **fields: Any) -> ModelSpec:
    """The spec of a network that is to learn `data`: its classes follow from the data, `fields` are as given."""
    if data == DIGITS_DATA:
        return dataclasses.replace(digits_spec(arch, depth), **fields)
    if is_synthetic(data):
        return ModelSpec(arch, depth, num_classes=CLASSES, **fields)
    if has_shards(data):
        shards = Shards(data, "train")
        return ModelSpec(arch, depth, num_classes=shards.num_classes, labels=shards.names, **fields)
    labels = _class_folders(_training_folder(data))
    return ModelSpec(arch, depth, num_classes=len(labels), labels=labels, **fields)


def training_set(data: str, spec: ModelSpec, augment: Transform | None = None) -> LabelledImages:
    """The training part; `augment` makes a tensor of each image, None prepares it as for evaluation."""
    return _part(data, spec, augment or preprocessing(spec), held_out=False)


def evaluation_set(data: str, spec: ModelSpec, prepare: Transform | None = None) -> LabelledImages:
    """The held-out part, prepared in the one way of `spec`, or by `prepare`.

    That is the held-out digits; of a folder its val/, or the folder itself where it has neither train/ nor val/; of a pattern of
    shards all of them. Raises InputError where the data's classes are not those of `spec`.
    """
    return _part(data, spec, prepare or preprocessing(spec), held_out=True)


def _part(data: str, spec: ModelSpec, transform: Transform, *, held_out: bool) -> LabelledImages:
    if data == DIGITS_DATA:
        return LabelledImages(*digits_of(spec, held_out=held_out), transform)
    if is_synthetic(data):
        return LabelledImages(*synthetic_images(data, held_out=held_out), Prepared(transform))
    if has_shards(data):
        shards = Shards(data, "val" if held_out else "train")
        shards.require_classes_of(spec)
        return ShardImages(shards, transform)
    training = _folder(data) / "train"
    if not held_out:
        folder = _training_folder(data)
        return LabelledImages(*_labelled_images(folder, _class_names(spec, folder)), transform)
    folder = _held_out_folder(data)
    return LabelledImages(*_labelled_images(folder, _class_names(spec, training if training.is_dir() else folder)), transform)


def evaluation_pixels(data: str, spec: ModelSpec, count: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
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


def training_pixels(data: str, spec: ModelSpec, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same from the training part, prepared as for evaluation."""
    return _selection(training_set(data, spec), spec, count, seed)


def calibration_set(data: str, spec: ModelSpec, count: int, seed: int = 0) -> Dataset[tuple[Tensor, int]]:
    """The same images, each opened when it is asked for: what an int8 network is calibrated with, however many there are."""
    training = training_set(data, spec, to_pixels(spec))
    return Subset(training, _choice(len(training), count, seed))


def _selection(images: LabelledImages, spec: ModelSpec, count: int, seed: int) -> tuple[Tensor, Tensor]:
    chosen = _choice(len(images), count, seed)
    return _pixels(images.images, spec, chosen), torch.tensor([images.labels[index] for index in chosen])


def _pixels(images: Sequence[Source], spec: ModelSpec, chosen: list[int]) -> Tensor:
    prepare = to_pixels(spec)
    return torch.stack([prepare(_opened(images[index])) for index in chosen])


def _choice(available: int, count: int, seed: int) -> list[int]:
    if count < 1:
        raise InputError(f"At least one image has to be chosen, not {count}.")
    return permutation(available, seed)[:count]


def file_content(image: Source) -> tuple[str, bytes]:
    """The name and the bytes of an image's file; InputError where it cannot be read, or there is none."""
    if isinstance(image, ShardMember):
        return image.place, image.content()
    if isinstance(image, Image.Image):
        raise InputError("The embedded images are no files; they can be loaded by the default loader alone.")
    try:
        return image, Path(image).read_bytes()
    except OSError as error:
        raise InputError(f"The image {image} cannot be read ({error.strerror}). Remove it or replace it.") from error


def _opened(image: Source) -> Image.Image:
    if isinstance(image, ShardMember):
        return load_image(Path(image.place), image.content())
    return image if isinstance(image, Image.Image) else load_image(Path(image))


def _folder(data: str) -> Path:
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(
            f"The data folder {folder} {'is a file' if folder.exists() else 'does not exist'}. "
            f"Name a folder that holds {_LAYOUT}; or {DIGITS_DATA!r}, the embedded data."
        )
    return folder


def _training_folder(data: str) -> Path:
    folder = _folder(data) / "train"
    if not folder.is_dir():
        raise InputError(f"{folder.parent} has no folder train/; expected {_LAYOUT}.")
    return folder


def _held_out_folder(data: str) -> Path:
    root = _folder(data)
    if (root / "val").is_dir():
        return root / "val"
    if (root / "train").is_dir():
        raise InputError(f"{root} has a folder train/, but none named val/ with the held-out images; expected {_LAYOUT}.")
    return root


def _subfolders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = _subfolders(folder)
    if not names:
        raise InputError(
            f"{folder} holds no folders, but {len(_images_in(folder))} images; expected a folder of images for every class."
        )
    return names


def _images_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir() if path.is_file() and path.suffix.lower() in IMG_EXTENSIONS)


def _images_without_classes(data: str) -> list[str]:
    """The images that lie in the folder itself, where it has no folders of classes."""
    if data == DIGITS_DATA or is_synthetic(data) or has_shards(data):
        return []
    folder = _held_out_folder(data)
    return [] if _subfolders(folder) else _images_in(folder)


def _class_names(spec: ModelSpec, folder: Path) -> tuple[str, ...]:
    """The names of the network's classes in their order: those of `folder`, where the network does not know them."""
    if spec.labels is not None:
        return spec.labels
    names = _class_folders(folder)
    if len(names) != spec.num_classes:
        raise InputError(
            f"{folder} holds folders of {len(names)} classes, but this {spec.name} has {spec.num_classes}. "
            "Name the data that it was trained on, or a network of these classes."
        )
    return names


def _labelled_images(folder: Path, names: tuple[str, ...]) -> tuple[list[Source], list[int]]:
    """The images in the folders of classes, as torchvision's ImageFolder finds them; a class is its place in `names`."""
    found = _class_folders(folder)
    place = {name: names.index(name) for name in found if name in names}
    foreign = [name for name in found if name not in place]
    if foreign:
        raise InputError(
            f"{folder} has folders that are no classes of the network or of its training data: {some_of(foreign)}; "
            f"the {len(names)} classes are {some_of(names)}. Rename or remove them, or name other data."
        )
    samples = make_dataset(str(folder), place, IMG_EXTENSIONS, allow_empty=True)
    filled = {label for _, label in samples}
    empty = [name for name in found if place[name] not in filled]
    if empty:
        raise InputError(
            f"{folder} has folders without images: {some_of(empty)}; expected files that end in {', '.join(IMG_EXTENSIONS)}. "
            "Add images, or remove these folders."
        )
    return [path for path, _ in samples], [label for _, label in samples]
