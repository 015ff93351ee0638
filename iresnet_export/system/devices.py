"""Devices by their names."""

from __future__ import annotations

import torch

from iresnet_export.errors import InputError
from iresnet_export.system import nvidia


def device_named(name: str | torch.device) -> torch.device:
    """`cpu`, `cuda`, `cuda:1` or `auto` (a GPU where there is one). UnavailableError for a device that is not here."""
    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not (index.isascii() and index.isdigit() and len(index) < 4)):
        raise InputError(f"--device takes cpu, cuda (or cuda:1 for the second GPU) or auto, not {name[:80]!r}.")
    if kind == "cuda":
        nvidia.require_gpu(int(index or 0), "No NVIDIA GPU can be used here")
    return torch.device(name)
