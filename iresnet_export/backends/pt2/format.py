"""The torch.export format: a program of ATen operators, saved free of the paths that tracing leaves in it."""

from __future__ import annotations

import io
import json
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.differences import record_difference
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.metadata import METADATA_FILE
from iresnet_export.backends.base import ExportJob, Format
from iresnet_export.backends.pt2.reading import graph_of_program, load_program
from iresnet_export.errors import ExportError
from iresnet_export.graph.ir import Graph
from iresnet_models.errors import first_line
from iresnet_models.precisions import Precision


class Program(Format):
    name: ClassVar[FormatName] = "pt2"
    suffix: ClassVar[str] = ".pt2"
    # torch.export.load unpickles what a file asks it to, evaluates its symbolic shapes as Python, looks its operators up
    # anywhere in torch, and loads shared libraries that lie in it: a file can run whatever it likes.
    native: ClassVar[bool] = True
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")
    takes_modules: ClassVar[bool] = True

    def content(self, job: ExportJob) -> bytes:
        # An extent of 1 in the example would be taken for a constant: a dynamic batch is traced with two images.
        batch, takes_pixels = 2 if job.options.dynamic_batch else job.options.batch, job.options.with_preprocessing
        kind = torch.uint8 if takes_pixels else torch.float32
        example = torch.zeros(batch, *job.spec.image_shape(as_pixels=takes_pixels), dtype=kind)
        job.progress("Tracing", 0.0)
        program = program_of(job.network, example, dynamic_batch=job.options.dynamic_batch)
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


def program_of(network: nn.Module, example: Tensor, *, dynamic_batch: bool) -> ExportedProgram:
    """A network traced by torch.export for images like the `example`; ExportError where it refuses."""
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    try:
        return torch.export.export(network.eval(), (example,), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise ExportError(f"torch.export refused the network: {first_line(error)}") from error
