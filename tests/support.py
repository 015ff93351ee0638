"""What several test files need: the golden values, and ways to fill networks."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "models" / "data" / "official_models.json").read_text(encoding="utf-8")
)["models"]
"""Reference values of an independent implementation: the official one, run in float64 (models/data/README.md)."""


RUNTIMES_ON_CPU = ("eager", "torchscript", "torch_export", "onnxruntime", "openvino")
"""All that need no GPU; each passes the contract."""


def mostly_slow(cases: Iterable[Any], every: int) -> list[Any]:
    """The first of every so many cases as they are, the others marked slow."""
    return [case if number % every == 0 else _slow(case) for number, case in enumerate(cases)]


def _slow(case: Any) -> Any:
    if isinstance(case, type(pytest.param())):
        return pytest.param(*case.values, id=case.id, marks=[*case.marks, pytest.mark.slow])
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)


def golden_values(key: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The values that the golden outputs were computed with, which follow from an entry's name."""
    generator = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if key.endswith("running_mean"):
        return 0.1 * generator.standard_normal(shape)
    if key.endswith("running_var"):
        return generator.uniform(0.5, 1.5, shape)
    if len(shape) == 4:
        return generator.standard_normal(shape) * math.sqrt(2 / (shape[1] * shape[2] * shape[3]))
    if len(shape) == 2:
        return generator.standard_normal(shape) * 0.01
    if key.endswith(".weight"):
        scales = generator.uniform(0.5, 1.5, shape)
        return np.where(generator.uniform(size=shape) < 0.05, -scales, scales)
    return 0.1 * generator.standard_normal(shape)


def golden_input() -> Tensor:
    return torch.from_numpy(np.random.default_rng(zlib.crc32(b"input")).standard_normal((2, 3, 64, 64)))


def fill_golden(network: nn.Module) -> None:
    with torch.no_grad():
        for key, value in network.state_dict().items():
            value.copy_(torch.from_numpy(np.asarray(golden_values(key, tuple(value.shape)))))


def whatever_is_measured_counts(patch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, a measurement that is not looked at counts as steady."""
    patch.setattr("iresnet_export.benchmark.clock.halves_agree", lambda _rounds: True)
    patch.setattr("iresnet_export.benchmark.measuring.unsteadiness", lambda _rounds: None)
    patch.setattr("iresnet_export.benchmark.bench.without_contradictions", list)


def with_many_records(archive: bytes) -> bytes:
    """A zip archive whose end tells of a list of 200,000 records, which stands before it."""
    end = archive.rindex(b"PK\x05\x06")
    listed = (b"PK\x01\x02" + bytes(42)) * 200_000
    return archive[:end] + listed + archive[end : end + 12] + struct.pack("<II", len(listed), end) + b"\0\0"
