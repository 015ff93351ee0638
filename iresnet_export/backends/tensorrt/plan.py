"""What a TensorRT plan says of itself before anything loads it: whose it is, whether it is whole, and which GPUs it is for.

Layout of TensorRT-RTX's header (64 bytes, little-endian), read off plans that 1.7.1 wrote for each of its targets and held by a
test: 0 magic, 16 length of the file (8 bytes), 24 version (4 bytes), 32 bits of the compute capabilities (4 bytes). Of TensorRT's
own plans only the magic is known here; their version and GPU are in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from iresnet_export.errors import ArtifactError

if TYPE_CHECKING:
    from iresnet_export.artifacts.artifact import Artifact
    from iresnet_export.artifacts.manifest import EngineDetails

_MAGIC = {b"vtrt": "tensorrt_rtx", b"ftrt": "tensorrt"}
_HEADER_BYTES = 64
RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""Bit 0 of the header's mask and on. Bits above them are for GPUs that cannot be named to this version."""


@dataclass(frozen=True)
class Plan:
    """`version` and `capabilities` are None where the file does not tell."""

    flavour: str
    version: str | None = None
    capabilities: tuple[tuple[int, int], ...] | None = None
    hardware_compatibility: str = "none"


def read_plan(artifact: Artifact) -> Plan:
    """From the file's first bytes and its manifest. Raises ArtifactError for a file that is no plan, or no whole one."""
    path = artifact.path
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    flavour = _MAGIC.get(head[:4])
    if flavour is None:
        raise ArtifactError(f"{path} is no TensorRT plan: {_what_it_is(head, size)}.", "Build one with: iresnet-export trt")
    recorded = None if artifact.manifest is None else artifact.manifest.size_bytes
    told = int.from_bytes(head[16:24], "little") if flavour == "tensorrt_rtx" else recorded
    if len(head) < _HEADER_BYTES or (told is not None and told != size):
        raise ArtifactError(
            f"{path} is not a whole plan: it has {size:,} bytes"
            + ("" if told is None else f" of {told:,}")
            + ". It was cut off or added to while it was written or copied;",
            "copy or build it again.",
        )
    if flavour == "tensorrt_rtx":
        mask = int.from_bytes(head[32:36], "little")
        targets = tuple(capability for bit, capability in enumerate(RTX_CAPABILITIES) if mask >> bit & 1)
        return Plan(flavour, ".".join(str(part) for part in head[24:28]), targets)
    details = engine_details(artifact)
    major, _, minor = ("" if details.gpu is None else details.gpu.compute_capability).partition(".")
    built_for = ((int(major), int(minor)),) if major.isdigit() and minor.isdigit() else None
    return Plan(flavour, details.builder_version, built_for, details.settings.hardware_compatibility)


def engine_details(artifact: Artifact) -> EngineDetails:
    """What the manifest of an engine tells of it; of one without a manifest nothing."""
    from iresnet_export.artifacts.manifest import EngineDetails

    details = None if artifact.manifest is None else artifact.manifest.details
    return details if isinstance(details, EngineDetails) else EngineDetails()


def _what_it_is(head: bytes, size: int) -> str:
    if head[:4] == b"PK\x03\x04":
        return "it is a zip archive, as torch writes them (.pt, .ts, .pt2)"
    length = int.from_bytes(head[:4], "little")
    if head[4:5] == b"{" and 4 + length < size:
        return f"{length:,} bytes of JSON stand before it, as Ultralytics writes them; cut off the first {4 + length:,} bytes"
    if b"onnx" in head or b"iresnet-export" in head or head[:1] == b"\x08":
        return "it is an ONNX file"
    return f"it begins with {head[:4].hex(' ')}"
