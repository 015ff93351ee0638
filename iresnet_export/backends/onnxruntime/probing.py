"""Inner values of ONNX graphs in ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import onnx
import torch
from torch import Tensor

from iresnet_export.backends.onnx.probing import OnnxProbe, with_outputs
from iresnet_export.backends.onnxruntime.cuda import RECORD_ASSIGNMENT, CudaSettings, providers, require_on_gpu
from iresnet_export.backends.onnxruntime.optimized import keep_operations, with_exact_codes


class OnnxRuntimeProbe(OnnxProbe):
    """Sessions of the graph with further outputs, which compute as the session itself does; but without CUDA graphs."""

    def __init__(self, model: onnx.ModelProto, device: torch.device, cuda: CudaSettings, *, fuse: bool) -> None:
        super().__init__(model)
        self._device, self._cuda, self._fuse = device, dataclasses.replace(cuda, cuda_graph=False), fuse

    def _run_for(self, wanted: Sequence[int]) -> Callable[[Tensor], list[Tensor]]:
        import onnxruntime as ort

        model, names = with_outputs(self._model, wanted)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        keep_operations(options, self._fuse)
        if self._device.type == "cuda":
            options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
        data, chosen = model.SerializeToString(), providers(ort, self._device, self._cuda)
        session, _ = with_exact_codes(lambda: ort.InferenceSession(data, options, providers=chosen), options)
        if self._device.type == "cuda":
            require_on_gpu(session, model.graph.name)
        taken = self.image.name
        return lambda batch: [torch.from_numpy(value) for value in session.run(names, {taken: batch.cpu().numpy()})]
