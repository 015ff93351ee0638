"""The torch.export format: a program of ATen operators, saved free of the paths that tracing leaves in it."""

from __future__ import annotations

import io
import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
import torch.fx.experimental._config
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.differences import record_difference
from iresnet_export.artifacts.manifest import FormatName, Settings
from iresnet_export.artifacts.metadata import FREE_SIDES, METADATA_FILE
from iresnet_export.backends.base import ExportJob, ExportOptions, Format
from iresnet_export.backends.pt2.reading import graph_of_program, load_program
from iresnet_export.errors import ExportError, InputError
from iresnet_export.graph.ir import Graph
from iresnet_models.errors import first_line
from iresnet_models.precisions import Precision
from iresnet_models.spec import NetworkSpec


class Program(Format):
    name: ClassVar[FormatName] = "pt2"
    suffix: ClassVar[str] = ".pt2"
    # torch.export.load unpickles what a file asks it to, evaluates its symbolic shapes as Python, looks its operators up
    # anywhere in torch, and loads shared libraries that lie in it: a file can run whatever it likes.
    native: ClassVar[bool] = True
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")
    takes_modules: ClassVar[bool] = True

    def settings(self, options: ExportOptions) -> Settings:
        if options.dynamic_size and options.with_preprocessing:
            raise InputError(
                "torch.export fixes the order in memory of pixels that are turned, and with it what sizes there may be;",
                "leave out --dynamic-size or --with-preprocessing, or export to onnx or torchscript.",
            )
        return super().settings(options)

    def content(self, job: ExportJob) -> bytes:
        options, sides = job.options, job.spec.free_sides if job.options.dynamic_size else None
        batch = None if options.dynamic_batch else options.batch
        example = example_of(job.spec, batch, sides, as_pixels=options.with_preprocessing)
        job.progress("Tracing", 0.0)
        program = program_of(job.network, example, dynamic_batch=batch is None, sides=sides)
        for module in program.graph_module.modules():
            for node in module.graph.nodes if isinstance(module, fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)  # source lines with this machine's paths, which nothing needs
        job.progress("Writing", 0.8)
        # Torch's own writer of files ends the process where a disk is full, and writes their names into them.
        whole = io.BytesIO()
        torch.export.save(program, whole, extra_files={METADATA_FILE: json.dumps(job.identity)})
        return whole.getvalue()

    def difference(self, expected: bytes, found: bytes) -> str:
        return record_difference(expected, found)

    def read(self, artifact: Artifact) -> Graph:
        return graph_of_program(load_program(artifact.path))


def example_of(spec: NetworkSpec, batch: int | None, sides: tuple[int, int] | None, *, as_pixels: bool = False) -> Tensor:
    """Images of zeros to trace with. None of their extents that are to be open is 1, which torch.export takes for a constant: two
    images for any `batch`, and the largest of the free `sides`, for which the last stage has several pixels."""
    height, width = spec.sides if sides is None else (sides[1], sides[1] - 1)
    if as_pixels:
        return torch.zeros(batch or 2, height, width, 3, dtype=torch.uint8)
    return torch.zeros(batch or 2, 3, height, width)


def free_extents(example: Tensor, *, dynamic_batch: bool, sides: tuple[int, int] | None) -> tuple[dict[int, Any]] | None:
    """What of images like the `example` torch.export is to leave open: their number, and height and width within `sides`."""
    found: dict[int, Any] = {0: torch.export.Dim("batch")} if dynamic_batch else {}
    if sides is not None:
        first = 1 if example.dtype is torch.uint8 else 2
        found |= {first + axis: torch.export.Dim(name, min=sides[0], max=sides[1]) for axis, name in enumerate(FREE_SIDES)}
    return (found,) if found else None


def with_any_extent(sides: tuple[int, int] | None) -> AbstractContextManager[Any]:
    """Has torch.export allow for extents of 1 where `sides` are free: of small images the last stage has one pixel."""
    if sides is None:
        return nullcontext()
    patched: AbstractContextManager[Any] = fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patched


def program_of(
    network: nn.Module, example: Tensor, *, dynamic_batch: bool, sides: tuple[int, int] | None = None
) -> ExportedProgram:
    """A network traced by torch.export for images like the `example`; ExportError where it refuses."""
    shapes = free_extents(example, dynamic_batch=dynamic_batch, sides=sides)
    try:
        with with_any_extent(sides):
            return torch.export.export(network.eval(), (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(f"torch.export refused the network: {first_line(error)}") from error
