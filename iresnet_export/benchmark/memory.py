"""Memory: what a machine has left, and what more would take."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """What may still be taken without swapping, within this process's control group where it has one."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        most, used = ((_CGROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return free if most == "max" else min(free, max(0, int(most) - int(used)))
    except (OSError, ValueError):
        return free


def resident_bytes() -> int:
    """What this process holds in RAM."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def release(device: torch.device) -> None:
    """Gives back what an inference that failed has left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Growth:
    """Foresees what doubling a batch takes: Linux kills a process that takes too much, and no error is caught then."""

    def __init__(self) -> None:
        self._start = resident_bytes()

    def shortage(self) -> str | None:
        """Why the next batch, twice as large, would not fit into memory; None if it fits."""
        grown = max(0, resident_bytes() - self._start)
        if grown <= available_bytes():
            return None
        left = available_bytes() / 1e9
        return f"it would need some {2 * grown / 1e9:.1f} GB, twice what the last batch took, and {left:.1f} GB are left"
