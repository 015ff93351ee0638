"""Folders of images, one folder for each class."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from iresnet_data.digits import some_of
from iresnet_data.named_data import DIGITS_DATA, remark, require_name
from iresnet_models.errors import InputError
from iresnet_models.image_files import image_files, image_suffixes, left_out, printable, subfolders
from iresnet_models.spec import NetworkSpec

_LAYOUT = "train/ and val/, and in each of them one folder of images for every class"


def data_folder(data: str) -> Path:
    require_name(data)
    if not os.path.isdir(data):
        raise InputError(
            f"The data folder {printable(data)} {_why_none(data)}.",
            f"Name a folder that holds {_LAYOUT}; or {DIGITS_DATA!r}, the embedded data.",
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


def is_flat(data: str) -> bool:
    """Whether a folder has neither train/ nor val/, so that the folders in it are the classes."""
    root = data_folder(data)
    return not (root / "train").is_dir() and not (root / "val").is_dir()


def training_folder(data: str) -> Path:
    folder = data_folder(data) / "train"
    if not folder.is_dir():
        raise InputError(f"{printable(folder.parent)} has no folder train/; expected {_LAYOUT}.")
    return folder


def held_out_folder(data: str) -> Path:
    root = data_folder(data)
    if (root / "val").is_dir():
        return root / "val"
    if (root / "train").is_dir():
        raise InputError(
            f"{printable(root)} has a folder train/, but none named val/ with the held-out images; expected {_LAYOUT}."
        )
    return root


def class_folders(folder: Path) -> tuple[str, ...]:
    names = subfolders(folder)
    strange = next((name for name in names if name.encode("utf-8", "replace").decode() != name), None)
    if strange is not None:
        raise InputError(f"{printable(folder / strange)} is no name of a class: it is not text in UTF-8.", "Rename the folder.")
    if not names:
        raise InputError(
            f"{printable(folder)} holds no folders, but {len(images_in(folder))} images; expected a folder of images for every "
            "class."
        )
    return names


def images_in(folder: Path) -> list[str]:
    return list(image_files(folder, deep=False).paths)


def class_names(spec: NetworkSpec, folder: Path) -> tuple[str, ...]:
    """What folders of the network's classes are called, in their order: as those of `folder`, where the network does not know it.

    Folders of ImageNet go by WordNet's numbers, which published weights do not call their classes by: their order is the classes'.
    """
    if spec.labels is not None and not are_imagenets(subfolders(folder), spec.labels):
        return spec.labels
    names = class_folders(folder)
    if len(names) != spec.num_classes:
        raise InputError(
            f"{printable(folder)} holds folders of {len(names)} classes, but this {spec.name} has {spec.num_classes}.",
            "Name the data that it was trained on, or a network of these classes.",
        )
    return names


def are_imagenets(names: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether these are numbers of WordNet, such as n01440764, for the classes that published weights of ImageNet call `labels`."""
    if len(names) != len(labels) or not all(re.fullmatch(r"n[0-9]{8}", name) for name in names):
        return False
    from iresnet_models.pretrained import imagenet_labels

    return tuple(labels) == imagenet_labels()


def labelled_images(folder: Path, names: tuple[str, ...], *, held_out: bool) -> tuple[list[str], list[int], str | None]:
    """The images in the folders of classes, as torchvision's ImageFolder finds them; a class is its place in `names`.

    That is at any depth in a class's folder; hidden files and folders are passed over. Last, a sentence of what is left out.
    """
    found = class_folders(folder)
    place = {name: number for number, name in enumerate(names)}
    foreign = [name for name in found if name not in place]
    if foreign:
        raise InputError(
            f"{printable(folder)} has folders that are no classes of the network or of its training data: {some_of(foreign)}; "
            f"the {len(names)} classes are {some_of(names)}.",
            "Rename or remove them, or name other data.",
        )
    images: list[str] = []
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
            f"{', '.join(image_suffixes())}.",
            "Add images, or remove these folders.",
        )
    if held_out and len(filled) < len(names):
        lacking = [name for name in names if place[name] not in filled]
        remark(
            f"{printable(folder)} has no images of {len(lacking)} of the {len(names)} classes ({some_of(lacking)}), and the "
            "accuracy says nothing of them."
        )
    sentences = [left_out(others)]
    if beside := images_in(folder):
        sentences.append(f"Left out: {len(beside)} images in {printable(folder)} itself, which lie in no class's folder.")
    return images, labels, " ".join(filter(None, sentences)) or None
