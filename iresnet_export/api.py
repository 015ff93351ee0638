"""The functions of the public API. They take plain values: paths as text, devices and precisions by their names."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from iresnet_export.artifacts.artifact import Artifact, FormatName, Manifest, open_artifact
from iresnet_export.artifacts.source import Source, source_from_checkpoint, untrained_source
from iresnet_export.backends.base import Session
from iresnet_export.backends.registry import FORMATS, format_named, runtime_named, runtimes_for
from iresnet_export.errors import InputError
from iresnet_models.spec import ModelSpec

if TYPE_CHECKING:
    from iresnet_export.inspection import Inspection
    from iresnet_export.prediction import ImagePrediction
    from iresnet_export.reporting.schemas import BenchReport, EvalReport, VerifyReport

Pathlike = str | Path
Files = Artifact | Pathlike | Iterable[Artifact | Pathlike]
T = TypeVar("T")
_OFFICIAL = "official:"


def load(
    checkpoint: Pathlike,
    *,
    arch: str | None = None,
    depth: int | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> Source:
    """A checkpoint's network: one of ours, the official ones or torchvision's ResNets.

    What is given is what is expected of it; `image_size` overrides the size that it was trained at. Raises CheckpointError for a
    file that is damaged, foreign or another network.
    """
    return source_from_checkpoint(Path(checkpoint), arch=arch, depth=depth, num_classes=num_classes, image_size=image_size)


def untrained(arch: str = "iresnet", depth: int = 50, *, num_classes: int = 1000, image_size: int = 224, seed: int = 0) -> Source:
    """An untrained network, filled from `seed`: good for measuring latency."""
    return untrained_source(ModelSpec(arch, depth, num_classes=num_classes).with_image_size(image_size), seed)


def pretrained(name: str) -> Source:
    """The authors' ImageNet weights, such as `official:iresnet50`, downloaded once. UnavailableError without a network."""
    from iresnet_models.official import download_official

    arch = name.removeprefix(_OFFICIAL).rstrip("0123456789")
    depth = name.removeprefix(_OFFICIAL)[len(arch) :]
    if not name.startswith(_OFFICIAL) or not depth:
        raise InputError(f"There are no weights called {name!r}.", "Name the authors', such as official:iresnet50.")
    spec = ModelSpec(arch, int(depth))
    return source_from_checkpoint(download_official(spec.arch, spec.depth), arch=spec.arch, depth=spec.depth)


def export(
    source: Source | Pathlike, format: FormatName, *, output: Pathlike | None = None, force: bool = False, **options: Any
) -> Artifact:
    """Exports a network to `torchscript`, `pt2`, `aotinductor`, `onnx` or `engine`, and reads the file back.

    `options` are those of the format: `precision` ("fp32", "fp16", "bf16", "int8", "fp8"), `fold`, `with_preprocessing`,
    `dynamic_batch`, `batch`, `calibration_data` and so on. `output`: the file; by default artifacts/<network>.<format>. Raises
    InputError for options that do not go together, ExportError where the file does not hold what it should.
    """
    from iresnet_export.exporting import export_artifact

    if format not in FORMATS or format == "checkpoint":
        raise InputError(f"There is no format {format!r} to export to.", f"Choose one of {', '.join(FORMATS[1:])}.")
    kind = format_named(format).options_type
    source = source if isinstance(source, Source) else load(source)
    chosen = _options(kind, **options)
    return export_artifact(format, source, chosen, output=None if output is None else Path(output), force=force)


def verify(artifacts: Files, *, device: str = "cpu", **options: Any) -> VerifyReport:
    """Proves that artifacts are the network that was trained; the report says what passed, what failed and why.

    `options`: `checkpoint`, `data`, `images`, `batch_sizes`, `backends`, `trust`, `localise`, `max_accuracy_drop`, `seed`, `cache`.
    """
    from iresnet_export.reporting.documents import verify_document
    from iresnet_export.reporting.schemas import VerifyReport
    from iresnet_export.verification.verify import VerifyOptions
    from iresnet_export.verification.verify import verify as verify_artifacts

    chosen = _options(VerifyOptions, device=torch.device(device), **options)
    return VerifyReport.model_validate_json(_json(verify_document(verify_artifacts(_paths(artifacts), chosen), chosen)))


