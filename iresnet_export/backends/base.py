"""What a format and a runtime are.

A format writes a network to a file and reads such a file back as a graph. A runtime loads a file on a device and gives a session;
it may offer a probe of inner values. ONNX is one format with two runtimes, a torch.export program one format with three.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from iresnet_data.named_data import short_name
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName, Manifest, OnnxSettings, Settings
from iresnet_export.errors import ArtifactError, InputError, IResNetError
from iresnet_export.graph.ir import Array, Graph
from iresnet_export.graph.probe import Probe
from iresnet_export.quantization.codes import Quantization
from iresnet_export.quantization.schemes import AUTO, CALIBRATORS, TARGETS, Calibrator, Scheme, Target, scheme_for
from iresnet_export.system.progress import Progress, no_progress
from iresnet_models.archives import is_archive, require_whole
from iresnet_models.errors import is_out_of_memory, named_line
from iresnet_models.outputs import OutputName, default_outputs, named_outputs
from iresnet_models.precisions import PRECISIONS, Precision
from iresnet_models.preprocessing import inputs_of, normalised
from iresnet_models.spec import NetworkSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MOST_BATCH, MOST_THREADS = 65_536, 1024
MOST_SQNR_DB = 100.0
"""float32 itself has little more."""


@dataclass(frozen=True)
class ExportOptions:
    """What every format is told of an export; a format's own options are a subclass (`Format.options_type`).

    `batch` is the static batch size, or the one to optimise for; `max_batch` bounds a dynamic one.
    """

    precision: Precision = "fp32"
    fold: bool = True
    with_preprocessing: bool = False
    """Whether the artifact normalises by itself: pixels in."""
    outputs: tuple[str, ...] = ()
    """What the artifact gives: the logits first, and what else is named. None named: the logits, and probabilities for pixels."""
    dynamic_size: bool = False
    """Whether height and width of images are free, within the spec's `free_sides`."""
    dynamic_batch: bool = True
    batch: int = 1
    max_batch: int = 32
    target: Target = "cpu"
    """What a quantized graph is made for: x86 and ARM processors (int8), or TensorRT (int8, fp8)."""
    calibrator: Literal["auto"] | Calibrator = "auto"
    """How ranges are found; `auto` tries every way, and keeps what measures best on images that were held out."""
    calibration_data: str | None = None
    """`digits` or a folder, whose training images say how far activations reach; None for the network's own, or noise."""
    calibration_images: int = 512
    """Some of them are held out of the ranges, for every choice and for the prediction."""
    keep_float: tuple[str, ...] = ()
    """Places of the network that a quantized export leaves in float32: `stem`, `layer1`, `layer1.0`, `classifier`."""
    min_sqnr: float | None = None
    """Decibels. Where codes everywhere are predicted to give less, the places that cost most stay in float32, none without need."""
    max_accuracy_drop: float | None = None
    """The same until the top-1 accuracy is shown, at 95 % and over labelled held-out images, to drop by no more points."""

    @classmethod
    def of(cls, options: ExportOptions) -> Self:
        """These options as this class has them; what only this class knows is at its default."""
        if isinstance(options, cls):
            return options
        return cls(**{entry.name: getattr(options, entry.name) for entry in dataclasses.fields(ExportOptions)})

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.max_batch and self.dynamic_batch:
            raise InputError(f"The batch to optimise for ({self.batch}) must lie between 1 and the largest one ({self.max_batch}).")
        if not 1 <= self.batch <= MOST_BATCH or not 1 <= self.max_batch <= MOST_BATCH:
            raise InputError(f"A batch has from 1 to {MOST_BATCH:,} images, not {self.batch} or up to {self.max_batch}.")
        for option, value, known in (
            ("--precision", self.precision, PRECISIONS),
            ("--target", self.target, TARGETS),
            ("--calibrator", self.calibrator, (AUTO, *CALIBRATORS)),
        ):
            if value not in known:
                raise InputError(f"{option} takes {', '.join(known[:-1])} or {known[-1]}, not {value!r}.")
        named_outputs(self.outputs)
        if self.precision != "fp32" and not self.fold:
            raise InputError(f"--precision {self.precision} goes with the fold:", "leave out --no-fold, which is for float32.")
        scheme = scheme_for(self.precision, self.target)
        if scheme is not None and self.calibrator != AUTO and self.calibrator not in scheme.calibrators:
            raise InputError(
                f"--calibrator {self.calibrator} is not for {self.precision}: it measures what codes of one width lose, and "
                f"those of {self.precision} are as fine for small values as for large ones.",
                f"Take {', '.join((AUTO, *scheme.calibrators[:-1]))} or {scheme.calibrators[-1]}.",
            )
        if scheme is None and (self.keep_float or self.is_searched):
            raise InputError(
                f"--keep-float, --min-sqnr and --max-accuracy-drop are for codes, and {self.precision} has none;",
                "leave them out, or add --precision int8.",
            )
        if self.min_sqnr is not None and self.max_accuracy_drop is not None:
            raise InputError("--min-sqnr and --max-accuracy-drop both say how much is kept in float32:", "give one of them.")
        if self.max_accuracy_drop is not None and not 0 < self.max_accuracy_drop <= 100:
            raise InputError(
                f"--max-accuracy-drop takes percentage points, more than 0 and up to 100, not {self.max_accuracy_drop:g}: that "
                "nothing at all is lost cannot be shown with any number of images."
            )
        if self.min_sqnr is not None and not 0 < self.min_sqnr <= MOST_SQNR_DB:
            raise InputError(f"--min-sqnr takes decibels, more than 0 and no more than {MOST_SQNR_DB:g}, not {self.min_sqnr:g}.")
        if self.calibration_images < 1:
            raise InputError(f"--calibration-images takes a number of at least 1, not {self.calibration_images}.")

    @property
    def given(self) -> tuple[OutputName, ...]:
        """The outputs of the artifact, in order."""
        return named_outputs(self.outputs) if self.outputs else default_outputs(with_preprocessing=self.with_preprocessing)

    @property
    def is_searched(self) -> bool:
        """Whether places that stay in float32 are looked for."""
        return self.min_sqnr is not None or self.max_accuracy_drop is not None

    @property
    def scheme(self) -> Scheme | None:
        """How the export is quantized; None for a floating-point precision."""
        return scheme_for(self.precision, self.target)

    @property
    def quantization_settings(self) -> dict[str, Any]:
        """Those that make a quantized export what it is."""
        if self.scheme is None:
            return {}
        return {
            "target": self.target,
            "calibrator": self.calibrator,
            "calibration_data": self.calibration_name,
            "calibration_images": self.calibration_images,
            "keep_float": tuple(dict.fromkeys(self.keep_float)) or None,
            "min_sqnr": self.min_sqnr,
            "max_accuracy_drop": self.max_accuracy_drop,
        }

    @property
    def calibration_name(self) -> str | None:
        """Of the data set that says how far activations reach, without the folders that it lies in."""
        return None if self.calibration_data is None else short_name(self.calibration_data)


