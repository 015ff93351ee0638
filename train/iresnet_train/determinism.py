"""What a run's bits depend on beside its settings: algorithms, processes, threads, device, precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import PIL
import torch

from iresnet_train.config import LoaderName
from iresnet_train.distributed import World


@contextmanager
def algorithms(*, deterministic: bool) -> Iterator[None]:
    """Fixed algorithms, or the fastest that cuDNN finds for the shapes at hand. A CPU's are fixed anyhow."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(deterministic or before[0])
    torch.backends.cudnn.benchmark = not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def computation(world: World, precision: str, loader: LoaderName = "torch") -> dict[str, Any]:
    """What computes the numbers, as plain values: where all are the same again, so are the bits (on a GPU by fixed algorithms)."""
    device = world.device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU with {torch.backends.cpu.get_cpu_capability()}"
    return {
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "device": kind,
        "precision": precision,
        "PyTorch": str(torch.__version__),
        "decoder": _decoder(loader),
    }


def _decoder(loader: LoaderName) -> str:
    if loader == "torch":
        return f"Pillow {PIL.__version__}"
    from iresnet_train.dali import imported

    return f"DALI {imported().__version__}"


def exactness(now: dict[str, Any], earlier: dict[str, Any], *, fixed: bool) -> str:
    """How exactly a run goes on that was computed as `earlier` says; `fixed`: a device gives the same bits twice."""
    changed = [f"{name} {now[name]} (was {earlier.get(name)})" for name in now if now[name] != earlier.get(name)]
    if changed:
        return (
            f"with {', '.join(changed)}. Everything is restored, but sums may add up otherwise, so that bits may differ from "
            "those of an uninterrupted run"
        )
    if not fixed:
        return "with everything restored; bits may differ, for without --deterministic a GPU does not add in a fixed order"
    return "exactly as if it had not been interrupted"
