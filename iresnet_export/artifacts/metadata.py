"""What an artifact says of itself from inside, and whether that, its manifest and its checkpoint tell the same."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from iresnet_export import __version__
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName, Manifest, Side, Spec, Text
from iresnet_export.errors import ArtifactError, InputError
from iresnet_models.archives import opened
from iresnet_models.outputs import OutputName, named_outputs
from iresnet_models.precisions import PRECISIONS
from iresnet_models.spec import NetworkSpec, SpecOptions, spec_from_json
from iresnet_models.typed import json_from, shortly, typed

METADATA_KEY, METADATA_FILE = "iresnet-export", "iresnet-export.json"
"""Where ONNX files and archives of torch say what they are."""

FREE_SIDES = ("height", "width")
"""What graphs call extents of images that are free."""

_SAID = tuple(entry.name for entry in fields(SpecOptions))
"""What options may say in place of a checkpoint."""

_LIMIT = 4 << 20
"""Of what a file says of itself, in bytes: the names of a hundred thousand classes."""


@dataclass(frozen=True)
class Identity:
    """What an artifact says of itself from inside (`embedded_identity`). Another version may say more."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "ignore", "allow_inf_nan": False}

    producer: Text = ""
    spec: Spec | None = None
    weights_sha256: Text = ""
    precision: Text = ""
    fold: bool = True
    with_preprocessing: bool = False
    outputs: tuple[Text, ...] = ()
    sides: tuple[Side, Side] | None = None
    input: Text = ""