def bench(artifacts: Files, *, batches: Sequence[int] = (1,), device: str = "cpu", **options: Any) -> BenchReport:
    """Measures artifacts in turn with eager PyTorch, host to host, after verifying them.

    `options`: `modes`, `threads`, `seconds`, `backends`, `peers`, `recommend` (True by default here), `data`, `rates`,
    `p99_limit_ms`, `checkpoint`, `trust`, `verify`, `memory`, `limits`, `seed`.
    """
    from iresnet_export.benchmark.bench import bench as bench_artifacts
    from iresnet_export.benchmark.options import BenchOptions
    from iresnet_export.reporting.bench_document import bench_document
    from iresnet_export.reporting.schemas import BenchReport

    given = {"recommend": options.get("verify", True) is not False, **options}
    chosen = _options(BenchOptions, batch_sizes=tuple(batches), device=torch.device(device), **given)
    return BenchReport.model_validate_json(_json(bench_document(bench_artifacts(_paths(artifacts), chosen), chosen)))


def evaluate(files: Files, data: Pathlike | None = None, *, device: str = "cpu", **options: Any) -> EvalReport:
    """Top-1 and top-5 accuracy of checkpoints and artifacts on held-out images. `options`: `batch_size`, `workers`, `trust` ..."""
    from iresnet_export.evaluation import EvalOptions, accuracies
    from iresnet_export.reporting.documents import eval_document
    from iresnet_export.reporting.schemas import EvalReport

    chosen = _options(EvalOptions, data=None if data is None else str(data), device=torch.device(device), **options)
    return EvalReport.model_validate_json(_json(eval_document(accuracies(_paths(files), chosen), chosen)))


def predict(artifact: Artifact | Pathlike, images: Files, *, device: str = "cpu", **options: Any) -> Iterator[ImagePrediction]:
    """The likeliest classes of image files, and of all images in folders. `options`: `top_k`, `batch_size`, `backend`, `trust`."""
    from iresnet_export.prediction import PredictOptions
    from iresnet_export.prediction import predict as predict_images

    chosen = _options(PredictOptions, device=torch.device(device), **options)
    return iter(predict_images(_path(artifact), _paths(images), chosen).images)


def inspect(file: Artifact | Pathlike) -> Inspection:
    """What a file is, read without running it."""
    from iresnet_export.inspection import inspect_file

    return inspect_file(_path(file))


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
        return chosen.load(self.artifact, torch.device(device), threads=threads, trust=trust)


def open(artifact: Artifact | Pathlike) -> Opened:
    """Opens an artifact or a checkpoint."""
    return Opened(artifact if isinstance(artifact, Artifact) else open_artifact(Path(artifact)))


def _options(kind: type[T], **given: Any) -> T:
    """Options of a kind; InputError for names that it has not. Lists may stand for tuples, texts for paths."""
    names = {entry.name for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(given.keys() - names)
    if unknown:
        raise InputError(f"There is no option {unknown[0]!r}.", f"There are {', '.join(sorted(names))}.")
    plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    for key in ("checkpoint", "data", "calibration_data"):
        if isinstance(plain.get(key), str | Path):
            plain[key] = Path(plain[key]) if key == "checkpoint" else str(plain[key])
    return kind(**plain)


def _path(file: Artifact | Pathlike) -> Path:
    return file.path if isinstance(file, Artifact) else Path(file)


def _paths(files: Files) -> list[Path]:
    if isinstance(files, Artifact | str | Path):
        return [_path(files)]
    return [_path(file) for file in files]


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, allow_nan=False)
