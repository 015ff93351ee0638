"""What data may be called, and by whom: a file names less than a user does."""

from __future__ import annotations

import functools
import logging
import os

from iresnet_data.digits import DIGITS_DATA
from iresnet_data.synthetic import is_synthetic, synthetic_count
from iresnet_models.errors import InputError

_LONGEST_NAME = 4096
"""Characters of a name of data: as many as a path may have."""

_log = logging.getLogger("iresnet_train")


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
