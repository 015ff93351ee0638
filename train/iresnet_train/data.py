"""Data sets: the embedded digits, and folders of images, for training, evaluation and calibration alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from iresnet_models.errors import InputError
from iresnet_models.preprocessing import load_image, preprocessing, to_pixels
from iresnet_models.spec import ModelSpec

DIGITS_DATA = "digits"
"""The name of the embedded data set, wherever data are named; any other name is a folder."""

_DIGITS_LABELS = tuple("0123456789")
_HELD_OUT_PER_DIGIT = 50
_LAYOUT = "train/ and val/, and in each of them one folder of images for every class"

Source = Image.Image | str
"""An image, or the path of one."""

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


def digits_spec(arch: str = "iresnet", depth: int = 18) -> ModelSpec:
    """The spec of a network for the embedded digits, at 32 pixels."""
    return ModelSpec(
        arch,
        depth,
        num_classes=10,
        image_size=32,
        resize=32,
        mean=(0.305, 0.305, 0.305),  # of the training part's own pixels, at 32 pixels
        std=(0.324, 0.324, 0.324),
        labels=_DIGITS_LABELS,
        data=DIGITS_DATA,
    )


def spec_for(data: str, arch: str, depth: int, **fields: Any) -> ModelSpec:
    """The spec of a network that is to learn `data`: its classes follow from the data, `fields` are as given."""
    if data == DIGITS_DATA:
        return dataclasses.replace(digits_spec(arch, depth), **fields)
    labels = _class_folders(_training_folder(data))
    return ModelSpec(arch, depth, num_classes=len(labels), labels=labels, **fields)


def training_set(data: str, spec: ModelSpec, augment: Transform | None = None) -> LabelledImages:
    """The training part; `augment` makes a tensor of each image, None prepares it as for evaluation."""
    if data == DIGITS_DATA:
        images, labels = _digits_of(spec, held_out=False)
    else:
        folder = _training_folder(data)
        images, labels = _labelled_images(folder, _class_names(spec, folder))
    return LabelledImages(images, labels, augment or preprocessing(spec))


def evaluation_set(data: str, spec: ModelSpec, prepare: Transform | None = None) -> LabelledImages:
    """The held-out part, prepared in the one way of `spec`, or by `prepare`.

    That is the held-out digits; of a folder its val/, or the folder itself where it has neither train/ nor val/.
    Raises InputError where the data's classes are not those of `spec`.
    """
    if data == DIGITS_DATA:
        images, labels = _digits_of(spec, held_out=True)
    else:
        folder, training = _held_out_folder(data), Path(data) / "train"
        images, labels = _labelled_images(folder, _class_names(spec, training if training.is_dir() else folder))
    return LabelledImages(images, labels, prepare or preprocessing(spec))


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
    return _permutation(available, seed)[:count]


def _permutation(count: int, seed: int) -> list[int]:
    # NumPy keeps the stream of RandomState the same in all its versions, that of its newer generators not.
    return [int(index) for index in np.random.RandomState(seed).permutation(count)]


def _opened(image: Source) -> Image.Image:
    return image if isinstance(image, Image.Image) else load_image(Path(image))


@cache
def _digits() -> tuple[list[Image.Image], list[int]]:
    from sklearn.datasets import load_digits  # takes a second, and folders do not need it

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(image) for image in pixels], [int(label) for label in bunch.target]


def _digits_of(spec: ModelSpec, *, held_out: bool) -> tuple[list[Source], list[int]]:
    """The 500 held-out digits, 50 of each, or the other 1,297."""
    if spec.num_classes != 10 or spec.labels not in (None, _DIGITS_LABELS):
        classes = f"{spec.num_classes}" + ("" if spec.labels is None else f" ({_some(spec.labels)})")
        raise InputError(f"The classes of the digits are 0 to 9, but those of this {spec.name} are {classes}; name its own data.")
    images, labels = _digits()
    taken = [0] * 10
    chosen = []
    for index in _permutation(len(images), seed=0):
        if (taken[labels[index]] < _HELD_OUT_PER_DIGIT) == held_out:
            chosen.append(index)
        taken[labels[index]] += 1
    return [images[index] for index in chosen], [labels[index] for index in chosen]


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
    if data == DIGITS_DATA:
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
            f"{folder} has folders that are no classes of the network or of its training data: {_some(foreign)}; "
            f"the {len(names)} classes are {_some(names)}. Rename or remove them, or name other data."
        )
    samples = make_dataset(str(folder), place, IMG_EXTENSIONS, allow_empty=True)
    filled = {label for _, label in samples}
    empty = [name for name in found if place[name] not in filled]
    if empty:
        raise InputError(
            f"{folder} has folders without images: {_some(empty)}; expected files that end in {', '.join(IMG_EXTENSIONS)}. "
            "Add images, or remove these folders."
        )
    return [path for path, _ in samples], [label for _, label in samples]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