@dataclass(frozen=True)
class ExportJob:
    """The network to be written to `path`, quantized by `quantization` if there is one; `spec` says what images it takes.

    `identity` is what the file is to say of itself, where its format has a place for that. `parent` is what the format is built
    from, where it has one.
    """

    network: nn.Module
    spec: NetworkSpec
    path: Path
    options: ExportOptions
    identity: dict[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None
    parent: Artifact | None = None
    progress: Progress = no_progress


class Loaded:
    """A network that is ready to run; a context manager that frees what it holds. It takes tensors, or arrays."""

    batch: tuple[int, int] | None = None
    """The smallest and largest batch that it takes; None for any."""
    with_preprocessing: bool = False
    """Whether the artifact does its own normalisation: its batches are pixels (n, h, w, 3), uint8, and not inputs."""
    sides: tuple[int, int] | None = None
    """The smallest and largest height and width of images where these are free; None where they are not, or nothing is said."""
    image: tuple[int | None, ...] | None = None
    """The extents of what it takes for each image, None for those that may be any; None as a whole where nothing says so."""
    outputs: Sequence[str] | None = None
    """The names of what it gives, in its own order; None where the file has no names for it."""
    computed_precision: str = "fp32"
    """The precision that its convolutions are really computed in here, whatever the artifact stores."""
    notices: Sequence[str] = ()
    """What results should say of how it runs: what was fallen back from, and what it was told to round."""

    def is_as(self, other: Loaded) -> None:
        """Takes over what another one, which it runs, says of itself."""
        self.batch, self.with_preprocessing, self.image = other.batch, other.with_preprocessing, other.image
        self.sides, self.outputs = other.sides, other.outputs
        self.computed_precision, self.notices = other.computed_precision, other.notices

    def close(self) -> None:
        """Frees memory, device and threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class HostSession(Loaded, ABC):
    """One that takes and gives arrays in host memory, wherever it computes."""

    streams: int = 1
    """How many threads may call `run` at once."""

    @abstractmethod
    def run(self, batch: Array) -> Array:
        """Logits (n, classes), float32, for inputs (n, 3, h, w), float32, or for pixels."""

    @abstractmethod
    def all_outputs(self, batch: Array) -> tuple[Array, ...] | None:
        """Everything that the artifact gives for a batch, logits first, in its own order; None where only logits can be had."""

    def batch_of(self, pixels: Array, spec: NetworkSpec) -> Array:
        """Pixels (n, h, w, 3), uint8, as what `run` takes."""
        return pixels if self.with_preprocessing else inputs_of(pixels, spec)


class Session(Loaded, ABC):
    """One that takes and gives torch's tensors, on its device."""

    device: torch.device

    @abstractmethod
    def run(self, batch: Tensor) -> Tensor:
        """Logits (n, classes), float32, for inputs (n, 3, h, w), float32, or for pixels, both on `device`."""

    def all_outputs(self, batch: Tensor) -> tuple[Tensor, ...] | None:
        """Everything that the artifact gives for a batch, in its own order, float32; None where only logits can be had."""
        return None

    def batch_of(self, pixels: Tensor, spec: NetworkSpec) -> Tensor:
        """Pixels (n, h, w, 3), uint8, in host memory as what `run` takes, on the session's device."""
        return self.moved(pixels if self.with_preprocessing else normalised(pixels, spec))

    def moved(self, host: Tensor) -> Tensor:
        """A batch in host memory on the session's device."""
        if self.device.type == "cuda":
            host = host.pin_memory()  # else the driver copies it to such memory itself, and waits for each copy
        return host.to(self.device, non_blocking=True)

    def require_fitting(self, batch: Tensor, image: Sequence[int] | None, kind: torch.dtype | None) -> None:
        """ArtifactError for images of another number, shape, type or device; for sessions that read them by their address.

        None for a shape or type that nothing is known of. Where `sides` are free, they may be any within these.
        """
        smallest, largest = self.batch or (1, max(1, len(batch)))
        if image is not None and self.sides is not None and batch.dim() == len(image) + 1:
            first, (least, most) = 0 if self.with_preprocessing else 1, self.sides
            own = batch.shape[1 + first : 3 + first]
            if not all(least <= side <= most for side in own):
                shape = " x ".join(map(str, own))
                raise ArtifactError(f"The artifact takes images of {least} to {most} pixels a side, not of {shape}.")
            image = (*image[:first], *own, *image[first + 2 :])
        image, kind = tuple(image or batch.shape[1:]), kind or batch.dtype
        if not smallest <= len(batch) <= largest or tuple(batch.shape[1:]) != image or batch.dtype != kind:
            images = "any number of" if self.batch is None else f"{smallest} to {largest}"
            raise ArtifactError(
                f"The artifact takes {images} images of shape {image}, {kind}; not {tuple(batch.shape)}, {batch.dtype}."
            )
        if batch.device != self.device:
            raise ArtifactError(
                f"The artifact runs on {self.device}, and the batch lies on {batch.device};", "move it there first."
            )


class TensorsForHost(Session):
    """Tensors in host memory for a session that takes arrays, and is closed with this one."""

    def __init__(self, host: HostSession) -> None:
        import torch

        self.host, self.device = host, torch.device("cpu")
        self.is_as(host)

    def run(self, batch: Tensor) -> Tensor:
        import torch

        return torch.from_numpy(self.host.run(batch.numpy()))

    def all_outputs(self, batch: Tensor) -> tuple[Tensor, ...] | None:
        import torch

        found = self.host.all_outputs(batch.cpu().numpy())
        return None if found is None else tuple(map(torch.from_numpy, found))

    def close(self) -> None:
        self.host.close()


class ArraysForSession(HostSession):
    """Arrays for a session that takes tensors, on whatever device, and is closed with this one."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.is_as(session)

    def run(self, batch: Array) -> Array:
        import torch

        with torch.inference_mode():
            logits = self.session.run(self.session.moved(torch.from_numpy(batch)))
        return logits.float().cpu().numpy()

    def all_outputs(self, batch: Array) -> tuple[Array, ...] | None:
        import torch

        with torch.inference_mode():
            found = self.session.all_outputs(self.session.moved(torch.from_numpy(batch)))
        return None if found is None else tuple(values.cpu().numpy() for values in found)

    def close(self) -> None:
        self.session.close()


_LARGEST_END = 256


def usable_batch_sizes(session: Loaded, wanted: Sequence[int]) -> tuple[int, ...]:
    """Those of the wanted batch sizes that a session takes, and its own smallest and largest one."""
    if session.batch is None:
        return tuple(wanted)
    smallest, largest = _taken(session.batch)
    ends = {end for end in (smallest, largest) if end <= _LARGEST_END}
    return tuple(sorted({size for size in wanted if smallest <= size <= largest} | ends)) or (largest,)


def usable_batch_size(session: Loaded, wanted: int) -> int:
    """The wanted batch size, or else the nearest to it that a session takes."""
    smallest, largest = (wanted, wanted) if session.batch is None else _taken(session.batch)
    return min(max(wanted, smallest), largest)


def _taken(batch: tuple[int, int]) -> tuple[int, int]:
    if batch[0] > MOST_BATCH:
        raise ArtifactError(
            f"The artifact takes no fewer than {batch[0]:,} images at a time, which are too many.", "Export it again."
        )
    return batch[0], min(batch[1], MOST_BATCH)


class Format(ABC):
    """A kind of file: how a network is written to it, and how it is read back. Formats neither time themselves nor print."""

    name: ClassVar[FormatName]
    suffix: ClassVar[str]
    """What the names of its files end in."""
    native: ClassVar[bool] = False
    """Whether loading such a file can run native code."""
    parent: ClassVar[FormatName | None] = None
    """The format that it is built from, where that is not the network itself."""
    precisions: ClassVar[tuple[Precision, ...]] = PRECISIONS
    options_type: ClassVar[type[ExportOptions]] = ExportOptions
    frees_sizes: ClassVar[bool] = True
    """Whether height and width of images may be free."""
    takes_modules: ClassVar[bool] = False
    """Whether it can be written of any module, and not of this project's own networks alone."""

    def settings(self, options: ExportOptions) -> Settings:
        """Those of the options that change what is written, for the manifest. Says what is missing before any work is done."""
        return Settings()

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        """The batch sizes that an export with these options takes; None for any."""
        return None if options.dynamic_batch else (options.batch, options.batch)

    def name_parts(self, options: ExportOptions) -> list[str]:
        """What these options add to the default name of a file."""
        return []

    def options_of(self, manifest: Manifest) -> ExportOptions:
        """Those of the export that a manifest tells of, as far as they decide what the file holds; InputError if they cannot be."""
        told: dict[str, Any] = {name: getattr(manifest, name) for name in ("precision", "fold", "with_preprocessing", "outputs")}
        told["dynamic_size"] = manifest.sides is not None
        if manifest.batch is not None:
            told |= {"dynamic_batch": False, "batch": manifest.batch[0]}
        if isinstance(settings := manifest.details.settings, OnnxSettings):
            told |= {"opset": settings.opset, "target": settings.target or self.options_type.target}
        return self.options_type(**told)

    def content(self, job: ExportJob) -> bytes | None:
        """The whole file that the job asks for, the same bytes anywhere; None for what others compile from a parent."""
        return None

    def difference(self, expected: bytes, found: bytes) -> str:
        """The first thing in which two files of this format differ, as `NAME is ... and not ...`."""
        raise NotImplementedError

    def write(self, job: ExportJob) -> dict[str, Any]:
        """Writes what the job says to its path; returns details for the manifest."""
        content = self.content(job)
        if content is None:
            raise NotImplementedError
        job.progress("Writing", 0.8)
        job.path.write_bytes(content)
        job.progress("Writing", 1.0)
        return {}

    def read(self, artifact: Artifact) -> Graph | None:
        """What the file holds; None where the format hides it. Only for files that are trusted, where the format is `native`."""
        return None


class Runtime(ABC):
    """What runs the files of one format."""

    name: ClassVar[str]
    format: ClassVar[FormatName]

    @property
    def settings(self) -> str:
        """How it was told to compute, in the words of `--backend NAME[...]`, where that is not its own default; else empty."""
        return ""

    @property
    def label(self) -> str:
        """What results call it: its name, and its settings."""
        return f"{self.name} ({self.settings})" if self.settings else self.name

    @property
    def spelled(self) -> str:
        """Its name with its settings, from which the registry makes it again."""
        return f"{self.name}[{self.settings}]" if self.settings else self.name

    def is_installed(self) -> bool:
        """Whether its package is here at all; a device or driver may still be missing."""
        return True

    def runs_unasked(self) -> bool:
        """Whether it is worth running where no runtime was named: not one that is slow, or of no use here."""
        return True

    @abstractmethod
    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> Session:
        """A session of the artifact on the device; UnavailableError where that cannot be had here."""

    def load_for_arrays(
        self, artifact: Artifact, device: str = "cpu", *, streams: int = 1, threads: int | None = None, trust: bool = False
    ) -> HostSession:
        """The same for arrays in host memory. Runtimes that do not compute by torch give one on the CPU that does not import it.

        `streams`: how many threads are to call it at once, each of which then computes alone; it may have fewer. `threads`: of a
        single one.
        """
        from iresnet_export.system.devices import device_named

        return ArraysForSession(self.load(artifact, device_named(device), threads=threads, trust=trust))

    def prove(self, job: ExportJob) -> dict[str, Any]:
        """What it proves of an export that was just written, for the manifest; ExportError where that does not hold."""
        return {}

    def probe(self, artifact: Artifact, device: torch.device, *, trust: bool = False) -> Probe | None:
        """What the artifact gives inside, as this runtime computes it; None where that cannot be had."""
        return None


@contextmanager
def running(path: Path) -> Iterator[None]:
    """Makes an ArtifactError of whatever a runtime raises while it runs an artifact, but for a lack of memory.

    Runtimes have error types of their own, and a foreign artifact may give anything, even what is no tensor.
    """
    try:
        yield
    except IResNetError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ArtifactError(
            f"{path} does not run: {named_line(error)}.", "Check it with `iresnet-export verify`, or export it again."
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
            f"Loading {artifact.path} can run native code, and no manifest beside it vouches for it.",
            "If you trust where it comes from, add --trust.",
        )
    artifact.require_intact()
