"""Compiling AOTInductor packages for the GPU at hand: the program as the GPU wants it, and what the compiler needs besides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from iresnet_export.errors import UnavailableError
from iresnet_models.precisions import Precision

_TENSOR_CORES = ("fp16", "bf16")
"""Their convolutions run on tensor cores, which want channels last. Those of float32, without TF32, do not."""

_HEADERS = ("cuda.h", "cuda_runtime_api.h", "crt/host_defines.h")
"""The first two include the third, which torch's packages do not bring."""

_TOOLKIT = "/usr/local/cuda"


def configuration(precision: Precision) -> dict[str, Any]:
    """Inductor's, for a GPU. Kernels lie inside the library: beside it they would be found by paths of this machine."""
    # Of its own accord Inductor leaves the layout alone where the batch size is open.
    return {"aot_inductor.embed_kernel_binary": True, "force_layout_optimization": precision in _TENSOR_CORES}


def on_gpu(program: ExportedProgram, device: torch.device, precision: Precision) -> ExportedProgram:
    """The program moved to a GPU, its weights in the order that its convolutions read: else each run would reorder them."""
    from torch.export.passes import move_to_device_pass

    if precision in _TENSOR_CORES:
        for name, values in program.state_dict.items():
            if values.dim() == 4:
                ordered = values.detach().contiguous(memory_format=torch.channels_last)
                parameter = torch.nn.Parameter(ordered, requires_grad=False)
                program.state_dict[name] = parameter if isinstance(values, torch.nn.Parameter) else ordered
    return move_to_device_pass(program, device)


def cuda_home() -> Path:
    """Where CUDA's headers are: the one that CUDA_HOME names, torch's own packages, or a toolkit of NVIDIA's."""
    from torch.utils import cpp_extension

    packages = Path(torch.__file__).parent.parent / "nvidia"
    major = (torch.version.cuda or "").partition(".")[0]
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [packages / f"cu{major}", packages / "cuda_runtime", cpp_extension.CUDA_HOME, _TOOLKIT]
    for place in [named] if named else places:
        if place and all((Path(place) / "include" / header).is_file() for header in _HEADERS):
            return Path(place)
    lacking = f"{named}, which CUDA_HOME names, has not" if named else "neither torch's packages nor a toolkit of NVIDIA's have"
    raise UnavailableError(
        f"AOTInductor needs CUDA's headers to compile for a GPU, and {lacking} all of {', '.join(_HEADERS)}.",
        f"Install what torch's "
        f"packages leave out (pip install 'nvidia-cuda-crt=={torch.version.cuda}.*'), or a CUDA toolkit and name it (export "
        f"CUDA_HOME={_TOOLKIT}); or leave out --compile.",
    )


@contextmanager
def cuda_build(home: Path) -> Iterator[None]:
    """Lets torch find CUDA at `home`, and has Triton leave this machine's paths out of its kernels."""
    from torch.utils import cpp_extension

    name, before, own = "TRITON_DISABLE_LINE_INFO", cpp_extension.CUDA_HOME, os.environ.get("TRITON_DISABLE_LINE_INFO")
    cpp_extension.CUDA_HOME, os.environ[name] = str(home), "1"
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before
        if own is None:
            del os.environ[name]
        else:
            os.environ[name] = own


def linker_options(folder: Path) -> list[str]:
    """Those that find the driver's library: in containers it has no name that linkers look for, so `folder` gets one."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    loaded = re.search(r"(/\S*/libcuda\.so\.[\d.]+)$", maps, re.MULTILINE)
    if loaded is None:
        return []
    (folder / "libcuda.so").symlink_to(loaded[1])
    return [f"-L{folder}"]
