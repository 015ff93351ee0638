"""AOTInductor packages at work: on a CPU as they are, on a GPU by a CUDA graph for each batch size in use."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.base import Session
from iresnet_export.errors import ArtifactError, UnavailableError
from iresnet_export.system.cuda_graphs import Capturing, on_stream, readable
from iresnet_export.system.torch_settings import torch_threads, without_tf32
from iresnet_models.errors import first_line, is_out_of_memory
from iresnet_models.spec import spec_from_json


class PackageSession(Session):
    """A compiled library. It reads its inputs' memory without asking for their shape, so that is checked here."""

    def __init__(self, artifact: Artifact, device: torch.device, threads: int | None = None) -> None:
        from iresnet_export.artifacts.metadata import identity_of, normalises, sides_of, stored_precision

        self.sides = sides_of(artifact)
        self.device, self._threads, manifest = device, threads, artifact.manifest
        self._image: tuple[int, ...] | None = None
        self._type: torch.dtype | None = None
        if manifest is not None:
            self.batch, self.with_preprocessing, self.computed_precision = (
                manifest.batch,
                manifest.with_preprocessing,
                manifest.precision,
            )
            self._image = manifest.spec.image_shape(as_pixels=self.with_preprocessing)
            self._type = torch.uint8 if self.with_preprocessing else torch.float32
        elif (identity := identity_of(artifact.path, artifact.format)) is not None:
            self.with_preprocessing, self.computed_precision = normalises(artifact), stored_precision(artifact)
            self._image = spec_from_json(identity["spec"]).image_shape(as_pixels=self.with_preprocessing)
            self._type = torch.uint8 if self.with_preprocessing else torch.float32
        try:
            self._package = open_package(artifact.path, device)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise UnavailableError(
                    f"{artifact.path} does not fit: the GPU's memory is full ({first_line(error)});", "nvidia-smi says by what."
                ) from error
            raise ArtifactError(
                f"torch {torch.__version__} cannot load {artifact.path} ({first_line(error)}).",
                "Packages are tied to a version of torch and a kind of processor; export it again here.",
            ) from error

    def run(self, batch: Tensor) -> Tensor:
        self.require_fitting(batch, self._image, self._type)
        with torch.inference_mode(), torch_threads(self._threads):
            return self._logits(batch.contiguous())

    def all_outputs(self, batch: Tensor) -> tuple[Tensor, ...]:
        self.require_fitting(batch, self._image, self._type)
        with torch.inference_mode(), torch_threads(self._threads):
            return self._everything(batch.contiguous())

    def close(self) -> None:
        del self._package  # and with it the temporary folder that its library was unpacked to

    def _logits(self, batch: Tensor) -> Tensor:
        return self._everything(batch)[0]

    def _everything(self, batch: Tensor) -> tuple[Tensor, ...]:
        found: Tensor | tuple[Tensor, ...] = self._package(batch)
        return (found,) if isinstance(found, Tensor) else tuple(found)


@dataclass
class _Slot:
    """What one batch size runs in: its input and output at fixed addresses, and the graph that reads and writes them."""

    images: Tensor
    logits: Tensor
    graph: torch.cuda.CUDAGraph


class CudaPackageSession(PackageSession):
    """`notices` says what was fallen back from. A session may be used by several threads, one after the other."""

    def __init__(self, artifact: Artifact, device: torch.device, *, cuda_graphs: bool = True) -> None:
        device = torch.device(device.type, device.index or 0) if device.type == "cuda" else device
        self.notices: list[str] = []
        self._lock, self._slots = threading.Lock(), dict[int, _Slot]()
        with torch.cuda.device(device):
            super().__init__(artifact, device)
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graphs = Capturing(artifact.path.name, self._stream, self.notices, enabled=cuda_graphs)

    def run(self, batch: Tensor) -> Tensor:
        """Logits that are the caller's own: the next run leaves them as they are."""
        self.require_fitting(batch, self._image, self._type)
        with (
            self._lock,
            torch.inference_mode(),
            without_tf32(),  # cuDNN's TF32 is chosen when its kernels start, and so when they are captured
            torch.cuda.device(self.device),
            on_stream(self._stream, batch) as found,
        ):
            slot = self._slot(batch)
            if slot is None:
                own = readable(batch)
                own.record_stream(self._stream)
                found.append(self._logits(own))
            else:
                slot.images.copy_(batch, non_blocking=True)
                slot.graph.replay()
                found.append(slot.logits.clone())
        return found[0]

    def all_outputs(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Without a graph: what is captured gives the logits alone."""
        self.require_fitting(batch, self._image, self._type)
        with (
            self._lock,
            torch.inference_mode(),
            without_tf32(),
            torch.cuda.device(self.device),
            on_stream(self._stream, batch) as found,
        ):
            own = readable(batch)
            own.record_stream(self._stream)
            found += self._everything(own)
        return tuple(found)

    def close(self) -> None:
        torch.cuda.synchronize(self.device)
        self._slots.clear()
        super().close()

    def _slot(self, batch: Tensor) -> _Slot | None:
        """The graph of a batch size; None where it is new, where there are too many, or where capturing failed."""
        count = len(batch)
        if count not in self._slots and self._graphs.is_due(count, len(self._slots)):
            images = torch.zeros(tuple(batch.shape), dtype=batch.dtype, device=self.device)
            captured = self._graphs.captured(lambda: self._logits(images))
            if captured is not None:
                self._slots[count] = _Slot(images, captured[1], captured[0])
        return self._slots.get(count)


def open_package(path: Path, device: torch.device) -> Any:
    """What torch runs a package by, as a function of a batch; RuntimeError where it cannot be loaded."""
    from torch._C._aoti import AOTIModelPackageLoader
    from torch.export.pt2_archive._package import AOTICompiledModel

    # torch._inductor.aoti_load_package does the same, but before that compiles small programs for many seconds, only to
    # compare the instruction set with the package's; that is done beforehand, and needs no compiler.
    if device.type == "cpu":
        return AOTICompiledModel(AOTIModelPackageLoader(str(path), "model", False, 1, -1))
    # Single-threaded: else it asks events of earlier runs whether they are over, which a capture forbids. Sessions have a lock.
    return AOTICompiledModel(AOTIModelPackageLoader(str(path), "model", True, 1, device.index or 0))
