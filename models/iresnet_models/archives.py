"""What a file is by its first bytes and the names in it, read as data: nothing is loaded."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from pathlib import Path

DAMAGED_ZIP = (
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    OverflowError,
    EOFError,
    IndexError,
    RuntimeError,
    OSError,
    struct.error,
    zlib.error,
)
"""What the standard library raises for a zip whose directory is not whole."""

WEB_PAGE = "a web page, which a download gave in its place"
LFS_POINTER = "a Git LFS pointer, which stands for a file that was not downloaded (git lfs pull does)"

_MAGIC = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes them",
    b"\x93NUMPY": "an array of NumPy",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\xfd7zXZ": "an xz archive",
    b"vtrt": "a TensorRT engine",
    b"ftrt": "a TensorRT engine",
    b"version https://git-lfs": LFS_POINTER,
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"\xff\xd8\xff": "an image",
    b"\x89PNG": "an image",
}


def zip_entries(path: Path) -> list[zipfile.ZipInfo] | None:
    """The entries of a zip archive; None for a file that is none, or whose directory is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except DAMAGED_ZIP:
        return None


def what_it_is(path: Path) -> str | None:
    """Of a file that is whole, but of another recipe than torch's, what it is; None where nothing says so."""
    with path.open("rb") as file:
        head = file.read(512)
    found = next((said for magic, said in _MAGIC.items() if head.startswith(magic)), None)
    if found is not None:
        return found
    if head.startswith(b"PK"):
        return _of_names([entry.filename for entry in zip_entries(path) or []])
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 0 < length < path.stat().st_size:
        return "a safetensors file"
    if re.match(rb"\s*(<!doctype|<html|<\?xml)", head, re.IGNORECASE):
        return WEB_PAGE
    if re.match(rb"\s*[{\[]", head):
        return "a JSON file"
    if re.match(rb"\x08[\x01-\x14]\x12", head):
        return "an ONNX file"
    if re.match(rb"[\x20-\x7e\s]+\Z", head):
        return "a text file"
    return None


def _of_names(names: list[str]) -> str | None:
    if not names:
        return None
    if "model.weights.h5" in names:
        return "a Keras model"
    if all(name.endswith(".npy") for name in names):
        return "an archive of NumPy's arrays (.npz)"
    if any("saved_model.pb" in name for name in names):
        return "a TensorFlow model"
    if any(name.endswith("/archive_format") for name in names):
        return "a torch.export program"
    if not any(name.endswith("data.pkl") for name in names):
        return f"a zip archive of {len(names)} other files (the first is {names[0]!a:.80})"
    return None
