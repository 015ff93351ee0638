"""Data sets: digits, folders of images, shards and noise, for training, evaluation and calibration alike."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from iresnet_models.errors import InputError
from iresnet_models.image_files import image_files, image_suffixes, left_out, printable, require_regular, subfolders
from iresnet_models.preprocessing import UNREADABLE, load_image, preprocessing, to_pixels, unreadable
from iresnet_models.spec import ModelSpec
from iresnet_train.digits import DIGITS_DATA, digits_of, digits_spec, permutation, some_of
from iresnet_train.shards import ShardMember, Shards, has_shards, require_name
from iresnet_train.synthetic import CLASSES, Prepared, is_synthetic, synthetic_count, synthetic_images

__all__ = [
    "DIGITS_DATA",
    "LabelledImages",
    "all_read",
    "calibration_set",
    "digits_spec",
    "embedded",
    "evaluation_pixels",
    "evaluation_set",
    "has_labels",
    "place_of",
    "remark",
    "spec_for",
    "training_pixels",
    "training_set",
]

_LAYOUT = "train/ and val/, and in each of them one folder of images for every class"

Source = Image.Image | str | ShardMember
"""An image, the path of one, or its place in a shard."""

Transform = Callable[[Image.Image], Tensor]

T = TypeVar("T")

_log = logging.getLogger("iresnet_train")


class LabelledImages(Dataset[tuple[Tensor, int]]):
    """Images, each opened and transformed when it is asked for, with the numbers of their classes.

    `left_out`: a sentence about files that lie among them and were passed over; None where there are none.
    """

    def __init__(self, images: Sequence[Source], labels: Sequence[int], transform: Transform, left_out: str | None = None) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform
        self.left_out = left_out

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


def embedded(name: str) -> str:
    """`name`, if it is of data that need no file. Whatever a file names as its data goes through here.

    A file may come from a stranger: folders, addresses and commands are opened because a user named them, and for no other reason.
    """
    if name == DIGITS_DATA:
        return name
    if is_synthetic(name):
        synthetic_count(name)
        return name
    raise InputError(
        f"The file names {name[:80]!r} as its data set, and a file may only name embedded data: {DIGITS_DATA!r} or 'synthetic'. "
        "Nothing was opened. If you know these images, name them yourself."
    )


def place_of(data: str) -> str | None:
    """The absolute path of a folder, or pattern of local shards; None for what is no place here: embedded data, commands, URLs."""
    if data == DIGITS_DATA or is_synthetic(data) or data.startswith("pipe:") or "://" in data:
        return None
    require_name(data)
    return os.path.abspath(data)


@functools.cache
def remark(text: str) -> None:
    """Says something of the data, once, by the first of torchrun's processes."""
    if os.environ.get("RANK", "0") == "0":
        _log.warning("%s", text)


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
        return _labelled_images(folder, _class_names(spec, folder), transform, held_out=False)
    folder = _held_out_folder(data)
    names = _class_names(spec, training if training.is_dir() else folder)
    return _labelled_images(folder, names, transform, held_out=True)


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
    return torch.stack(list(all_read(lambda index: prepare(_opened(images[index])), chosen)))


def all_read(read: Callable[[int], T], indices: Iterable[int], others: Iterable[int] = ()) -> Iterator[T]:
    """What `read` gives for each index. If that raises InputError, one error names all of `indices` and `others` that do."""
    left = iter(indices)
    for index in left:
        try:
            yield read(index)
        except InputError as error:
            raise unreadable([str(error), *_complaints(read, left), *_complaints(read, others)]) from error


def _complaints(read: Callable[[int], object], indices: Iterable[int]) -> Iterator[str]:
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


def _opened(image: Source) -> Image.Image:
    if isinstance(image, ShardMember):
        return image.opened()
    return image if isinstance(image, Image.Image) else load_image(Path(image))


