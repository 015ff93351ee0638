"""What a manifest holds, field by field, with its bounds: a file that says anything else is refused before anything reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from iresnet_models.folding_plan import FoldPlan
from iresnet_models.precisions import Precision
from iresnet_models.spec import ModelSpec

_LONGEST = 10_000

Text = Annotated[str, Field(max_length=_LONGEST)]
Place = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
"""A file's name or relative path. Whether it leads out of the folder is looked at where it is followed."""
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=2**60)]
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
Number = Annotated[float, Field(ge=-1e38, le=1e38)]
Share = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A JSON object. Types are not converted: "12" and true are no numbers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Open(Part):
    """Another version may say more."""

    model_config = ConfigDict(extra="allow")


class WeightsPart(Part):
    kind: Literal["checkpoint", "untrained"]
    sha256: Hash
    checkpoint: Place | None = None
    seed: Annotated[int, Field(ge=0, lt=2**64)] | None = None


class ParentPart(Part):
    file: Place
    sha256: Hash


class ProofPart(Open):
    images: Annotated[int, Field(ge=1)]
    image_source: Text
    error_ratio: Number
    own_precision: Number | None = None


class FoldPart(Open):
    plan: dict[str, Any]
    exact_everywhere: bool
    exactness: Text
    proof: ProofPart

    @field_validator("plan")
    @classmethod
    def _of_a_fold(cls, plan: dict[str, Any]) -> dict[str, Any]:
        FoldPlan.from_json(plan)
        return plan


class Gpu(Open):
    name: Text
    compute_capability: Text
    driver: Text | None = None


class Settings(Open):
    """What was asked for. Some of it decides where an engine may run."""

    hardware_compatibility: Text = "none"
    version_compatible: bool = False


class Details(Open):
    """What a backend tells of the export; only what something reads is named here."""

    settings: Settings = Settings()
    fold: FoldPart | None = None
    quantization: dict[str, Any] | None = None
    multiply_accumulates: dict[Text, Share] = {}
    flavour: Text | None = None
    builder_version: Text | None = None
    gpus: Text | None = None
    gpu: Gpu | Text | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    compiler: Text | None = None
    torch: Text | None = None
    cuda: Text | None = None
    cpu_capability: Text | None = None
    cpu_extensions: tuple[Text, ...] = ()
    compute_capability: Text | None = None

    @field_validator("quantization")
    @classmethod
    def _of_codes(cls, told: dict[str, Any] | None) -> dict[str, Any] | None:
        if told is not None:
            from iresnet_export.quantization.codes import Quantization

            Quantization.from_json(told)
        return told


class ManifestFile(Part):
    model_config = ConfigDict(populate_by_name=True)

    schema_: Literal["iresnet-export/manifest/1"] = Field(alias="schema")
    file: Place
    format: Literal["checkpoint", "torchscript", "pt2", "aotinductor", "onnx", "engine"]
    sha256: Hash
    size_bytes: Size
    spec: ModelSpec
    weights: WeightsPart
    precision: Precision
    fold: bool
    batch: tuple[BatchSize, BatchSize] | None
    with_preprocessing: bool = False
    parent: ParentPart | None
    details: Details = Details()
    versions: dict[Text, Text] = {}
    hardware: dict[Text, Any] = {}
    commit: Text | None = None
    command: Text = ""
    created: Text = ""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch is not None and self.batch[0] > self.batch[1]:
            raise ValueError(f"batch is a range from a smallest to a largest size, not {self.batch[0]} to {self.batch[1]}")
        if self.batch is None and self.format == "engine":
            raise ValueError("batch is missing, and an engine always has a range of batch sizes")
        return self


class Identity(Open):
    """What an artifact says of itself from inside (`embedded_identity`)."""

    producer: Text = ""
    spec: ModelSpec | None = None
    weights_sha256: Text = ""
    precision: Text = ""
    fold: bool = True
    with_preprocessing: bool = False
    input: Text = ""
