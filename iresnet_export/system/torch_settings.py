"""PyTorch's settings that belong to the whole process, set for a while."""

from __future__ import annotations

import torch


class torch_threads:  # noqa: N801 - a context manager, named like a function
    """Sets PyTorch's number of threads for a while; None leaves it. And keeps float32 what it says on GPUs meanwhile.

    cuDNN may round every product of a float32 convolution to TF32, 10 bits, unless it is told otherwise: torch lets it by default.
    """

    def __init__(self, threads: int | None) -> None:
        self._threads = threads

    def __enter__(self) -> None:
        self._before, self._tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        if self._threads is not None and self._threads != self._before:
            torch.set_num_threads(self._threads)

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = self._tf32
        if torch.get_num_threads() != self._before:
            torch.set_num_threads(self._before)


def without_tf32() -> torch_threads:
    """Keeps float32 what it says, with as many threads as there are."""
    return torch_threads(None)
