"""Artifacts: what a file is, and whether it is still the one that its manifest tells of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.artifacts.manifest import FormatName, Manifest, inside, manifest_path
from iresnet_export.errors import ArtifactError, InputError, StaleManifestError
from iresnet_models.archives import is_archive, is_safetensors, opened
from iresnet_models.files import require_file, require_place, require_writable_folder, sha256_of, write_json
from iresnet_models.spec import Which
from iresnet_models.typed import shortly

SUFFIXES: dict[str, FormatName] = {".ts": "torchscript", ".pt2": "pt2", ".onnx": "onnx", ".engine": "engine", ".plan": "engine"}
"""The last suffix of each; a package (`aotinductor`) ends in .aoti.pt2."""

ENDINGS: dict[FormatName, tuple[str, ...]] = {
    "torchscript": (".ts",),
    "pt2": (".pt2",),
    "aotinductor": (".aoti.pt2",),
    "onnx": (".onnx",),
    "engine": (".engine", ".plan"),
}
"""How the names of exported files end; the first is the default."""

_PT2_PARTS: dict[str, FormatName] = {"/data/aotinductor/": "aotinductor", "/models/": "pt2"}
"""Torch writes programs and packages as archives of one kind; what lies in it says which it is."""


@dataclass(frozen=True)
class Artifact:
    """A file that can be run, and its manifest where there is one (a foreign artifact has none)."""

    path: Path
    format: FormatName
    manifest: Manifest | None
    which: Which | None = None
    """Of a checkpoint's weights: None for their average where there is one."""

    @property
    def precision(self) -> str:
        """What it should hold its network in: a foreign file as networks are trained, whatever it says of itself."""
        return "fp32" if self.manifest is None else self.manifest.precision

    def require_intact(self) -> Manifest:
        """The manifest, if the file is still the one it tells of; StaleManifestError or ArtifactError otherwise."""
        if self.manifest is None:
            raise ArtifactError(
                f"{self.path} has no manifest beside it ({manifest_path(self.path).name}), so nothing says what it should be.",
                "Name the checkpoint that it was made from with --checkpoint, or export it again.",
            )
        if sha256_of(self.path) != self.manifest.sha256:
            raise StaleManifestError(
                f"{self.path} is not the file that its manifest tells of: its SHA-256 differs from the recorded "
                f"{self.manifest.sha256[:16]}….",
                "It was changed or replaced after the export; export it again.",
            )
        return self.manifest

    def parent(self) -> Artifact:
        """The artifact that this one was built from, unchanged since."""
        manifest = self.require_intact()
        if manifest.parent is None:
            raise ArtifactError(f"{self.path} was not built from another artifact.")
        path = inside(self.path.parent, manifest.parent.file)
        if path is None:
            raise ArtifactError(
                f"The manifest of {self.path} names {shortly(manifest.parent.file)} as what it was built from: that leads out of "
                "its folder, and is not followed.",
                "Export it again.",
            )
        if not os.path.isfile(path):
            raise StaleManifestError(
                f"{self.path} was built from {manifest.parent.file}, which is no longer beside it.", "Export it again."
            )
        if sha256_of(path) != manifest.parent.sha256:
            raise StaleManifestError(
                f"{self.path} was built from another {manifest.parent.file} than the one beside it now: the hash differs.",
                "Export it again.",
            )
        return open_artifact(path)


def open_artifact(path: Path, which: Which | None = None) -> Artifact:
    """The artifact or checkpoint in a file, recognised by what is in it; ArtifactError if it is neither."""
    path = require_file(Path(path), "The artifact")
    beside = manifest_path(path)
    manifest = Manifest.beside(path) if os.path.lexists(beside) else None
    found = _format_of(path)
    if manifest is not None and manifest.format != found:
        raise ArtifactError(
            f"The manifest {beside} tells of a file of the format {manifest.format}, and {path} is of {found}.", "Export it again."
        )
    return Artifact(path, found, manifest, which)


