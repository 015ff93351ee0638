"""TensorRT engines: built from our ONNX files, run on NVIDIA GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, ExportJob, ExportOptions, require_trusted
from iresnet_export.backends.tensorrt_flavours import flavour_for_building
from iresnet_export.errors import ExportError, IResNetError

if TYPE_CHECKING:
    from iresnet_export.backends.tensorrt_observing import EngineObserver
    from iresnet_export.backends.tensorrt_session import EngineSession


class TensorRT(Backend):
    name: ClassVar[str] = "tensorrt"
    format: ClassVar[Format] = "engine"
    native: ClassVar[bool] = True
    parent_format: ClassVar[Format | None] = "onnx"

    def settings(self, options: ExportOptions) -> dict[str, Any]:
        from iresnet_export.backends.tensorrt_builder import require_options

        flavour = flavour_for_building(options.flavour)
        require_options(flavour, options)  # says what cannot be before any work is done
        return {
            "opset": options.onnx_opset,
            **options.quantization_settings,
            "optimised_for_batch": options.batch,
            "flavour": flavour.name,
            "compute_capabilities": list(options.compute_capabilities),
            **options.engine.to_settings(),
        }

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        from iresnet_export.backends.tensorrt_builder import profiles_of

        profiles = profiles_of(options) or ((options.batch, options.batch, options.batch),)
        return min(smallest for smallest, _, _ in profiles), max(largest for _, _, largest in profiles)

    def export(self, job: ExportJob) -> dict[str, Any]:
        from iresnet_export.backends.tensorrt_builder import engine_from_onnx

        if job.parent is None:
            raise ExportError("An engine is built from an ONNX file, and none was given.")
        flavour = flavour_for_building(job.options.flavour)
        plan, details = engine_from_onnx(flavour, job.parent.path.read_bytes(), job.options, job.progress)
        job.path.write_bytes(plan)
        return details

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> EngineSession:
        from iresnet_export.backends.tensorrt_checks import require_runnable
        from iresnet_export.backends.tensorrt_session import EngineSession

        require_trusted(artifact, trust)
        return EngineSession(artifact, require_runnable(artifact, device), device)

    def observer(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> EngineObserver | None:
        from iresnet_export.backends.tensorrt_observing import EngineObserver

        require_trusted(artifact, trust)
        if device.type != "cuda" or artifact.manifest is None:
            return None
        try:
            parent = artifact.parent()
        except IResNetError:  # its ONNX file is gone: then nothing can be built to look into
            return None
        return EngineObserver(artifact, parent, device)
