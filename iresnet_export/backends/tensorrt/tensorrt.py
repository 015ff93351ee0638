"""TensorRT engines: built from our ONNX files, run on NVIDIA GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import EngineSettings, FormatName
from iresnet_export.backends.base import ExportJob, ExportOptions, Format, Runtime, require_trusted
from iresnet_export.backends.tensorrt.flavours import flavour_for_building
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.errors import ExportError, IResNetError

if TYPE_CHECKING:
    from iresnet_export.backends.tensorrt.probing import EngineProbe
    from iresnet_export.backends.tensorrt.session import EngineSession


class Engine(Format):
    name: ClassVar[FormatName] = "engine"
    suffix: ClassVar[str] = ".engine"
    native: ClassVar[bool] = True
    parent: ClassVar[FormatName | None] = "onnx"
    frees_sizes: ClassVar[bool] = False
    options_type: ClassVar[type[ExportOptions]] = EngineOptions

    def settings(self, options: ExportOptions) -> EngineSettings:
        from iresnet_export.backends.tensorrt.builder import require_options

        own = EngineOptions.of(options)
        flavour = flavour_for_building(own.flavour)
        require_options(flavour, own)
        return EngineSettings(
            opset=own.chosen_opset,
            **own.quantization_settings,
            optimised_for_batch=own.batch,
            flavour=flavour.name,
            compute_capabilities=own.compute_capabilities,
            **own.build.to_settings(),
        )

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        from iresnet_export.backends.tensorrt.builder import profiles_of

        profiles = profiles_of(EngineOptions.of(options)) or ((options.batch, options.batch, options.batch),)
        return min(smallest for smallest, _, _ in profiles), max(largest for _, _, largest in profiles)

    def write(self, job: ExportJob) -> dict[str, Any]:
        from iresnet_export.backends.tensorrt.builder import engine_from_onnx

        if job.parent is None:
            raise ExportError("An engine is built from an ONNX file, and none was given.")
        options = EngineOptions.of(job.options)
        flavour = flavour_for_building(options.flavour)
        kept = () if job.quantization is None else job.quantization.kept
        plan, details = engine_from_onnx(flavour, job.parent.path.read_bytes(), options, job.progress, kept=kept)
        job.path.write_bytes(plan)
        return details


class TensorRT(Runtime):
    name: ClassVar[str] = "tensorrt"
    format: ClassVar[FormatName] = "engine"

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> EngineSession:
        from iresnet_export.backends.tensorrt.checks import require_runnable
        from iresnet_export.backends.tensorrt.session import EngineSession

        require_trusted(artifact, trust)
        return EngineSession(artifact, require_runnable(artifact, device), device)

    def probe(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> EngineProbe | None:
        from iresnet_export.backends.tensorrt.probing import EngineProbe

        require_trusted(artifact, trust)
        if device.type != "cuda" or artifact.manifest is None:
            return None
        try:
            parent = artifact.parent()
        except IResNetError:  # its ONNX file is gone: then nothing can be built to look into
            return None
        return EngineProbe(artifact, parent, device)
