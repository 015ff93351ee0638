"""ONNX, run by ONNX Runtime on a CPU or an NVIDIA GPU."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.metadata import layers_in_float, stored_precision
from iresnet_export.artifacts.soundness import require_sound
from iresnet_export.backends.base import ExportJob, HostSession, Runtime, TensorsForHost
from iresnet_export.backends.onnxruntime.cuda import (
    RECORD_ASSIGNMENT,
    CudaSettings,
    graph_options,
    providers,
    require_on_gpu,
    tf32_notice,
)
from iresnet_export.backends.onnxruntime.optimized import keep_operations, optimised_graph, require_integers, with_exact_codes
from iresnet_export.errors import ArtifactError, MissingPackageError, UnavailableError
from iresnet_export.graph.ir import Array
from iresnet_export.graph.precision import computed
from iresnet_export.system import nvidia
from iresnet_models.errors import first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from iresnet_export.backends.onnx.probing import OnnxProbe


class OnnxRuntime(Runtime):
    name: ClassVar[str] = "onnxruntime"
    format: ClassVar[FormatName] = "onnx"

    def __init__(self, settings: str = "") -> None:
        self._cuda = CudaSettings.parsed(settings) if settings else CudaSettings()

    @property
    def settings(self) -> str:
        return self._cuda.words

    def prove(self, job: ExportJob) -> dict[str, Any]:
        """That a graph quantized for CPUs is computed in integers throughout, as its own optimised graph shows."""
        if job.quantization is None or job.options.target != "cpu":
            return {}
        job.progress("Proving that it runs in integers", 1.0)
        return {"optimised_operators": require_integers(optimised_graph(job.path, ["CPUExecutionProvider"]), job.quantization)}

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> OnnxSession:
        return OnnxSession(artifact.path, device, threads, cuda=self._cuda, **_as_stored(artifact))

    def load_for_arrays(
        self, artifact: Artifact, device: str = "cpu", *, streams: int = 1, threads: int | None = None, trust: bool = False
    ) -> HostSession:
        if device != "cpu":
            return super().load_for_arrays(artifact, device, streams=streams, threads=threads, trust=trust)
        session = OnnxHostSession(artifact.path, threads=1 if streams > 1 else threads, **_as_stored(artifact))
        session.streams = streams  # a run of one thread computes on the thread that calls it
        return session

    def probe(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> OnnxProbe:
        from iresnet_export.artifacts.onnx_files import read_onnx
        from iresnet_export.backends.onnxruntime.probing import OnnxRuntimeProbe

        return OnnxRuntimeProbe(read_onnx(artifact.path), device, self._cuda, fuse=_fuses(artifact))


def _as_stored(artifact: Artifact) -> dict[str, Any]:
    """How a session is made of a file; ArtifactError for one that is not sound."""
    require_sound(artifact)
    asked, in_float = stored_precision(artifact) != "fp32", layers_in_float(artifact)
    return {"ask_precision": asked, "in_float": in_float, "fuse": _fuses(artifact)}


def _fuses(artifact: Artifact) -> bool:
    return stored_precision(artifact) != "fp8"


class OnnxHostSession(HostSession):
    """A session of arrays, by default on the CPU. `notices` says what is not as it should be on a GPU, or on an old processor.

    `ask_precision` has ONNX Runtime write down the graph that it really computes: it turns to another precision without a word.
    `in_float`: how many layers of a quantized graph are meant to be in float32. Without `fuse` it keeps to each operation as it
    stands.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device | None = None,
        threads: int | None = None,
        *,
        cuda: CudaSettings | None = None,
        ask_precision: bool = False,
        in_float: int = 0,
        fuse: bool = True,
    ) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingPackageError("onnxruntime", "Running ONNX files", "onnxruntime") from error
        gpu = device if device is not None and device.type == "cuda" else None
        self.notices: list[str] = []
        cuda = cuda or CudaSettings()
        options = ort.SessionOptions()
        # On CPUs it raises what it complains of; why a GPU cannot be used it only logs.
        options.log_severity_level = 4 if gpu is None else 3
        keep_operations(options, fuse)
        if gpu is not None:
            # Without one ONNX Runtime would compute on the CPU.
            nvidia.require_gpu(gpu.index or 0, "ONNX Runtime cannot use a GPU here")
            options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        # Its threads sleep as soon as a run has ended, rather than spin and slow down whatever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        create = partial(_create, ort, path, options, providers(ort, gpu, cuda))
        if ask_precision:
            from iresnet_export.backends.onnxruntime.optimized import computed_precisions, writing_optimised

            with writing_optimised(options) as optimised:
                self.session, on_codes = with_exact_codes(create, options)
                self.computed_precision = computed(computed_precisions(optimised()), in_float)
        else:
            self.session, on_codes = with_exact_codes(create, options)
        if on_codes is not None and self.computed_precision == "int8":
            self.notices.append(on_codes)
        if gpu is not None:
            self.notices += require_on_gpu(self.session, path.name)
            if (told := tf32_notice(cuda, gpu, self.computed_precision)) is not None:
                self.computed_precision = "tf32"
                self.notices.append(told)
        if len(self.session.get_inputs()) != 1:
            names = ", ".join(value.name for value in self.session.get_inputs())
            raise ArtifactError(
                f"{path} takes {len(self.session.get_inputs())} inputs ({names}); a classifier takes one, the images."
            )
        if not self.session.get_outputs() or not self.session.get_inputs()[0].shape:
            raise ArtifactError(f"{path} takes no images or gives nothing for them, so it is no classifier.")
        self.input, self.output = self.session.get_inputs()[0], self.session.get_outputs()[0]
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.with_preprocessing = self.input.type == "tensor(uint8)"
        size = self.input.shape[0]
        self.batch = (size, size) if isinstance(size, int) else None
        self.image = tuple(extent if isinstance(extent, int) else None for extent in self.input.shape[1:])

    def run(self, batch: Array) -> Array:
        logits: Array
        (logits,) = self.session.run([self.output.name], {self.input.name: batch})
        return logits

    def all_outputs(self, batch: Array) -> tuple[Array, ...]:
        return tuple(self.session.run(None, {self.input.name: batch}))

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            del self.session


