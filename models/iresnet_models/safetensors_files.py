"""Files of safetensors: weights by name, and texts about them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from iresnet_models.errors import CheckpointError, InputError, named_line
from iresnet_models.files import replacing
from iresnet_models.typed import json_from

SUFFIX = ".safetensors"
_KEY = "iresnet-export"
"""The entry of the metadata that holds what one of our own checkpoints says beside its weights."""
_LONGEST_HEADER = 8 << 20
"""Bytes of names, shapes and metadata; the library parses them in some ten times that."""


def read_safetensors(path: Path) -> Mapping[str, Any]:
    """As `read_saved`: weights alone, or beside what one of our own checkpoints says; tensors still lie in the file.

    CheckpointError for a file that is damaged.
    """
    from safetensors import safe_open

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise CheckpointError(
            f"{path} has a header of {length:,} bytes, where {_LONGEST_HEADER:,} are ample: it is damaged.", "Get it again."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json_from(metadata[_KEY]) if _KEY in metadata else None
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a file of safetensors: it is truncated or damaged ({named_line(error):.200}).",
            "Copy or download it again.",
        ) from error
    return tensors if not isinstance(about, dict) else {**about, "state_dict": tensors}


def metadata_of(path: Path) -> dict[str, str]:
    """What a file that was read says of itself, apart from what ours do."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: text for name, text in (file.metadata() or {}).items() if name != _KEY}


def write_safetensors(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Writes weights and plain values, whole or not at all. InputError for values that are not plain, or are too long."""
    from safetensors.torch import save

    try:
        text = json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot hold what is to be saved beside the weights ({error}): safetensors hold texts alone.",
            "Leave it out, or save to a file that ends in .pt.",
        ) from error
    data = save(dict(state), {"format": "pt", _KEY: text})
    if int.from_bytes(data[:8], "little") > _LONGEST_HEADER:
        raise InputError(f"{path} cannot hold so much text beside the weights.", "Save to a file that ends in .pt.")
    with replacing(path) as temporary:
        temporary.write_bytes(data)
