"""The NVIDIA driver and GPUs of this machine, and why torch can use none of them."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.errors import UnavailableError

MINIMUM_FP8 = (8, 9)
"""Ada's compute capability; GPUs before it have no arithmetic in fp8."""


@dataclass(frozen=True)
class Driver:
    """`version` such as 580.159.03, None if nobody tells; `cuda`: the newest CUDA (major, minor) that it serves."""

    version: str | None
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """One that torch can use."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int

    @property
    def has_fp8(self) -> bool:
        return self.capability >= MINIMUM_FP8


@dataclass(frozen=True)
class Absence:
    """Why there is no GPU to be used, and the command or step that is the remedy."""

    reason: str
    remedy: str


def driver() -> Driver | None:
    """The driver that is loaded here; None without one. Asks the library, so that no other process needs to run."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        number = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return Driver(_version_in_words(), (number.value // 1000, number.value % 1000 // 10))


def gpu(index: int = 0) -> Gpu | None:
    """The GPU of this number, if torch can use it."""
    import torch

    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    found = torch.cuda.get_device_properties(index)
    return Gpu(found.name, (found.major, found.minor), found.total_memory)


def require_gpu(index: int, purpose: str, otherwise: str = "; or use --device cpu") -> Gpu:
    """The GPU of a number; UnavailableError, which begins with what it is needed for, where torch can use none, or not that one.

    `otherwise`: what else can be done than to mend that.
    """
    missing = absence()
    if missing is not None:
        remedy = missing.remedy[0].upper() + missing.remedy[1:]
        raise UnavailableError(f"{purpose}: {missing.reason}.", f"{remedy}{otherwise}.")
    found = gpu(index)
    if found is None:
        raise UnavailableError(f"There is no GPU number {index} here;", "nvidia-smi lists those that there are.")
    return found


def capability_text(*capabilities: tuple[int, int]) -> str:
    """Compute capabilities as NVIDIA writes them: `8.6, 8.9`."""
    return ", ".join(f"{major}.{minor}" for major, minor in capabilities)


def absence() -> Absence | None:
    """Why torch can use no GPU here; None if it can."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return Absence(
            f"torch {torch.__version__} is built without CUDA", "install the build with it: pip install --force-reinstall torch"
        )
    here = driver()
    if here is None:
        return Absence(
            "no NVIDIA driver is loaded here",
            "on a machine with an NVIDIA GPU install its driver (Ubuntu: sudo ubuntu-drivers install), or start the container with "
            "--gpus all",
        )
    needed = int(torch.version.cuda.partition(".")[0])
    if here.cuda[0] < needed:
        return Absence(
            f"the NVIDIA driver {here.version or ''} serves CUDA {here.cuda[0]}.{here.cuda[1]} at most, and torch "
            f"{torch.__version__} is built for CUDA {torch.version.cuda}",
            "install a newer driver (Ubuntu: sudo ubuntu-drivers install), then start the machine again",
        )
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return Absence(f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU", "run: unset CUDA_VISIBLE_DEVICES")
    return Absence("the NVIDIA driver is loaded, and torch finds no GPU", "look at what the driver says: nvidia-smi")


def _version_in_words() -> str | None:
    """From the kernel module, else from nvidia-smi."""
    try:
        told = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        told = ""
    if (found := re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", told)) is not None:
        return found[1]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None
