"""Manifests: what each artifact was made from and how, field by field; beside the file, as `<file name>.json`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, PlainValidator, Tag

from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.quantization.codes import Quantization
from iresnet_export.system.environment import command, commit, hardware, versions
from iresnet_models.files import read_json
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.outputs import LOGITS, OutputName, named_outputs
from iresnet_models.precisions import Precision
from iresnet_models.spec import Interpolation, ModelSpec, NetworkSpec, SpecOptions, Which, kind_of_spec
from iresnet_models.typed import choice, shortly, typed

SCHEMA = "iresnet-export/manifest/1"

FormatName = Literal["checkpoint", "torchscript", "pt2", "aotinductor", "onnx", "engine"]

Text = Annotated[str, Field(max_length=10_000)]
Place = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
"""A file's name or relative path. Whether it leads out of the folder is looked at where it is followed."""
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=2**60)]
Count = Annotated[int, Field(ge=0, le=2**32)]
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
Side = Annotated[int, Field(ge=1, le=2**20)]
Profile = tuple[BatchSize, BatchSize, BatchSize]
Number = Annotated[float, Field(ge=-1e38, le=1e38)]
Share = Annotated[float, Field(ge=0, le=1)]
Spec = Annotated[
    Annotated[ModelSpec, Tag(choice(ModelSpec))] | Annotated[NetworkSpec, Tag(choice(NetworkSpec))],
    Discriminator(lambda data: choice(kind_of_spec(data))),
]

UNWRITTEN = "0" * 64
"""In place of the hash of a file that is not written yet."""


class Part:
    """A JSON object whose types are not converted ("12" and true are no numbers), and which holds nothing that is unknown."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True)
class Weights(Part):
    """Where an artifact's weights come from.

    A checkpoint's `sha256` is that of its file, and `checkpoint` its path relative to the manifest if it lies within the manifest's
    folder, else its name, and `which` says which of its weights they are, where it holds an average; untrained weights are named
    by their `seed` and by the hash of the whole state, those of a module in memory by that hash alone.
    """

    kind: Literal["checkpoint", "untrained", "module"]
    sha256: Hash
    checkpoint: Place | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None
    which: Which | None = None

    @property
    def key(self) -> str:
        """What no other weights have."""
        return self.sha256 if self.which is None else f"{self.sha256}-{self.which}"


@dataclass(frozen=True)
class Parent(Part):
    """The artifact that this one was built from, beside it."""

    file: Place
    sha256: Hash


@dataclass(frozen=True)
class FoldProof(Part):
    """The folded network's error over the unfolded one's, both against float64, over images that did not choose it.

    `error_ratio`: in float32, of the largest errors of both in three forms. `own_precision`: in the half precision that is
    exported, of both; None for others, and where the unfolded network alone leaves that precision's range.
    """

    images: Annotated[int, Field(ge=1)]
    image_source: Text
    error_ratio: Number
    own_precision: Number | None = None


@dataclass(frozen=True)
class Fold(Part):
    """Everything that is needed to compute a fold again, for which inputs it is exact, its proof, and what was kept and why."""

    plan: Annotated[FoldPlan, PlainValidator(FoldPlan.from_json)]
    exact_everywhere: bool
    exactness: Text
    proof: FoldProof
    kept: Text | None = None


@dataclass(frozen=True)
class SaidOfSpec(Part):
    """What of the spec was said by options of the export, and is not the checkpoint's: of the labels their hash."""

    image_size: Count | tuple[Count, Count] | None = None
    resize: Count | None = None
    interpolation: Interpolation | None = None
    mean: tuple[Number, Number, Number] | None = None
    std: tuple[Number, Number, Number] | None = None
    labels_sha256: Hash | None = None

    @classmethod
    def of(cls, said: SpecOptions) -> SaidOfSpec | None:
        told = dict(said.said)
        labels = told.pop("labels", None)
        return cls(**told, labels_sha256=None if labels is None else _labels_sha256(labels)) if said.said else None

    def applied(self, own: NetworkSpec, labels: tuple[str, ...] | None) -> NetworkSpec:
        """A checkpoint's spec with this in its place; `labels` are taken if they have the hash."""
        told = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        wanted = told.pop("labels_sha256")
        is_said = wanted is not None and labels is not None and _labels_sha256(labels) == wanted
        return SpecOptions(**told, labels=labels if is_said else None).applied(own)

    @property
    def in_words(self) -> str:
        """Such as `image size, resize`."""
        return ", ".join(name.removesuffix("_sha256").replace("_", " ") for name in plain(self))