def identity_of(path: Path, format: FormatName) -> dict[str, Any] | None:
    """What an ONNX file's metadata or a TorchScript or torch.export archive says; None where there is nothing of ours.

    Its `spec` is one that this version knows: ArtifactError for any other, and for what is no JSON.
    """
    text = _embedded(path, format)
    if text is None:
        return None
    what = f"What {path} says of itself"
    try:
        if len(text) > _LIMIT:
            raise ValueError(f"{len(text):,} bytes")
        found = json_from(text if isinstance(text, str) else text.decode("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
    except ValueError as error:
        raise ArtifactError(f"{what} is damaged ({error}).", "Export it again.") from error
    if not found:
        return None
    try:
        typed(Identity, found, what)
        spec_from_json(found.get("spec"))
    except InputError as error:
        raise ArtifactError(f"{what} is damaged. {error.reason}.", "Export it again.") from error
    return found


def embedded_identity(manifest: Manifest) -> dict[str, Any]:
    """What an artifact of this manifest says of itself from inside: the spec and hashes, and nothing of the machine."""
    takes_pixels = manifest.with_preprocessing
    return {
        "producer": f"iresnet-export {__version__}",
        "spec": manifest.spec.to_json(),
        "weights_sha256": manifest.weights.sha256,
        "precision": manifest.precision,
        "fold": manifest.fold,
        "with_preprocessing": takes_pixels,
        "outputs": list(manifest.outputs),
        **({} if manifest.sides is None else {"sides": list(manifest.sides)}),
        "input": "uint8 (batch, height, width, RGB)" if takes_pixels else "float32 (batch, RGB, height, width), normalised",
        "preprocessing": preprocessing_steps(manifest.spec, takes_pixels),
    }


def preprocessing_steps(spec: NetworkSpec, with_preprocessing: bool) -> list[str]:
    """From an image file to the input, exactly: who follows them has the same pixels, bit for bit."""
    (height, width), resampling = spec.sides, f"Image.Resampling.{spec.interpolation.upper()}"
    crop = f"crop {width} x {height}" + ("" if height == width else " (width x height)")
    steps = [
        "decode with Pillow; turn upright by EXIF; transparent pixels on white; greys of 16 bits by their upper 8; 8-bit RGB",
        f"resize with Pillow: image.resize((width, height), {resampling}), of 8-bit pixels, which antialiases; the shorter side "
        f"becomes {spec.resize}, the longer int({spec.resize} * longer / shorter), rounded down",
        f"{crop}: left = round((width - {width}) / 2), top = round((height - {height}) / 2), halves to the even number",
    ]
    if with_preprocessing:
        return [*steps, "stack: uint8 (batch, height, width, RGB)"]
    return [
        *steps,
        "scale, in float32 and in this order: pixels * float32(1 / 255), minus mean, divided by std",
        "transpose and stack: float32 (batch, RGB, height, width)",
    ]


def _embedded(path: Path, format: FormatName) -> str | bytes | None:
    if format == "onnx":
        from iresnet_export.artifacts.onnx_files import read_onnx

        return {entry.key: entry.value for entry in read_onnx(path, external=False).metadata_props}.get(METADATA_KEY)
    if format not in ("torchscript", "pt2", "aotinductor"):
        return None
    with opened(path) as archive:
        inside = next((name for name in archive.names if name.endswith(f"extra/{METADATA_FILE}")), None)
        return archive.read(inside, _LIMIT) if inside else None


def embedded_spec(artifact: Artifact) -> NetworkSpec | None:
    """The network that a file without a manifest says it is; None where it says nothing."""
    identity = identity_of(artifact.path, artifact.format)
    return None if identity is None else spec_from_json(identity["spec"])


def normalises(artifact: Artifact) -> bool:
    """Whether an artifact takes pixels, by its manifest or else by what it says of itself; for formats whose inputs are unknown."""
    if artifact.manifest is not None:
        return artifact.manifest.with_preprocessing
    identity = identity_of(artifact.path, artifact.format)
    return identity is not None and identity.get("with_preprocessing") is True


def outputs_of(artifact: Artifact) -> tuple[OutputName, ...] | None:
    """What an artifact gives, in order, by its manifest or else by what it says of itself; None where nothing is said."""
    if artifact.manifest is not None:
        return artifact.manifest.outputs
    told = (identity_of(artifact.path, artifact.format) or {}).get("outputs") or ()
    try:
        found = named_outputs(told)
    except InputError:
        return None
    return found if list(found) == list(told) else None


def sides_of(artifact: Artifact) -> tuple[int, int] | None:
    """The smallest and largest sides of images that an artifact takes, where these are free; else None."""
    if artifact.manifest is not None:
        return artifact.manifest.sides
    told = (identity_of(artifact.path, artifact.format) or {}).get("sides")
    return None if told is None else (told[0], told[1])


def contradiction(artifact: Artifact, checkpoint: NetworkSpec) -> str | None:
    """The first thing that file, manifest and checkpoint tell differently, such as the mean of the images; else None."""
    manifest = artifact.manifest
    if manifest is None:
        return None
    said, source = manifest.details.settings.spec, "the checkpoint"
    if said is not None:
        source = f"the checkpoint with what options of the export are recorded to have set ({said.in_words})"
    try:
        known = (checkpoint if said is None else said.applied(checkpoint, manifest.spec.labels)).to_json()
    except InputError as error:
        raise ArtifactError(f"The manifest of {artifact.path} tells of options that cannot be: {error.reason}.") from error
    told = manifest.spec.to_json()
    for key in (key for key in known if told[key] != known[key]):
        return f"the manifest says that {key} is {shortly(told[key])}, and {source} that it is {shortly(known[key])}"
    if manifest.format == "onnx" and (wrong := _other_images(artifact.path, manifest)) is not None:
        return wrong
    inside = identity_of(artifact.path, manifest.format)
    if inside is None:
        return None
    expected = embedded_identity(manifest)
    for key, value in _flat(expected).items():
        if key != "producer" and _flat(inside).get(key) != value:
            return f"the file says of itself that {key} is {_flat(inside).get(key)}, and the manifest that it is {value}"
    return None


def other_word(artifact: Artifact, spec: NetworkSpec) -> str | None:
    """The first thing that a file without a manifest says of its images or labels, and the network that it should be does not."""
    inside, known = identity_of(artifact.path, artifact.format), spec.to_json()
    if inside is None:
        return None
    own = spec_from_json(inside["spec"]).to_json()
    told = {name: own[name] for name in _SAID if name != "labels" or known[name] is not None}
    known["sides"] = list(spec.free_sides)
    if inside.get("sides") is not None:
        told["sides"] = list(inside["sides"])
    for name, value in told.items():
        if value != known[name]:
            return f"the file says of itself that {name} is {shortly(value)}, and the checkpoint that it is {shortly(known[name])}"
    return None


def _other_images(path: Path, manifest: Manifest) -> str | None:
    """What an ONNX file takes, if those are no images of the manifest's size: nothing of them should be computed then."""
    from iresnet_export.artifacts.onnx_files import images_of, read_onnx

    image = images_of(read_onnx(path, external=False))[0].type.tensor_type
    taken = [extent.dim_value or extent.dim_param for extent in image.shape.dim][1:]
    wanted: list[int | str] = list(manifest.spec.image_shape(as_pixels=manifest.with_preprocessing))
    if manifest.sides is not None:
        first = 0 if manifest.with_preprocessing else 1
        wanted[first : first + 2] = FREE_SIDES
    if taken == wanted:
        return None
    said = " by ".join(map(str, manifest.spec.sides if manifest.sides is None else FREE_SIDES))
    return f"the manifest says that it takes images of {said}, and the file takes {' by '.join(map(str, taken))}"


def stored_precision(artifact: Artifact) -> str:
    """The precision of an artifact, by its manifest or else by what it says of itself; fp32 for one that says nothing."""
    if artifact.manifest is not None:
        return artifact.manifest.precision
    told = (identity_of(artifact.path, artifact.format) or {}).get("precision")
    return told if told in PRECISIONS else "fp32"


def layers_in_float(artifact: Artifact) -> int:
    """How many convolutions and linear layers of a quantized artifact stay in float32, as its manifest says."""
    quantization = None if artifact.manifest is None else artifact.manifest.details.quantization
    return 0 if quantization is None else len(quantization.floating)


def _flat(identity: dict[str, Any]) -> dict[str, Any]:
    return {**identity, **identity["spec"], "spec": None}
