"""The TorchScript format: traced, frozen, and free of the paths that tracing leaves in it."""

from __future__ import annotations

import io
import json
import re
from typing import ClassVar

import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.differences import record_difference
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.metadata import METADATA_FILE
from iresnet_export.backends.base import ExportJob, ExportOptions, Format
from iresnet_export.backends.torchscript.reading import deprecation_expected, graph_of_script, load_script
from iresnet_export.errors import ExportError
from iresnet_export.graph.ir import Graph
from iresnet_models.errors import first_line
from iresnet_models.precisions import Precision


class TorchScript(Format):
    name: ClassVar[FormatName] = "torchscript"
    suffix: ClassVar[str] = ".ts"
    native: ClassVar[bool] = True
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        return None  # nothing in a script limits it

    def content(self, job: ExportJob) -> bytes:
        takes_pixels = job.options.with_preprocessing
        kind = torch.uint8 if takes_pixels else torch.float32
        example = torch.zeros(2, *job.spec.image_shape(as_pixels=takes_pixels), dtype=kind)
        # Tracing writes cuDNN's settings of the process into the code: they are torch's own defaults.
        defaults = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)
        with deprecation_expected(), defaults:
            job.progress("Tracing", 0.0)
            try:
                # Nor is it traced again to check: what is written is read back, and compared with the network.
                traced = torch.jit.trace(job.network.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
            except Exception as error:
                raise ExportError(f"torch.jit.trace refused the network: {first_line(error)}") from error
            job.progress("Freezing", 0.5)
            # Only the weights become constants. Numeric rewrites would round them: they stay the checkpoint's, bit by bit.
            frozen = torch.jit.freeze(traced, optimize_numerics=False)
            job.progress("Writing", 0.8)
            # Torch's own writer of files ends the process where a disk is full, so it writes to memory.
            whole = io.BytesIO()
            torch.jit.save(frozen, whole, _extra_files={METADATA_FILE: json.dumps(job.identity)})
        return _canonical(whole).getvalue()

    def difference(self, expected: bytes, found: bytes) -> str:
        return record_difference(expected, found)

    def read(self, artifact: Artifact) -> Graph:
        return graph_of_script(load_script(artifact.path, torch.device("cpu")))


def _canonical(whole: io.BytesIO) -> io.BytesIO:
    """The archive anew: the same for every export of the same network.

    Without debug records, source lines with this machine's paths which nothing needs, and with the class under its own name:
    torch numbers the classes of a process.
    """
    whole.seek(0)
    reader, made = torch._C.PyTorchFileReader(whole), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(made)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", "byteorder", ".data/serialization_id"):
            data = reader.get_record(name)
            if name.startswith("code/") or name == "data.pkl":
                name, data = _NUMBERED.sub("", name), re.sub(_NUMBERED.pattern.encode(), b"", data)
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return made


_NUMBERED = re.compile(r"[./]___torch_mangle_\d+")
