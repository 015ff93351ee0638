"""What a file is: read from the file itself, and from its manifest where there is one."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.metadata import identity_of
from iresnet_export.errors import InputError
from iresnet_export.graph.precision import in_words
from iresnet_models.files import sha256_of
from iresnet_models.image_files import printable
from iresnet_models.spec import Which, spec_from_json

_SHOWN, _LONGEST = 40, 4000
"""How much of what a file says is shown; the report in JSON holds all of it."""


@dataclass(frozen=True)
class Inspection:
    """`identity`: what the file says of itself from inside. `weights`: how many numbers there are of each type."""

    artifact: Artifact
    sha256: str
    identity: dict[str, Any] | None = None
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    operators: dict[str, int] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def manifest_state(self) -> str:
        if self.artifact.manifest is None:
            return "none beside it"
        if self.artifact.manifest.sha256 != self.sha256:
            return "STALE: the file was changed or replaced since"
        return "intact: the file is the one that was exported"

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of everything that is known, for a table."""
        manifest, rows = self.artifact.manifest, [("file", self.artifact.path.name), ("format", self.artifact.format)]
        rows += [("sha256", self.sha256), ("manifest", self.manifest_state)]
        if self.identity is not None and "spec" in self.identity:
            spec = self.identity["spec"]
            known = spec_from_json(spec)
            rows.append(("network", f"{spec['arch']}{spec['depth']}, {spec['num_classes']} classes, {known.size_in_words} pixels"))
            rows.append(("images", self.notes.get("images") or known.in_words))
            if "producer" in self.identity:
                said = f"{self.identity['producer']}, weights {str(self.identity.get('weights_sha256', ''))[:16]}…"
                rows.append(("says of itself", said))
        if manifest is not None:
            origin = manifest.weights.checkpoint or f"untrained, seed {manifest.weights.seed}"
            which = "" if manifest.weights.which is None else f", its {manifest.weights.which} weights"
            rows += [
                ("weights", f"{origin}{which} ({manifest.weights.sha256[:16]}…)"),
                ("precision", manifest.precision),
                ("multiply-accumulates", in_words(manifest.details.multiply_accumulates)),
                ("takes", "uint8 pixels" if manifest.with_preprocessing else "normalised float32 images"),
                ("sizes", "" if manifest.sides is None else f"{manifest.sides[0]} to {manifest.sides[1]} pixels a side"),
                ("gives", ", ".join(manifest.outputs)),
                ("batch", "any" if manifest.batch is None else f"{manifest.batch[0]} to {manifest.batch[1]}"),
                *({} if (codes := manifest.details.quantization) is None else codes.in_words()).items(),
                ("built from", manifest.parent.file if manifest.parent else ""),
                ("made by", manifest.command),
                ("made at", manifest.created),
                ("with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
            ]
        rows += [("inputs", _listed(self.inputs)), ("outputs", _listed(self.outputs))]
        rows += [("operators", _listed([f"{count} {name}" for name, count in self.operators.items()]))]
        rows += [("stored weights", _listed([f"{count:,} {name}" for name, count in self.weights.items()]))]
        notes = [(key, value) for key, value in self.notes.items() if key != "images"]
        return [(key, _shown(value)) for key, value in [*rows, *notes] if value]

    def to_json(self) -> dict[str, Any]:
        manifest = self.artifact.manifest
        return {
            "schema": "iresnet-export/inspect/1",
            "file": self.artifact.path.name,
            "format": self.artifact.format,
            "sha256": self.sha256,
            "manifest_state": self.manifest_state,
            "manifest": manifest.to_json() if manifest else None,
            **{
                entry.name: getattr(self, entry.name)
                for entry in dataclasses.fields(self)
                if entry.name not in ("artifact", "sha256")
            },
        }


def _shown(text: str) -> str:
    """A text out of a file in one line of bounded length, with escapes: it may hold commands for a terminal."""
    return printable(text[:_LONGEST]) + ("…" if len(text) > _LONGEST else "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def inspect_file(path: Path, *, arch: str | None = None, which: Which | None = None, save: Path | None = None) -> Inspection:
    """Reads a file without running it. ArtifactError or CheckpointError for one that cannot be read.

    Of a checkpoint: `arch` and `which` as for `load_checkpoint`; `save`: where to save what was recognised, as a
    checkpoint of its own, .pt or .safetensors. InputError where that is no checkpoint, or where a file is already.
    """
    artifact = open_artifact(path)
    if artifact.format == "checkpoint":
        return Inspection(artifact, sha256_of(path), **_inspect_checkpoint(path, arch, which, save))
    if (arch, which, save) != (None, None, None):
        raise InputError(f"{path} is no checkpoint, and --arch, --which and --save are for these;", "leave them out.")
    found = {"identity": identity_of(artifact.path, artifact.format)} | _READERS[artifact.format](artifact)
    return Inspection(artifact, sha256_of(path), **found)


def _inspect_onnx(path: Path) -> dict[str, Any]:
    import onnx

    from iresnet_export.artifacts.onnx_files import external_files, images_of, read_onnx

    model = read_onnx(path, external=False)
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        weights[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += _numel(tensor.dims)
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    files = external_files(model)
    notes = {"opset": opsets, "producer": f"{model.producer_name} {model.producer_version}".strip()}
    return {
        "inputs": [_value(value) for value in images_of(model)],
        "outputs": [_value(value) for value in model.graph.output],
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "weights": dict(weights),
        "notes": notes | ({"weights lie in": f"{', '.join(files)} (not looked at)"} if files else {}),
    }


def _value(value: Any) -> str:
    import onnx

    kind = value.type.tensor_type
    shape = ", ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim)
    if not value.type.HasField("tensor_type"):
        return f"{value.name} ({value.type.WhichOneof('value') or 'of unknown type'})"
    known = kind.elem_type in onnx.TensorProto.DataType.values()
    return f"{value.name} {onnx.TensorProto.DataType.Name(kind.elem_type).lower() if known else 'of unknown type'} ({shape})"


def _numel(shape: Any) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _inspect_torchscript(artifact: Artifact) -> dict[str, Any]:
    from iresnet_export.backends.torchscript.looking import read_script

    return read_script(artifact.path)


def _inspect_pt2(artifact: Artifact) -> dict[str, Any]:
    from iresnet_export.backends.pt2.archive import read_program

    return read_program(artifact.path)


def _inspect_package(artifact: Artifact) -> dict[str, Any]:
    if artifact.manifest is None:
        return {"notes": {"contents": "compiled code: unknown without loading it"}}
    from iresnet_export.backends.aotinductor.target import package_details, target_in_words

    details = package_details(artifact)
    return {"notes": {"compiled by": f"torch {details.torch}", "for": target_in_words(details)}}


def _inspect_engine(artifact: Artifact) -> dict[str, Any]:
    """From the first bytes of the plan, and its manifest."""
    from iresnet_export.backends.tensorrt.plan import engine_details, read_plan

    plan = read_plan(artifact)
    notes = {"built by": f"{plan.flavour} {plan.version or '(version unknown)'}"}
    if artifact.manifest is not None:
        notes["for"] = str(engine_details(artifact).gpus)
    else:
        notes["contents"] = "compiled code: unknown without loading it"
    return {"notes": notes}


def _inspect_checkpoint(path: Path, arch: str | None, which: Which | None, save: Path | None) -> dict[str, Any]:
    from iresnet_models.checkpoint import load_checkpoint, save_again

    checkpoint = load_checkpoint(path, arch=arch, which=which)
    weights: Counter[str] = Counter()
    for value in checkpoint.model.state_dict().values():
        weights[str(value.dtype).removeprefix("torch.")] += value.numel()
    plain = {key: value for key, value in checkpoint.details.items() if _is_plain(value)}
    if save is not None:
        _require_new(save)
        save_again(save, checkpoint, **plain)
    notes = checkpoint.layout.in_words | {"details": ", ".join(f"{key} {value}" for key, value in plain.items())}
    if not checkpoint.says_preprocessing:
        notes["images"] = f"not said; taken are {checkpoint.spec.in_words}"
    return {"identity": {"spec": checkpoint.spec.to_json()}, "weights": dict(weights), "notes": notes}


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))


def _require_new(path: Path) -> None:
    if path.suffix.lower() not in (".pt", ".safetensors"):
        raise InputError(f"A checkpoint is saved as .pt or .safetensors, unlike {path};", "let the name end so.")
    if os.path.lexists(path):
        raise InputError(f"{path} is there already, and is not replaced;", "name another file, or remove it.")


_READERS: dict[FormatName, Callable[[Artifact], dict[str, Any]]] = {
    "onnx": lambda artifact: _inspect_onnx(artifact.path),
    "torchscript": _inspect_torchscript,
    "pt2": _inspect_pt2,
    "aotinductor": _inspect_package,
    "engine": _inspect_engine,
}