def _labels_sha256(labels: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()


@dataclass(frozen=True)
class Settings(Part):
    """Those of an export's options that change what is written, and are not fields of the manifest."""

    calibration_data: Annotated[Text, Field(min_length=1)] | None = None
    spec: SaidOfSpec | None = None


@dataclass(frozen=True)
class OnnxSettings(Settings):
    opset: Annotated[int, Field(ge=0, le=1000)] = 0
    target: Text | None = None
    calibrator: Text | None = None
    calibration_images: Count | None = None
    keep_float: tuple[Text, ...] | None = None
    min_sqnr: Number | None = None
    max_accuracy_drop: Number | None = None


@dataclass(frozen=True)
class EngineSettings(OnnxSettings):
    """Only what was asked for; some of it decides where an engine may run."""

    optimised_for_batch: BatchSize | None = None
    flavour: Text | None = None
    compute_capabilities: tuple[Text, ...] = ()
    profiles: tuple[Profile, ...] | None = None
    workspace_mib: Count | None = None
    builder_level: Count | None = None
    hardware_compatibility: Text = "none"
    version_compatible: bool = False
    sparse: bool = False
    timing_cache: bool = True


@dataclass(frozen=True)
class PackageSettings(Settings):
    device: Literal["cpu", "cuda"] = "cpu"
    compute_capability: Text | None = None


@dataclass(frozen=True)
class Details(Part):
    """What a format tells of an export. `multiply_accumulates`: the share of them in each precision, read back from the file."""

    settings: Settings = field(default_factory=Settings)
    fold: Fold | None = None
    quantization: Annotated[Quantization, PlainValidator(Quantization.from_json)] | None = None
    multiply_accumulates: Mapping[Text, Share] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxDetails(Details):
    """`optimised_operators`: how often each is in the graph that ONNX Runtime makes of a file for CPUs, proof of integers."""

    settings: OnnxSettings = field(default_factory=OnnxSettings)
    optimised_operators: Mapping[Text, Count] | None = None


@dataclass(frozen=True)
class Gpu(Part):
    name: Text
    compute_capability: Text
    driver: Text | None = None


@dataclass(frozen=True)
class TimingCacheDetails(Part):
    """The hash of the timings that kernels were chosen by, and of those that the build began with."""

    sha256: Hash
    driver: Text | None = None
    started_from: Hash | None = None


@dataclass(frozen=True)
class EngineDetails(Details):
    """`gpus`: in words, which it runs on; `gpu`: the one that it was built on. `profiles`: smallest, best and largest batch."""

    settings: EngineSettings = field(default_factory=EngineSettings)
    flavour: Text | None = None
    builder_version: Text | None = None
    layers: Count | None = None
    sparse_layers: Count | None = None
    profiles: tuple[Profile, ...] = ()
    gpus: Text | None = None
    gpu: Gpu | None = None
    timing_cache: TimingCacheDetails | None = None


@dataclass(frozen=True)
class PackageDetails(Details):
    """What compiled a package, and what it is tied to: a version of torch, a kind of processor, and of GPU if it runs on one."""

    settings: PackageSettings = field(default_factory=PackageSettings)
    compiler: Text | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    torch: Text | None = None
    cpu_capability: Text | None = None
    cpu_extensions: tuple[Text, ...] = ()
    compute_capability: Text | None = None
    gpu: Text | None = None
    cuda: Text | None = None


DETAILS: dict[str, type[Details]] = {"onnx": OnnxDetails, "engine": EngineDetails, "aotinductor": PackageDetails}
"""Of the formats that have more to tell than `Details`."""


@dataclass(frozen=True)
class Manifest(Part):
    """Everything that an artifact depends on.

    `batch` is the range of batch sizes that it takes, None for any; `with_preprocessing`: whether it normalises by itself;
    `outputs`: what it gives, in order; `sides`: the smallest and largest height and width of images that it takes, None for those
    of its spec alone.
    """

    file: Place
    format: FormatName
    sha256: Hash
    size_bytes: Size
    spec: Spec
    weights: Weights
    precision: Precision
    fold: bool
    batch: tuple[BatchSize, BatchSize] | None
    with_preprocessing: bool = False
    outputs: tuple[OutputName, ...] = (LOGITS,)
    sides: tuple[Side, Side] | None = None
    parent: Parent | None = None
    details: Details = field(default_factory=Details)
    versions: Mapping[Text, Text] = field(default_factory=versions)
    hardware: Mapping[Text, Any] = field(default_factory=hardware)
    commit: Text | None = field(default_factory=commit)
    command: Text = field(default_factory=command)
    created: Text = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch[0] > self.batch[1]:
            raise ValueError(f"batch is a range from a smallest to a largest size, not {self.batch[0]} to {self.batch[1]}")
        if self.batch is None and self.format == "engine":
            raise ValueError("batch is missing, and an engine always has a range of batch sizes")
        if self.sides not in (None, self.spec.free_sides):
            raise ValueError(f"sides reach from {self.spec.free_sides[0]} to {self.spec.free_sides[1]} where they are free")
        if self.outputs != named_outputs(self.outputs):
            raise ValueError(f"outputs begins with the logits, and is {', '.join(self.outputs) or 'empty'}")

    def to_json(self) -> dict[str, Any]:
        told = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {"schema": SCHEMA} | {name: plain(value) for name, value in told.items()}

    @classmethod
    def from_json(cls, data: Any, path: Path) -> Manifest:
        """The manifest that `to_json` wrote; ArtifactError for anything else."""
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            told = shortly(data.get("schema")) if isinstance(data, dict) else type(data).__name__
            raise ArtifactError(
                f"{path} is not a manifest that this version reads ({told}, not {SCHEMA}).", "Export the artifact again."
            )
        plain = {key: value for key, value in data.items() if key not in ("schema", "details")}
        try:
            manifest = typed(cls, plain, f"The manifest {path}")
            details: Any = dict[Literal["details"], DETAILS.get(manifest.format, Details)]  # type: ignore[misc]
            found = typed(details, {"details": data.get("details", {})}, f"The manifest {path}")
        except InputError as error:
            raise ArtifactError(f"{error.reason}.", "Export the artifact again.") from error
        return dataclasses.replace(manifest, details=found["details"])

    def same_recipe(self, other: Manifest) -> bool:
        """Whether both tell of the same export: spec, weights and settings, whenever and wherever it was done."""

        def key(manifest: Manifest) -> tuple[Any, ...]:
            weights = (manifest.weights.kind, manifest.weights.key)
            settings = (manifest.format, manifest.precision, manifest.fold, manifest.batch)
            made = (manifest.with_preprocessing, manifest.outputs, manifest.sides, manifest.details.settings)
            return manifest.spec, weights, settings, made, manifest.versions.get("iresnet-export")

        return key(self) == key(other)

    @classmethod
    def beside(cls, path: Path) -> Manifest:
        """The one of the file at `path`; InputError where there is none, or none that this version reads."""
        place = manifest_path(path)
        return cls.from_json(read_json(place, "The manifest"), place)


def manifest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def inside(folder: Path, recorded: str) -> Path | None:
    """The place in `folder` that a manifest names; None for one that is absolute or climbs out: no file decides what is opened."""
    path = Path(recorded)
    if path.is_absolute() or path.drive or path.root or ".." in path.parts or not path.parts or "\0" in recorded:
        return None
    return folder / path


def recorded_path(target: Path, folder: Path) -> str:
    """How a manifest in `folder` names `target`: by its relative path where it lies within the folder, else by its name alone."""
    target, folder = target.resolve(), folder.resolve()
    return target.relative_to(folder).as_posix() if target.is_relative_to(folder) else target.name


def plain(value: Any) -> Any:
    """As JSON has it; of an object's parts those that say something."""
    if isinstance(value, NetworkSpec | FoldPlan | Quantization):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        told = {entry.name: getattr(value, entry.name) for entry in dataclasses.fields(value)}
        return {name: plain(part) for name, part in told.items() if part is not None}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, tuple | list) else value
