"""The ONNX format: how a network becomes a file, and what a file holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName, OnnxSettings
from iresnet_export.backends.base import ExportJob, ExportOptions, Format
from iresnet_export.errors import InputError
from iresnet_export.graph.ir import Graph
from iresnet_models.deployed import Deployable

DEFAULT_OPSET = 20
OPSETS = range(18, 26)
_LEAST_OPSET = {"bf16": (22, "bfloat16 convolutions"), "fp8": (19, "Quantization to fp8")}
"""The operator set with which what a precision needs came to ONNX."""


@dataclass(frozen=True)
class OnnxOptions(ExportOptions):
    """`opset`: None for 20, or 22 where bfloat16 needs it."""

    opset: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.opset is not None and self.opset not in OPSETS:
            raise InputError(f"ONNX opset {self.opset} is not supported;", f"choose one from {OPSETS.start} to {OPSETS.stop - 1}.")
        least, what = _LEAST_OPSET.get(self.precision, (0, ""))
        if self.opset is not None and self.opset < least:
            raise InputError(f"{what} came with ONNX opset {least}; {self.opset} was asked for.")

    @property
    def chosen_opset(self) -> int:
        return self.opset if self.opset is not None else max(DEFAULT_OPSET, _LEAST_OPSET.get(self.precision, (0, ""))[0])


class Onnx(Format):
    name: ClassVar[FormatName] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    options_type: ClassVar[type[ExportOptions]] = OnnxOptions
    takes_modules: ClassVar[bool] = True

    def settings(self, options: ExportOptions) -> OnnxSettings:
        return OnnxSettings(opset=OnnxOptions.of(options).chosen_opset, **options.quantization_settings)

    def content(self, job: ExportJob) -> bytes:
        import onnx

        from iresnet_export.backends.onnx.modules import onnx_from_module
        from iresnet_export.backends.onnx.writing import onnx_from_network
        from iresnet_export.quantization.placement import quantized_onnx

        job.progress("Making the ONNX graph", 0.0)
        opset, static_batch = OnnxOptions.of(job.options).chosen_opset, None if job.options.dynamic_batch else job.options.batch
        if isinstance(job.network, Deployable):
            free = job.options.dynamic_size
            model = onnx_from_network(job.network, opset=opset, static_batch=static_batch, dynamic_size=free, identity=job.identity)
        else:
            model = onnx_from_module(
                job.network,
                job.spec,
                opset=opset,
                static_batch=static_batch,
                free_sides=job.spec.free_sides if job.options.dynamic_size else None,
                outputs=job.options.given,
                identity=job.identity,
            )
        if job.quantization is not None:
            model = quantized_onnx(model, job.quantization)
        content: bytes = model.SerializeToString(deterministic=True)
        onnx.checker.check_model(content, full_check=True)
        return content

    def difference(self, expected: bytes, found: bytes) -> str:
        from iresnet_export.artifacts.differences import model_difference

        return model_difference(expected, found)

    def read(self, artifact: Artifact) -> Graph:
        from iresnet_export.artifacts.onnx_files import read_onnx
        from iresnet_export.backends.onnx.reading import graph_of_onnx

        return graph_of_onnx(read_onnx(artifact.path))