def record(path: Path, manifest: Manifest) -> Artifact:
    """Writes the manifest beside a finished file."""
    write_json(manifest_path(path), manifest.to_json())
    return Artifact(path, manifest.format, manifest)


def require_replaceable(path: Path, manifest: Manifest, inputs: Sequence[Path] = (), *, force: bool) -> None:
    """Raises InputError if `path` or its manifest's place holds a file that an export of this manifest would not simply renew.

    `force` allows that, but for checkpoints, for the `inputs` of the export and what is in such a folder, by whatever name or
    link, and for what is no file. An artifact's name ends as its format's do, so that the next command takes it for what it is.
    """
    endings = ENDINGS[manifest.format]
    if not _ends_in(path, endings):
        raise InputError(
            f"The next command would take {path} for something else than it is to be:",
            f"let its name end in {' or '.join(endings)}.",
        )
    if any("\ud800" <= letter <= "\udfff" for letter in path.name):
        raise InputError(f"{path} is no UTF-8, in which the manifest names it.", "Choose another --output.")
    beside = manifest_path(path)
    for place in (path, beside):
        require_place(place)
        for read in inputs:
            if place.exists() and (_same(place, read) or (read.is_dir() and read.resolve() in place.resolve().parents)):
                raise InputError(f"{place} is read by this export, and would be replaced by it.", "Choose another --output.")
        if _holds_checkpoint(place):
            raise InputError(
                f"{place} is a checkpoint, which no export replaces, not even with --force.", "Choose another --output, or move it."
            )
    require_writable_folder(path)
    if force:
        return
    known = None
    if beside.exists():
        try:
            known = Manifest.beside(path)
        except InputError as error:
            if not path.exists():
                raise InputError(
                    f"{beside}, the place of the manifest, already holds a file of another origin.",
                    "Add --force to replace it, or choose another place with --output.",
                ) from error
    if path.exists() and (known is None or not known.same_recipe(manifest) or not _recognised(path)):
        what = "a file of another origin" if known is None else f"an artifact of another recipe ({known.command})"
        raise InputError(f"{path} already holds {what}.", "Add --force to replace it, or choose another place with --output.")


def _ends_in(path: Path, endings: Sequence[str]) -> bool:
    """Whether a name ends so; a package's ending is no program's, though one is the end of the other."""
    name = path.name.lower()
    longer = [other for others in ENDINGS.values() for other in others if other not in endings]
    return name.endswith(tuple(endings)) and not any(
        name.endswith(other) and other.endswith(ending) for other in longer for ending in endings
    )


def _recognised(path: Path) -> bool:
    try:
        _format_of(require_file(path, "The artifact"))
    except InputError:
        return False
    return True


def _holds_checkpoint(path: Path) -> bool:
    try:
        return path.is_file() and (is_archive(path) or is_safetensors(path)) and _format_of(path) == "checkpoint"
    except (ArtifactError, OSError):
        return False


def _same(path: Path, other: Path) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _format_of(path: Path) -> FormatName:
    known = SUFFIXES.get(path.suffix.lower())
    if is_archive(path):
        with opened(path) as archive:
            names = archive.names
        if any("/code/" in f"/{name}" for name in names):
            return "torchscript"
        if any(name.endswith("/archive_format") for name in names):
            for part, format in _PT2_PARTS.items():
                if any(part in name for name in names):
                    return format
        elif any(name.endswith("data.pkl") for name in names):
            return "checkpoint"
    elif is_safetensors(path):
        return "checkpoint"
    elif known in ("onnx", "engine"):
        return known
    elif known is None and path.suffix.lower() in (".pt", ".pth", ".tar", ".bin"):
        return "checkpoint"
    raise ArtifactError(
        f"{path} is not an artifact that this project knows: neither TorchScript (.ts), a torch.export program or "
        "package (.pt2), ONNX (.onnx), a TensorRT engine (.engine, .plan) "
        "nor a checkpoint (.pt, .pth, .safetensors); or it was cut off while it was written or copied."
    )
