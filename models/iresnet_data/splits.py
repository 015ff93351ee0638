"""Which images of a flat folder of classes are held out: a share of each class, chosen by what the files hold.

The same files give the same split on every machine, whatever their names and order, and copies of a photo stay together.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from iresnet_data.digits import some_of
from iresnet_data.named_data import remark
from iresnet_models.errors import InputError
from iresnet_models.image_files import printable, require_regular
from iresnet_models.preprocessing import UNREADABLE
from iresnet_models.spec import Split


def split_of(images: Sequence[str], labels: Sequence[int], names: Sequence[str], fraction: float) -> tuple[Split, list[bool]]:
    """The split of `images` (paths) of the classes `labels`, places in `names`; and whether each is held out.

    Photos are taken in the order of their contents' hashes, and held out while every class that they lie in lacks some: of n
    different photos of a class its `fraction` is held out, rounded, but at least one and at most n - 1; fewer where photos that lie
    in several classes are in the way. InputError for a class with one photo alone.
    """
    contents = [content_hash(path) for path in images]
    classes = defaultdict[str, set[int]](set)
    for content, label in zip(contents, labels, strict=True):
        classes[content].add(label)
    photos = Counter(label for found in classes.values() for label in found)
    if few := [names[label] for label, count in photos.items() if count < 2]:
        raise InputError(
            f"Of a class with one photo none can be held out, and copies of a photo count as one: {some_of(sorted(few))}.",
            "Add photos, or remove these classes.",
        )
    lacking = {label: min(max(1, round(fraction * count)), count - 1) for label, count in photos.items()}
    held_out: set[str] = set()
    for content in sorted(classes):
        if all(lacking[label] for label in classes[content]):
            held_out.add(content)
            lacking |= {label: lacking[label] - 1 for label in classes[content]}
    if several := [content for content, found in classes.items() if len(found) > 1]:
        example = printable(images[contents.index(several[0])])
        remark(f"{len(several)} photos lie in the folders of several classes, such as {example}.")
    placed = sorted(f"{content} {names[label]}" for content, found in classes.items() for label in found)
    digest = hashlib.sha256("\n".join(placed).encode()).hexdigest()
    split = Split(fraction=fraction, images=len(classes), held_out=len(held_out), sha256=digest)
    return split, [content in held_out for content in contents]


def content_hash(path: str) -> str:
    """SHA-256 of a file; each is read once, as long as it stays as it is."""
    try:
        require_regular(path)
        status = os.stat(path)
        return _hash(path, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise InputError(f"The image {printable(path)} cannot be read ({reason}).{UNREADABLE}") from error


@functools.lru_cache(1 << 17)
def _hash(path: str, size: int, modified: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
