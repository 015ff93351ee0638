"""What errors of all kinds of libraries are taken for, and what is shown of them."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import torch

from iresnet_models.errors import InputError, UnavailableError, first_line, is_out_of_memory, named_line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bad allocation"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 8"),
        ValueError("Unable to allocate 8.00 GiB for an array with shape (1073741824,) and data type float64"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        UnavailableError("TensorRT could not build the engine: Error Code 2: OutOfMemory"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_libraries_say_in_many_ways_that_memory_ended(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "No such file", "out of memory.png"),
        InputError("out of memory.png is no image"),
    ],
    ids=str,
)
def test_what_is_no_lack_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    ("said", "line", "named"),
    [
        ("it broke", "it broke", "RuntimeError: it broke"),
        ("\n  it broke \nhere\nand there", "it broke", "RuntimeError: it broke"),
        ("", "RuntimeError", "RuntimeError"),
        (" \n\t\n", "RuntimeError", "RuntimeError"),
    ],
)
def test_one_line_of_what_an_error_says(said: str, line: str, named: str) -> None:
    assert (first_line(RuntimeError(said)), named_line(RuntimeError(said))) == (line, named)


def test_errors_are_known_without_torch() -> None:
    script = "import sys, iresnet_models.errors; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