def _folder(data: str) -> Path:
    require_name(data)
    if not os.path.isdir(data):
        raise InputError(
            f"The data folder {printable(data)} {_why_none(data)}. "
            f"Name a folder that holds {_LAYOUT}; or {DIGITS_DATA!r}, the embedded data."
        )
    return Path(data)


def _why_none(data: str) -> str:
    try:
        os.stat(data)
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be opened ({(error.strerror if isinstance(error, OSError) else None) or error})"
    return "is a file"


def _training_folder(data: str) -> Path:
    folder = _folder(data) / "train"
    if not folder.is_dir():
        raise InputError(f"{printable(folder.parent)} has no folder train/; expected {_LAYOUT}.")
    return folder


def _held_out_folder(data: str) -> Path:
    root = _folder(data)
    if (root / "val").is_dir():
        return root / "val"
    if (root / "train").is_dir():
        raise InputError(
            f"{printable(root)} has a folder train/, but none named val/ with the held-out images; expected {_LAYOUT}."
        )
    return root


def _class_folders(folder: Path) -> tuple[str, ...]:
    names = subfolders(folder)
    strange = next((name for name in names if name.encode("utf-8", "replace").decode() != name), None)
    if strange is not None:
        raise InputError(f"{printable(folder / strange)} is no name of a class: it is not text in UTF-8. Rename the folder.")
    if not names:
        raise InputError(
            f"{printable(folder)} holds no folders, but {len(_images_in(folder))} images; expected a folder of images for every "
            "class."
        )
    return names


def _images_in(folder: Path) -> list[str]:
    return list(image_files(folder, deep=False).paths)


def _images_without_classes(data: str) -> list[str]:
    """The images that lie in the folder itself, where it has no folders of classes."""
    if data == DIGITS_DATA or is_synthetic(data) or has_shards(data):
        return []
    folder = _held_out_folder(data)
    return [] if subfolders(folder) else _images_in(folder)


def _class_names(spec: ModelSpec, folder: Path) -> tuple[str, ...]:
    """The names of the network's classes in their order: those of `folder`, where the network does not know them."""
    if spec.labels is not None:
        return spec.labels
    names = _class_folders(folder)
    if len(names) != spec.num_classes:
        raise InputError(
            f"{printable(folder)} holds folders of {len(names)} classes, but this {spec.name} has {spec.num_classes}. "
            "Name the data that it was trained on, or a network of these classes."
        )
    return names


def _labelled_images(folder: Path, names: tuple[str, ...], transform: Transform, *, held_out: bool) -> LabelledImages:
    """The images in the folders of classes, as torchvision's ImageFolder finds them; a class is its place in `names`.

    That is at any depth in a class's folder; hidden files and folders are passed over.
    """
    found = _class_folders(folder)
    place = {name: number for number, name in enumerate(names)}
    foreign = [name for name in found if name not in place]
    if foreign:
        raise InputError(
            f"{printable(folder)} has folders that are no classes of the network or of its training data: {some_of(foreign)}; "
            f"the {len(names)} classes are {some_of(names)}. Rename or remove them, or name other data."
        )
    images: list[Source] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for name in found:
        files = image_files(folder / name)
        images += files.paths
        labels += [place[name]] * len(files.paths)
        others += files.others
    filled = set(labels)
    empty = [name for name in found if place[name] not in filled]
    if empty and (not held_out or not images):
        raise InputError(
            f"{printable(folder)} has folders without images: {some_of(empty)}; expected files that end in "
            f"{', '.join(image_suffixes())}. Add images, or remove these folders."
        )
    if held_out and len(filled) < len(names):
        lacking = [name for name in names if place[name] not in filled]
        remark(
            f"{printable(folder)} has no images of {len(lacking)} of the {len(names)} classes ({some_of(lacking)}), and the "
            "accuracy says nothing of them."
        )
    sentences = [left_out(others)]
    if beside := _images_in(folder):
        sentences.append(f"Left out: {len(beside)} images in {printable(folder)} itself, which lie in no class's folder.")
    return LabelledImages(images, labels, transform, " ".join(filter(None, sentences)) or None)
