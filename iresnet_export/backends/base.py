"""What a backend is: it exports a network to a file, loads such a file to run it, and reads its weights back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from iresnet_export.archives import is_archive, require_whole
from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.tensorrt_options import EngineOptions
from iresnet_export.errors import ArtifactError, ExportError, InputError, IResNetError
from iresnet_export.observing import Observer
from iresnet_export.progress import Progress, no_progress
from iresnet_export.quantization.parameters import Quantization
from iresnet_export.quantization.schemes import CALIBRATORS, TARGETS, Calibrator, Scheme, Target, scheme_for
from iresnet_models.deployed import PRECISIONS, Deployable, Precision
from iresnet_models.preprocessing import normalised
from iresnet_models.spec import ModelSpec

BF16_OPSET, FP8_OPSET = 22, 19


@dataclass(frozen=True)
class ExportOptions:
    """How to export. `batch` is the static batch size, or the one to optimise for; `max_batch` bounds a dynamic one."""

    precision: Precision = "fp32"
    fold: bool = True
    with_preprocessing: bool = False
    """Whether the artifact normalises by itself: pixels in, logits and probabilities out."""
    dynamic_batch: bool = True
    batch: int = 1
    max_batch: int = 32
    opset: int | None = None
    """ONNX's; None for 20, or 22 where bfloat16 needs it."""
    target: Target = "cpu"
    """What a quantized graph is made for: x86 and ARM processors (int8), or TensorRT (int8, fp8)."""
    calibrator: Calibrator | None = None
    """None for the one that suits the precision."""
    calibration_data: str | None = None
    """`digits` or a folder, whose training images say how far activations reach; None for the network's own, or noise."""
    calibration_images: int = 512
    compute_capabilities: tuple[str, ...] = ()
    """GPUs to build an engine for, such as `8.6`; TensorRT-RTX alone. Empty: its own choice."""
    device: str = "cpu"
    """What an AOTInductor package is compiled for: `cpu`, or the GPU at hand, `cuda` or `cuda:1`."""
    flavour: str | None = None
    """`tensorrt` or `tensorrt_rtx`; None for whichever can be used here."""
    engine: EngineOptions = field(default_factory=EngineOptions)
    """How a TensorRT engine is built."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.max_batch and self.dynamic_batch:
            raise InputError(f"The batch to optimise for ({self.batch}) must lie between 1 and the largest one ({self.max_batch}).")
        if self.batch < 1:
            raise InputError(f"A batch has at least one image, not {self.batch}.")
        for option, value, known in (
            ("--precision", self.precision, PRECISIONS),
            ("--target", self.target, TARGETS),
            ("--calibrator", self.calibrator or CALIBRATORS[0], CALIBRATORS),
        ):
            if value not in known:
                raise InputError(f"{option} takes {', '.join(known[:-1])} or {known[-1]}, not {value!r}.")
        if self.precision != "fp32" and not self.fold:
            raise InputError(f"--precision {self.precision} goes with the fold: leave out --no-fold, which is for float32.")
        scheme = scheme_for(self.precision, self.target)
        if scheme is not None and self.calibrator is not None and self.calibrator not in scheme.calibrators:
            raise InputError(
                f"--calibrator {self.calibrator} is not for {self.precision}: it measures what codes of one width lose, and "
                f"those of {self.precision} are as fine for small values as for large ones. Take {' or '.join(scheme.calibrators)}."
            )
        if self.calibration_images < 1:
            raise InputError(f"--calibration-images takes a number of at least 1, not {self.calibration_images}.")
        if self.precision == "bf16" and self.opset is not None and self.opset < BF16_OPSET:
            raise InputError(f"bfloat16 convolutions came with ONNX opset {BF16_OPSET}; {self.opset} was asked for.")
        if self.precision == "fp8" and self.opset is not None and self.opset < FP8_OPSET:
            raise InputError(f"Quantization to fp8 came with ONNX opset {FP8_OPSET}; {self.opset} was asked for.")

    @property
    def onnx_opset(self) -> int:
        return self.opset or (BF16_OPSET if self.precision == "bf16" else 20)

    @property
    def scheme(self) -> Scheme | None:
        """How the export is quantized; None for a floating-point precision."""
        return scheme_for(self.precision, self.target)

    @property
    def quantization_settings(self) -> dict[str, Any]:
        """Those that make a quantized export what it is."""
        scheme = self.scheme
        if scheme is None:
            return {}
        return {
            "target": self.target,
            "calibrator": self.calibrator or scheme.calibrator,
            "calibration_data": self.calibration_name,
            "calibration_images": self.calibration_images,
        }

    @property
    def calibration_name(self) -> str | None:
        """Of the data set that says how far activations reach, without the folders that it lies in."""
        return self.calibration_data if self.calibration_data in (None, "digits") else Path(self.calibration_data).name


@dataclass(frozen=True)
class ExportJob:
    """The network to be written to `path`, quantized by `quantization` if there is one.

    `identity` is what the file is to say of itself, where its format has a place for that. `parent` is what the backend builds
    from, where it has a `parent_format`.
    """

    network: Deployable
    path: Path
    options: ExportOptions
    identity: dict[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None
    parent: Artifact | None = None
    progress: Progress = no_progress


class Session(ABC):
    """A network that is ready to run; a context manager that frees what it holds."""

    device: torch.device
    batch: tuple[int, int] | None = None
    """The smallest and largest batch that it takes; None for any."""
    with_preprocessing: bool = False
    """Whether the artifact does its own normalisation: its batches are pixels (n, h, w, 3), uint8, and not inputs."""
    computed_precision: str = "fp32"
    """The precision that its convolutions are really computed in here, whatever the artifact stores."""
    notices: Sequence[str] = ()
    """What results should say of how it runs: what was fallen back from, and what it was told to round."""

    @abstractmethod
    def run(self, batch: Tensor) -> Tensor:
        """Logits (n, classes), float32, for inputs (n, 3, h, w), float32, or for pixels, both on `device`."""

    def batch_of(self, pixels: Tensor, spec: ModelSpec) -> Tensor:
        """Pixels (n, h, w, 3), uint8, in host memory as what `run` takes, on the session's device."""
        host = pixels if self.with_preprocessing else normalised(pixels, spec)
        if self.device.type == "cuda":
            host = host.pin_memory()  # else the driver copies it to such memory itself, and waits for each copy
        return host.to(self.device, non_blocking=True)

    def require_fitting(self, batch: Tensor, image: tuple[int, ...] | None, kind: torch.dtype | None) -> None:
        """ArtifactError for images of another number, shape, type or device; for sessions that read them by their address.

        None for a shape or type that nothing is known of.
        """
        smallest, largest = self.batch or (1, max(1, len(batch)))
        image, kind = image or tuple(batch.shape[1:]), kind or batch.dtype
        if not smallest <= len(batch) <= largest or tuple(batch.shape[1:]) != image or batch.dtype != kind:
            images = "any number of" if self.batch is None else f"{smallest} to {largest}"
            raise ArtifactError(
                f"The artifact takes {images} images of shape {image}, {kind}; not {tuple(batch.shape)}, {batch.dtype}."
            )
        if batch.device != self.device:
            raise ArtifactError(f"The artifact runs on {self.device}, and the batch lies on {batch.device}; move it there first.")

    def close(self) -> None:  # noqa: B027 - most sessions hold nothing that Python does not free
        """Frees memory, device and threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Backend(ABC):
    """One way to deploy a network. Backends neither time themselves nor print."""

    name: ClassVar[str]
    format: ClassVar[Format]
    native: ClassVar[bool] = False
    """Whether loading such a file can run native code."""
    parent_format: ClassVar[Format | None] = None
    """What it builds from, where that is not the network itself."""
    precisions: ClassVar[tuple[Precision, ...]] = PRECISIONS

    @property
    def label(self) -> str:
        """What results call it: its name, and how it was told to compute where that is not its own default."""
        return self.name

    def is_installed(self) -> bool:
        """Whether its package is here at all; a device or driver may still be missing."""
        return True

    def settings(self, options: ExportOptions) -> dict[str, Any]:
        """Those of the options that change what this backend makes, for the manifest."""
        return {}

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        """The batch sizes that an export with these options takes; None for any."""
        return None

    def export(self, job: ExportJob) -> dict[str, Any]:
        """Writes what the job says to its path; returns details for the manifest."""
        raise ExportError(f"{self.name} only runs {self.format} files; another backend exports them.")

    @abstractmethod
    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> Session:
        """A session of the artifact on the device; UnavailableError where that cannot be had here."""

    def observer(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> Observer | None:
        """What the artifact holds and what it gives inside, as this backend computes it; None where the format hides that."""
        return None


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Makes an ArtifactError of whatever a runtime raises while it runs an artifact, but for a lack of memory.

    Runtimes have error types of their own, and a foreign artifact may give anything, even what is no tensor.
    """
    try:
        yield
    except (IResNetError, MemoryError):
        raise
    except Exception as error:
        text = str(error)
        if "out of memory" in text.lower() or "allocate memory" in text.lower():
            raise
        first = (text.strip().splitlines() or ["no reason given"])[0]
        raise ArtifactError(
            f"{path} does not run: {type(error).__name__}: {first}. Check it with `iresnet-export verify`, or export it again."
        ) from error


def require_trusted(artifact: Artifact, trust: bool) -> None:
    """Refuses a file that runs native code unless its manifest vouches for it, or the user does.

    What the user alone vouches for has no hash, so an archive's own checksums are looked at: on a damaged one torch may crash.
    """
    if trust:
        if is_archive(artifact.path):
            require_whole(artifact.path)
        return
    if artifact.manifest is None:
        raise ArtifactError(
            f"Loading {artifact.path} can run native code, and no manifest beside it vouches for it. If you trust where it "
            "comes from, add --trust."
        )
    artifact.require_intact()
