"""Devices by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iresnet_export.errors import InputError
from iresnet_export.system import nvidia

if TYPE_CHECKING:
    import torch


def device_named(name: str | torch.device) -> torch.device:
    """`cpu`, `cuda`, `cuda:1` or `auto` (a GPU where there is one). UnavailableError for a device that is not here."""
    import torch

    return torch.device(usable_device(str(name)))


def usable_device(name: str) -> str:
    """The same by its name alone. Imports torch only where a GPU was asked for, or may be here."""
    if name == "auto":
        name = "cuda" if nvidia.driver() is not None and nvidia.gpu() is not None else "cpu"
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (index.isascii() and index.isdigit() and len(index) < 4)):
        raise InputError(f"--device takes cpu, cuda (or cuda:1 for the second GPU) or auto, not {name[:80]!r}.")
    if kind == "cuda":
        nvidia.require_gpu(int(index or 0), "No NVIDIA GPU can be used here")
    return name
