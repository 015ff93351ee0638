"""Inner values of ONNX graphs in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.metadata import stored_precision
from iresnet_export.artifacts.onnx_files import read_onnx
from iresnet_export.backends.onnx.probing import OnnxProbe, with_outputs
from iresnet_export.backends.openvino.runtime import HINTS, imported


class OpenVinoProbe(OnnxProbe):
    """The graph with further outputs, compiled as the session compiles it."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(read_onnx(artifact.path))
        self._hint = HINTS[stored_precision(artifact)]

    def _run_for(self, wanted: Sequence[int]) -> Callable[[Tensor], list[Tensor]]:
        openvino = imported()
        model, names = with_outputs(self._model, wanted)
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": self._hint})
        request = compiled.create_infer_request()

        def run(batch: Tensor) -> list[Tensor]:
            found = request.infer({0: batch.numpy()})
            return [torch.from_numpy(found[compiled.output(name)].astype("float32")) for name in names]

        return run
