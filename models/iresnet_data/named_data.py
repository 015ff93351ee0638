"""What data may be called, and by whom: a file names less than a user does. Needs neither torch nor the data."""

from __future__ import annotations

import functools
import logging
import os
import re
from pathlib import Path

from iresnet_models.errors import InputError
from iresnet_models.spec import MOST_SYNTHETIC

DIGITS_DATA = "digits"
"""The name of the embedded data set, wherever data are named."""
_IMAGENET = 1_281_167

_LONGEST_NAME = 4096
"""Characters of a name of data: as many as a path may have."""

_log = logging.getLogger("iresnet_train")


def is_synthetic(data: str) -> bool:
    return data.partition(":")[0] == "synthetic"


def synthetic_count(data: str) -> int:
    """How many training images `synthetic[:N]` stands for: 1 to 20 million, without N as many as ImageNet has."""
    match = re.fullmatch(r"synthetic(?::([0-9]{1,12}))?", data)
    count = 0 if match is None else int(match[1] or _IMAGENET)
    if not 1 <= count <= MOST_SYNTHETIC:
        raise InputError(
            f"{data[:80]!r} is no synthetic data set;",
            f"write `synthetic`, or a number of images up to {MOST_SYNTHETIC:,}, as in synthetic:5000.",
        )
    return count


def require_name(data: str) -> None:
    """InputError for what no file, address or command can be called."""
    if not data.strip() or "\0" in data or len(data) > _LONGEST_NAME:
        found = "nothing" if not data.strip() else f"{data[:40]!r}{'...' if len(data) > 40 else ''} ({len(data)} characters)"
        raise InputError(
            "Data go by the name of a folder, a pattern of shards or an embedded data set, without NUL and of up to "
            f"{_LONGEST_NAME} characters; {found} was given."
        )


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
        "Nothing was opened.",
        "If you know these images, name them yourself.",
    )


def is_embedded(data: str) -> bool:
    """Whether a name is that of data that need no file, whatever number of images it asks for."""
    return data.partition(":")[0] == DIGITS_DATA or is_synthetic(data)


def short_name(data: str) -> str:
    """What reports and checkpoints call data: an embedded set's name, else the last part of a path, without where it lies."""
    if is_embedded(data):
        return data
    return re.split(r"[/\\]", data.rstrip("/\\"))[-1] if data.strip("./\\") else Path(data).resolve().name


def place_of(data: str) -> str | None:
    """The absolute path of a folder, or pattern of local shards; None for what is no place here: embedded data, commands, URLs."""
    if is_embedded(data) or data.startswith("pipe:") or "://" in data:
        return None
    require_name(data)
    return os.path.abspath(data)


@functools.cache
def remark(text: str) -> None:
    """Says something of the data, once, by the first of torchrun's processes."""
    if os.environ.get("RANK", "0") == "0":
        _log.warning("%s", text)
