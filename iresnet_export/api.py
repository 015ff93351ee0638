"""The functions of the public API. They take plain values: paths as text, devices and precisions by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from torch import nn

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.manifest import FormatName, Manifest
from iresnet_export.artifacts.metadata import embedded_spec, outputs_of, sides_of
from iresnet_export.artifacts.source import Source, source_from_checkpoint, source_from_module, untrained_source
from iresnet_export.backends.base import MOST_THREADS, Session, running
from iresnet_export.backends.registry import FORMATS, format_named, runtime_named, runtimes_for
from iresnet_export.errors import InputError
from iresnet_export.system.devices import device_named, usable_device
from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.preprocessing import ImagePreset, preprocessing_of
from iresnet_models.spec import ModelSpec, NetworkSpec, Preprocessing, Sides, SpecOptions, Which
from iresnet_models.typed import shortly

if TYPE_CHECKING:
    from iresnet_export.inspection import Inspection
    from iresnet_export.reporting.schemas import BenchReport, EvalReport, ImagePrediction, VerifyReport

Pathlike = str | Path
Files = Artifact | Pathlike | Iterable[Artifact | Pathlike]
T = TypeVar("T")


def load(
    checkpoint: Pathlike,
    *,
    arch: str | None = None,
    depth: int | None = None,
    num_classes: int | None = None,
    which: Which | None = None,
    **said: Any,
) -> Source:
    """A checkpoint's network: one of ours, the official ones or torchvision's and timm's ResNets, as any training tool saves them.

    What is given is what is expected of it. `which` of its weights: "average" or "raw", by default the average where there is one;
    `.layout` of what is returned tells what was found. `said` stands in place of what the file says of images and classes:
    `image_size`, `resize`, `interpolation`, `mean`, `std`, `labels`. Raises CheckpointError for a file that is damaged, foreign or
    another network.
    """
    path, which, options = _path(checkpoint), _which(which), _options(SpecOptions, **said)
    return source_from_checkpoint(path, arch=arch, depth=depth, num_classes=num_classes, which=which, said=options)


def untrained(arch: str = "iresnet", depth: int = 50, *, num_classes: int = 1000, image_size: Sides = 224, seed: int = 0) -> Source:
    """An untrained network, filled from `seed`: good for measuring latency. `image_size`: a side, or height and width."""
    return untrained_source(ModelSpec(arch, depth, num_classes=num_classes).with_image_size(image_size), seed)


def pretrained(name: str, **said: Any) -> Source:
    """Published weights, downloaded once: `official:iresnet50`, `torchvision:resnet50.IMAGENET1K_V2`, `timm:resnet50.a1_in1k`.

    They bring their preprocessing and their classes' names; `said`: as for `load`. UnavailableError without a connection, or timm.
    """
    from iresnet_models.pretrained import pretrained_checkpoint

    if not isinstance(name, str):
        raise InputError(f"Weights go by their name, such as torchvision:resnet50.IMAGENET1K_V2, and not by {shortly(name)}.")
    return source_from_checkpoint(pretrained_checkpoint(name), said=_options(SpecOptions, **said))


def from_module(
    module: nn.Module, *, preprocessing: Preprocessing | ImagePreset, labels: Sequence[str] | None = None, name: str | None = None
) -> Source:
    """Any image classifier in memory, such as torchvision's, as it is now: a copy of the module is taken.

    `preprocessing`: what its images are; torchvision's own, as in `weights.transforms()`, will do. `labels`: the classes' names.
    `name`: of the network, if not the module's class. It is exported in fp32 to onnx and pt2, and given to `verify` and `bench` as
    their `source`. InputError for what is no classifier from (batch, 3, size, size) to (batch, classes).
    """
    if not isinstance(preprocessing, Preprocessing):
        preprocessing = preprocessing_of(preprocessing)
    return source_from_module(module, preprocessing, labels=labels, name=name)


def export(
    source: Source | Pathlike, format: FormatName, *, output: Pathlike | None = None, force: bool = False, **options: Any
) -> Artifact:
    """Exports a network to `torchscript`, `pt2`, `aotinductor`, `onnx` or `engine`, and reads the file back.

    `options` are those of the format: `precision` ("fp32", "fp16", "bf16", "int8", "fp8"), `fold`, `with_preprocessing`, `outputs`,
    `dynamic_size`, `dynamic_batch`, `batch`, `calibration_data` and so on. `output`: the file; by default
    artifacts/<network>.<format>. Raises InputError for options that do not go together, ExportError where the file does not hold
    what it should.
    """
    from iresnet_export.exporting import export_artifact

    if format not in FORMATS or format == "checkpoint":
        raise InputError(f"There is no format {format!r} to export to.", f"Choose one of {', '.join(FORMATS[1:])}.")
    kind = format_named(format).options_type
    source = source if isinstance(source, Source) else load(_path(source))
    if source.weights.kind == "module" and options.get("precision", "fp32") == "fp32":
        options = {"fold": False, **options}  # which is for this project's own networks
    chosen = _options(kind, **options)
    return export_artifact(format, source, chosen, output=None if output is None else _path(output), force=force)


def verify(artifacts: Files, *, source: Source | None = None, device: str = "cpu", **options: Any) -> VerifyReport:
    """Proves that artifacts are the network that was trained; the report says what passed, what failed and why.

    `source`: that network, where no manifest or checkpoint leads to it: of `from_module`, or of a file without a manifest.
    `options`: `checkpoint`, `data`, `images`, `batch_sizes`, `backends`, `trust`, `localise`, `max_accuracy_drop`, `seed`, `cache`.
    """
    from iresnet_export.reporting.documents import verify_report
    from iresnet_export.verification.verify import VerifyOptions
    from iresnet_export.verification.verify import verify as verify_artifacts

    chosen = _options(VerifyOptions, device=device_named(device), source=source, **_with_said(options))
    return verify_report(verify_artifacts(_paths(artifacts), chosen), chosen)


def bench(
    artifacts: Files, *, batches: Sequence[int] = (1,), source: Source | None = None, device: str = "cpu", **options: Any
) -> BenchReport:
    """Measures artifacts in turn with eager PyTorch, host to host, after verifying them. `source`: as for `verify`.

    `options`: `modes`, `threads`, `seconds`, `backends`, `peers`, `recommend` (True by default here), `data`, `rates`,
    `p99_limit_ms`, `checkpoint`, `trust`, `verify`, `memory`, `limits`, `seed`.
    """
    from iresnet_export.benchmark.bench import bench as bench_artifacts
    from iresnet_export.benchmark.options import BenchOptions

    modes = options.get("modes", ("latency",))
    recommended = options.get("verify", True) is not False and bool({"latency", "throughput"} & set(modes))
    given = {"recommend": recommended, **options}
    sizes = list(batches) if isinstance(batches, Iterable) else batches
    chosen = _options(BenchOptions, batch_sizes=sizes, device=device_named(device), source=source, **given)
    return bench_artifacts(_paths(artifacts), chosen)


def evaluate(files: Files, data: Pathlike | None = None, *, device: str = "cpu", **options: Any) -> EvalReport:
    """What checkpoints and artifacts get right on held-out images, class by class, each beside the first in float32.

    `options`: `mistakes` (5), `thumbnails`, `batch_size`, `workers`, `backends`, `checkpoint`, `trust`.
    """
    from iresnet_export.evaluation import EvalOptions, accuracies, eval_report

    chosen = _options(EvalOptions, data=None if data is None else str(data), device=device_named(device), **_with_said(options))
    return eval_report(accuracies(_paths(files), chosen), chosen)


def predict(artifact: Artifact | Pathlike, images: Files, *, device: str = "cpu", **options: Any) -> Iterator[ImagePrediction]:
    """The likeliest classes of image files, and of all images in folders. `options`: `top_k`, `batch_size`, `backend`, `trust`."""
    from iresnet_export.prediction import PredictOptions
    from iresnet_export.prediction import predict as predict_images

    chosen = _options(PredictOptions, device=usable_device(str(device)), **_with_said(options))
    return iter(predict_images(_path(artifact), _images(images), chosen).results)


def inspect(
    file: Artifact | Pathlike, *, arch: str | None = None, which: Which | None = None, save: Pathlike | None = None
) -> Inspection:
    """What a file is, read without running it.

    Of a checkpoint: `arch` and `which` as for `load`; `save`: a new file for network and weights, .safetensors or .pt.
    """
    from iresnet_export.inspection import inspect_file

    return inspect_file(_path(file), arch=arch, which=_which(which), save=None if save is None else _path(save))


class CheckedSession(Session):
    """A session that refuses what its file does not take: InputError for a batch of another type, shape or device, or once closed.

    Runtimes convert, reinterpret or read beyond such a batch, each in its own way.
    """

    def __init__(self, session: Session, artifact: Artifact) -> None:
        self._session: Session | None = session
        self._path = artifact.path
        self.device = session.device
        self.is_as(session)
        self.outputs = session.outputs or outputs_of(artifact)
        spec = _known_spec(artifact)
        self.sides = sides_of(artifact)
        self._image = None if spec is None else spec.image_shape(as_pixels=self.with_preprocessing)

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        session = self._ready(batch)
        with running(self._path):
            return session.run(batch)

    def all_outputs(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        session = self._ready(batch)
        with running(self._path):
            return session.all_outputs(batch)

    def _ready(self, batch: torch.Tensor) -> Session:
        """The session, for a batch that it takes."""
        if self._session is None:
            raise InputError(f"The session of {self._path} is closed.", "Open another one.")
        if not isinstance(batch, torch.Tensor):
            found = type(batch).__name__
            raise InputError(f"A batch is a torch.Tensor, not a {found}.", "Make it by session.batch_of(pixels, spec).")
        if not batch.dim() or not len(batch):
            raise InputError(f"A batch has at least one image, and its shape is {tuple(batch.shape)}.")
        self.require_fitting(batch, self._image, torch.uint8 if self.with_preprocessing else torch.float32)
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _known_spec(artifact: Artifact) -> NetworkSpec | None:
    """What a file says that it is; None for one that says nothing."""
    if artifact.manifest is not None:
        return artifact.manifest.spec
    if artifact.format == "checkpoint":
        return load_checkpoint(artifact.path).spec
    return embedded_spec(artifact)


@dataclass(frozen=True)
class Opened:
    """A file that can be run."""

    artifact: Artifact

    @property
    def manifest(self) -> Manifest | None:
        return self.artifact.manifest

    def session(
        self, runtime: str | None = None, *, device: str = "cpu", threads: int | None = None, trust: bool = False
    ) -> Session:
        """A session by a runtime, or by the first that is installed; a context manager. Its `run` takes a batch on its device."""
        chosen = runtimes_for(self.artifact.format)[0] if runtime is None else runtime_named(runtime)
        if chosen.format != self.artifact.format:
            raise InputError(
                f"{self.artifact.path} is a file of the format {self.artifact.format}; {chosen.name} runs {chosen.format} files.",
                f"Name one of {', '.join(able.name for able in runtimes_for(self.artifact.format))}.",
            )
        if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MOST_THREADS):
            raise InputError(f"threads is a number from 1 to {MOST_THREADS}, not {shortly(threads)}.")
        return CheckedSession(chosen.load(self.artifact, device_named(device), threads=threads, trust=trust), self.artifact)


def open(artifact: Artifact | Pathlike) -> Opened:
    """Opens an artifact or a checkpoint."""
    return Opened(artifact if isinstance(artifact, Artifact) else open_artifact(_path(artifact)))


def _with_said(options: dict[str, Any]) -> dict[str, Any]:
    """Options in which those of images and classes are one."""
    said = {entry.name: options[entry.name] for entry in fields(SpecOptions) if entry.name in options}
    return {name: value for name, value in options.items() if name not in said} | {"said": _options(SpecOptions, **said)}


def _options(kind: type[T], **given: Any) -> T:
    """Options of a kind; InputError for names that it has not, and for values of another type.

    Lists may stand for tuples, one text for a tuple of it, and texts for paths.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    hints, strict = get_type_hints(kind), ConfigDict(strict=True, allow_inf_nan=False)
    unknown = sorted(given.keys() - hints.keys())
    if unknown:
        raise InputError(f"There is no option {unknown[0]!r}.", f"There are {', '.join(sorted(hints))}.")
    chosen: dict[str, Any] = {}
    for name, value in given.items():
        plain = tuple(value) if isinstance(value, list) else value
        if get_origin(hints[name]) is tuple and isinstance(value, str):
            plain = (value,)
        if name in _PATHS and isinstance(value, str | Path):
            plain = Path(value) if name == "checkpoint" else str(value)
        if name == "source" and not isinstance(plain, Source | None):
            raise InputError(f"source is what load, untrained, pretrained or from_module gave, and not {shortly(plain)}.")
        if name == "source" or isinstance(plain, torch.device | SpecOptions):
            chosen[name] = plain
            continue
        try:
            chosen[name] = TypeAdapter(hints[name], config=strict).validate_python(plain)
        except ValidationError as error:
            raise InputError(f"{name} cannot be {shortly(value)}: {error.errors()[0]['msg'].lower()}.") from error
    return kind(**chosen)


_PATHS = ("checkpoint", "data", "calibration_data")


def _which(which: object) -> Which | None:
    if which not in (None, *get_args(Which)):
        raise InputError(f"which is one of {', '.join(get_args(Which))}, not {shortly(which)}.")
    return which  # type: ignore[return-value]


def _path(file: object) -> Path:
    if not isinstance(file, Artifact | str | Path):
        raise InputError(f"A file is named by its path, or is an artifact, and not {shortly(file)}.")
    return file.path if isinstance(file, Artifact) else Path(file)


def _images(files: Files) -> list[str | Path]:
    """The same of images, of which an address is no path."""
    named = [files] if isinstance(files, Artifact | str | Path) or not isinstance(files, Iterable) else files
    return [file if isinstance(file, str) else _path(file) for file in named]


def _paths(files: Files) -> list[Path]:
    if isinstance(files, Artifact | str | Path):
        return [_path(files)]
    found = [_path(file) for file in files] if isinstance(files, Iterable) else [_path(files)]
    if not found:
        raise InputError("No file was named.")
    return found
