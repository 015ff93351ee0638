"""What a result depends on besides its input: versions, hardware, commit, command."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from iresnet_data.addresses import is_address, shown
from iresnet_export import __version__
from iresnet_models.cores import usable_cores

_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


def versions() -> dict[str, str]:
    """Versions of this package, Python, and those packages of the stack that are installed. Imports none of them."""
    found = {"iresnet-export": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """CPU, cores that this process may use, memory in bytes, and the GPUs that torch, if it is imported, sees."""
    import psutil

    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": [],
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found["gpus"].append(
                {
                    "name": properties.name,
                    "compute_capability": f"{properties.major}.{properties.minor}",
                    "memory_bytes": properties.total_memory,
                }
            )
    return found


def commit() -> str | None:
    """The commit of this project's sources, with `+` if they are changed; None where they are installed, not cloned."""
    root = Path(__file__).resolve().parents[2]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    head = subprocess.run([git, "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run([git, "-C", root, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


_LONGEST = 10_000
"""Characters, of the command line in a manifest or report."""


def command() -> str:
    """This process's command line, quoted for a shell, every path cut to its last part, no password; cut if very long."""
    told = shlex.join(_cut(argument) for argument in [Path(sys.argv[0]).name, *sys.argv[1:]])
    return told if len(told) <= _LONGEST else f"{told[: _LONGEST - 4]} ..."


def environment() -> dict[str, Any]:
    """All of it, for a report."""
    return {"versions": versions(), "hardware": hardware(), "commit": commit(), "command": command()}


def _cut(argument: str) -> str:
    """An option's value, and what stands in it behind `=`, without the folders in front."""
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if is_address(value):
        value = shown(value).rstrip("/").rpartition("/")[2]
    last = re.sub(r"[^=[]*[/\\]", "", value.rstrip("/\\"))
    return f"{option}{equals}{last or value}"


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
