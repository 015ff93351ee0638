"""What torchrun tells the processes that it starts. Needs no torch."""

from __future__ import annotations

import os
import re

from iresnet_models.cores import usable_cores
from iresnet_models.errors import InputError


def processors() -> int:
    """Processors for this process alone: those it may use, divided among torchrun's processes of this machine; at least 1."""
    return max(1, usable_cores() // number_from("LOCAL_WORLD_SIZE", 1, 1))


def world_size() -> int:
    """How many processes torchrun has started; 1 without it."""
    return number_from("WORLD_SIZE", 1, 1)


def is_first() -> bool:
    """Whether this is the first of these processes, or the only one."""
    return number_from("RANK", 0, 0) == 0


def number_from(name: str, default: int, least: int) -> int:
    """One of torchrun's numbers, from the environment."""
    text = os.environ.get(name, str(default))
    if not re.fullmatch("[0-9]{1,6}", text) or int(text) < least:
        raise InputError(f"The variable {name} is {text!r}, and no number of at least {least}.", "Unset it, or start by torchrun.")
    return int(text)
