"""How a TensorRT engine is built: options beyond those that every export has."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from iresnet_export.backends.onnx.format import OnnxOptions
from iresnet_export.errors import InputError

HARDWARE = ("none", "ampere-plus", "same-compute-capability")
LEVELS = range(6)

Profile = tuple[int, int, int]
"""The smallest batch, the one to optimise for, and the largest."""


@dataclass(frozen=True)
class BuildOptions:
    """None is TensorRT's own default. All but `profiles` and `workspace_mib` are TensorRT's alone: TensorRT-RTX chooses its
    kernels where the engine runs, and has no use for them.

    `profiles`: none for one from 1 over the batch to optimise for to the largest.
    """

    profiles: tuple[Profile, ...] = ()
    workspace_mib: int | None = None
    builder_level: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    sparse: bool = False
    timing_cache: bool = True

    def __post_init__(self) -> None:
        for smallest, best, largest in self.profiles:
            if not 1 <= smallest <= best <= largest:
                raise InputError(f"--profile takes MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX, not {smallest},{best},{largest}.")
        reached = 0
        for smallest, _, largest in sorted(self.profiles):
            if reached and smallest > reached + 1:
                raise InputError(
                    f"The profiles leave out batches of {reached + 1} to {smallest - 1};",
                    "let them touch, so that an engine takes every batch between its smallest and its largest.",
                )
            reached = max(reached, largest)
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"--workspace takes MiB, at least 1, not {self.workspace_mib}.")
        if self.builder_level is not None and self.builder_level not in LEVELS:
            raise InputError(f"--builder-level takes 0 (builds fastest) to {LEVELS[-1]} (runs fastest), not {self.builder_level}.")
        if self.hardware_compatibility not in HARDWARE:
            raise InputError(f"--hardware-compatibility takes {', '.join(HARDWARE)}, not {self.hardware_compatibility!r}.")

    def for_tensorrt_alone(self) -> list[str]:
        """The options given that TensorRT-RTX has no use for, as a user writes them."""
        given = {
            "--builder-level": self.builder_level is not None,
            "--hardware-compatibility": self.hardware_compatibility != "none",
            "--version-compatible": self.version_compatible,
            "--sparse": self.sparse,
            "--no-timing-cache": not self.timing_cache,
        }
        return [name for name, was in given.items() if was]

    def to_settings(self) -> dict[str, Any]:
        """What of it changes the engine, for the manifest."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)} | {"profiles": self.profiles or None}


@dataclass(frozen=True)
class EngineOptions(OnnxOptions):
    """An export to TensorRT: the options of its ONNX file, and its own.

    `compute_capabilities`: GPUs to build for, such as `8.6`, for TensorRT-RTX alone; empty for its own choice. `flavour`:
    `tensorrt` or `tensorrt_rtx`; None for whichever can be used here.
    """

    compute_capabilities: tuple[str, ...] = ()
    flavour: str | None = None
    build: BuildOptions = field(default_factory=BuildOptions)