class OnnxSession(TensorsForHost):
    """The same for tensors, which stay on the device. Made of the same arguments."""

    def __init__(self, path: Path, device: torch.device, *arguments: Any, cuda: CudaSettings | None = None, **options: Any) -> None:
        super().__init__(host := OnnxHostSession(path, device, *arguments, cuda=cuda, **options))
        self.device, self._host, self._captures = device, host, (cuda or CudaSettings()).cuda_graph
        self._graphs: dict[int, tuple[Any, Tensor, Tensor]] = {}

    def run(self, batch: Tensor) -> Tensor:
        return self._run_bound(batch) if self.device.type == "cuda" else super().run(batch)

    def _run_bound(self, batch: Tensor) -> Tensor:
        """By the addresses of torch's tensors. A CUDA graph replays at fixed ones, so each batch size keeps its own."""
        import torch

        batch, session, classes = batch.contiguous(), self._host.session, self._host.output.shape[1]
        if not self._captures:
            logits = torch.empty((len(batch), classes), device=self.device)
            torch.cuda.current_stream(self.device).synchronize()
            session.run_with_iobinding(self._binding(batch, logits))
            return logits
        if len(batch) not in self._graphs:
            images, logits = torch.empty_like(batch), torch.empty((len(batch), classes), device=self.device)
            self._graphs[len(batch)] = self._binding(images, logits), images, logits
        binding, images, logits = self._graphs[len(batch)]
        images.copy_(batch)
        torch.cuda.current_stream(self.device).synchronize()
        session.run_with_iobinding(binding, graph_options(len(batch)))
        return logits.clone()

    def _binding(self, images: Tensor, logits: Tensor) -> Any:
        index, host, binding = self.device.index or 0, self._host, self._host.session.io_binding()
        kind = np.uint8 if self.with_preprocessing else np.float32
        binding.bind_input(host.input.name, "cuda", index, kind, tuple(images.shape), images.data_ptr())
        binding.bind_output(host.output.name, "cuda", index, np.float32, tuple(logits.shape), logits.data_ptr())
        return binding

    def close(self) -> None:
        self._graphs.clear()
        super().close()


def _create(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        first = first_line(error)
        if "NOT_IMPLEMENTED" in first:
            raise UnavailableError(f"ONNX Runtime cannot compute {path.name} here: {first}") from error
        raise ArtifactError(
            f"ONNX Runtime cannot load {path}: {first}.", "Export it again, or check that the file is whole."
        ) from error
