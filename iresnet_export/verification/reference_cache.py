"""References kept from one run to the next: the float64 network and its noise floor are the slow part of `verify`.

A reference is found again by a SHA-256 over all that it depends on, so nothing is ever out of date: what changed has another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iresnet_export import __version__
from iresnet_export.artifacts.source import Source
from iresnet_export.errors import IResNetError
from iresnet_export.graph.ir import Array
from iresnet_export.system.progress import Progress
from iresnet_export.verification import reference as reference_module
from iresnet_export.verification.reference import Reference, reference_of
from iresnet_models import network as network_module
from iresnet_models import preprocessing as preprocessing_module
from iresnet_models.cache import cache_folder
from iresnet_models.files import replacing

MOST_BYTES = 256 * 2**20
"""How much is kept; the oldest goes first."""


def cached_reference(
    identifier: str,
    source: Source,
    pixels: Tensor,
    image_source: str,
    batch_sizes: Sequence[int],
    progress: Progress,
    labels: Array | None = None,
) -> Reference:
    """`reference_of`, or the same from an earlier run. A cache that cannot be read or written costs time, nothing else."""
    path = cache_folder().expanduser() / "references" / f"{_key(source, pixels, batch_sizes)}.npz"
    found = _read(path, (len(pixels), source.spec.num_classes))
    if found is not None:
        progress("Reference, computed before", 1.0)
        return Reference(identifier, source, pixels, image_source, *found, labels=labels, cached=True)
    reference = reference_of(identifier, source, pixels, image_source, batch_sizes, progress, labels)
    _write(path, reference)
    return reference


def _key(source: Source, pixels: Tensor, batch_sizes: Sequence[int]) -> str:
    """SHA-256 over all that logits and noise floor depend on."""
    modules = (network_module, preprocessing_module, reference_module)
    depends = {
        "weights": source.weights.key,
        "spec": source.spec.to_json(),
        "pixels": list(pixels.shape),
        "batch_sizes": list(batch_sizes),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "iresnet-export": __version__,
        # In a clone of the project the sources change without the version.
        "sources": [hashlib.sha256(inspect.getsource(module).encode()).hexdigest() for module in modules],
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
    digest.update(pixels.contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path, shape: tuple[int, int]) -> tuple[Array, float] | None:
    """Logits and noise floor; None where there are none, or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            logits, floor = file["logits"], float(file["noise_floor"])
    except Exception:  # a damaged file makes NumPy and zipfile raise nearly anything
        return None
    sound = (
        isinstance(logits, np.ndarray)
        and logits.shape == shape
        and logits.dtype == np.float64
        and np.isfinite(logits).all()
        and np.isfinite(floor)
        and floor > 0
    )
    return (logits, floor) if sound else None


def _write(path: Path, reference: Reference) -> None:
    if reference.logits.nbytes > MOST_BYTES:
        return
    with contextlib.suppress(IResNetError, OSError):
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, logits=reference.logits, noise_floor=np.float64(reference.noise_floor))
        _remove_oldest(path.parent)


def _remove_oldest(folder: Path) -> None:
    entries = sorted(((entry.stat(), entry) for entry in folder.glob("*.npz")), key=lambda pair: pair[0].st_mtime_ns)
    excess = sum(stat.st_size for stat, _ in entries) - MOST_BYTES
    for stat, entry in entries:
        if excess <= 0:
            break
        entry.unlink(missing_ok=True)
        excess -= stat.st_size
