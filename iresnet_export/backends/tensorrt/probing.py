"""Inner values of a TensorRT engine: a second engine of the same ONNX file, which gives them as outputs.

Values that are outputs are not fused away, so the second engine is not the first kernel by kernel; it shows where a network goes
wrong, not the last bit of how.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.onnx.probing import OnnxProbe, values_of_onnx
from iresnet_export.backends.tensorrt.builder import engine_from_onnx
from iresnet_export.backends.tensorrt.checks import require_runnable
from iresnet_export.backends.tensorrt.flavours import Flavour
from iresnet_export.backends.tensorrt.network import observed_name
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.backends.tensorrt.session import EngineSession
from iresnet_export.system.progress import no_progress
from iresnet_models.temporary import temporary_folder


class EngineProbe(OnnxProbe):
    """Engines of the ONNX file that an engine was built from, with further outputs."""

    def __init__(self, artifact: Artifact, parent: Artifact, device: torch.device) -> None:
        self._flavour, self._device = require_runnable(artifact, device), device
        self._manifest, self._onnx = artifact.require_intact(), parent.path.read_bytes()
        codes = self._manifest.details.quantization
        self._kept = () if codes is None else codes.kept
        super().__init__(onnx.load_from_string(self._onnx))

    def _run_for(self, wanted: Sequence[int]) -> Callable[[Tensor], list[Tensor]]:
        plan, names = observed_engine(self._flavour, self._onnx, self._options(), self._model, wanted, self._kept)
        with temporary_folder() as folder:
            path = folder / "observed.engine"
            path.write_bytes(plan)
            session = EngineSession(Artifact(path, "engine", None), self._flavour, self._device, cuda_graphs=False)

        def run(batch: Tensor) -> list[Tensor]:
            found = session.run_all(batch.to(session.device))
            return [found[name if name in found else observed_name(name)] for name in names]

        return run

    def _options(self) -> EngineOptions:
        assert self._manifest.batch is not None  # an engine always has a range
        smallest, largest = self._manifest.batch
        static = smallest == largest
        return EngineOptions(
            precision=self._manifest.precision,
            with_preprocessing=self._manifest.with_preprocessing,
            target="tensorrt",
            dynamic_batch=not static,
            batch=smallest if static else min(8, largest),
            max_batch=largest,
        )


def observed_engine(
    flavour: Flavour, data: bytes, options: EngineOptions, model: Any, wanted: Sequence[int], kept: Sequence[str] = ()
) -> tuple[bytes, list[str]]:
    """An engine that also gives what the operations of these numbers give, and the names of the values."""
    names = values_of_onnx(model, wanted)
    plan, _ = engine_from_onnx(flavour, data, options, no_progress, observed=names, kept=kept)
    return plan, names
