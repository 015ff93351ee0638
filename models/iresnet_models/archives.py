"""What a file is by its first bytes and the names in it, and zip archives as torch writes them: read as data, within bounds.

Nothing is loaded, and nothing unpacked to disk.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from iresnet_models.errors import ArtifactError, named_line

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

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a way of compressing or a version of zip that Python has not
    RecursionError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
)
"""What the standard library raises for a zip that is not whole, and whoever reads its records."""

_DIRECTORY_BYTES = 8 << 20
"""Of the list of records, each of which takes about a hundred: a network of a thousand layers has a twentieth of that."""
_COMPRESSED_BYTES = 256 << 20
"""Of all records that are compressed, when unpacked. torch compresses code alone; weights lie in the file as they are."""
_TEXT_BYTES = 64 << 20
"""Of one record of text that is read whole."""
_CHUNK_BYTES = 1 << 20


class Archive:
    """The records of an archive by their names in it; each name stands once, and lies below the archive's own folder."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path, self._file = path, file
        self._records = {record.filename: record for record in file.infolist()}
        self._below = {name.partition("/")[2]: name for name in self._records}

    @property
    def names(self) -> list[str]:
        return list(self._records)

    def named(self, name: str) -> str | None:
        """The whole name of the record of that name below whatever folder the archive has at its top."""
        return self._below.get(name)

    @property
    def is_compressed(self) -> bool:
        """Whether any record is."""
        return any(record.compress_type != zipfile.ZIP_STORED for record in self._records.values())

    def size(self, name: str) -> int:
        """Of a record, in bytes."""
        return self._records[name].file_size

    def read(self, name: str, limit: int = _TEXT_BYTES) -> bytes:
        """A record whole; ArtifactError where it has more than `limit` bytes or is damaged."""
        size = self.size(name)
        if size > limit:
            raise ArtifactError(f"{self._path} holds a record {_shown(name)} of {size:,} bytes, where {limit:,} are ample.")
        with self._file.open(name) as record:
            data = record.read(size)  # without a number, a record that unpacks to more than it says is unpacked first
        if len(data) != size:
            raise EOFError(f"{_shown(name)} ends early")
        return data

    def parsed(self, name: str) -> Any:
        """The JSON of a record; ValueError or RecursionError where it is none."""
        return json.loads(self.read(name))

    def require_whole(self) -> None:
        """Reads every record and holds it against its checksum."""
        for name in self._records:
            with self._file.open(name) as record:
                while record.read(_CHUNK_BYTES):
                    pass


def is_archive(path: Path) -> bool:
    """Whether a file begins as torch's archives do."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as those of safetensors do: with a length, and JSON of that length."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**32


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """An archive to read from. ArtifactError where it is damaged, takes more memory than is sensible, or is no proper archive.

    So it is for whatever goes wrong inside the `with`, as long as it is the archive's doing.
    """
    try:
        with path.open("rb") as file:
            _require_short_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                _require_proper(path, archive.infolist(), path.stat().st_size)
                yield Archive(path, archive)
    except ArtifactError:
        raise
    except _DAMAGED as error:
        what = f"{path} is not a whole archive of torch ({named_line(error):.200})."
        raise ArtifactError(what, "Make or copy it again.") from error


def require_whole(path: Path) -> None:
    """ArtifactError unless every record of an archive is what its checksum says: torch itself does not look, and may crash."""
    with opened(path) as archive:
        archive.require_whole()


def _require_short_directory(path: Path, file: IO[bytes]) -> None:
    """Before the list of records is parsed, which takes ten times its size in memory."""
    # The module's own function: another reading of the same bytes could find another size than is then parsed.
    found = zipfile._EndRecData(file)  # type: ignore[attr-defined]
    if not found:
        raise ArtifactError(
            f"{path} is an archive without its end: it was cut off while it was written or copied.", "Get it again."
        )
    size = found[zipfile._ECD_SIZE]  # type: ignore[attr-defined]
    if size > _DIRECTORY_BYTES:
        raise ArtifactError(
            f"{path} holds a list of records of {size:,} bytes, where {_DIRECTORY_BYTES:,} are ample.", "Get it again."
        )


def _require_proper(path: Path, records: list[zipfile.ZipInfo], size: int) -> None:
    """That no record is named twice or leads out of the archive, is encrypted, or shares its bytes with another one."""

    def refuse(what: str) -> ArtifactError:
        return ArtifactError(f"{path} is no archive that torch wrote: {what}.", "Get it again from where it was made.")

    names: set[str] = set()
    unpacked = 0
    for record in records:
        name = record.filename
        if name in names:
            raise refuse(f"it holds {_shown(name)} twice")
        names.add(name)
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name.partition("/")[0]:
            raise refuse(f"its record {_shown(name)} leads out of it")
        if record.flag_bits & 0x1:
            raise refuse(f"its record {_shown(name)} is encrypted")
        if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refuse(f"its record {_shown(name)} is compressed in an unusual way")
        if record.compress_type == zipfile.ZIP_STORED and record.file_size != record.compress_size:
            raise refuse(f"its record {_shown(name)} has two sizes")
        if record.compress_type == zipfile.ZIP_DEFLATED:
            unpacked += record.file_size
    if sum(record.compress_size for record in records) > size:
        raise refuse("its records take more bytes than it has")
    if unpacked > _COMPRESSED_BYTES:
        raise refuse(f"it would be {unpacked:,} bytes more when unpacked")


def _shown(name: str) -> str:
    return repr(name[:80])


def what_it_is(path: Path) -> str | None:
    """Of a file that is whole, but of another recipe than torch's, what it is; None where nothing says so."""
    with path.open("rb") as file:
        head = file.read(512)
    found = next((said for magic, said in _MAGIC.items() if head.startswith(magic)), None)
    if found is not None:
        return found
    if head.startswith(b"PK"):
        return _of_names(_names_in(path))
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model"
    if re.match(rb"\s*(<!doctype|<html|<\?xml)", head, re.IGNORECASE):
        return WEB_PAGE
    if re.match(rb"\s*[{\[]", head):
        return "a JSON file"
    if re.match(rb"\x08[\x01-\x14]\x12", head):
        return "an ONNX file"
    if re.match(rb"[\x20-\x7e\s]+\Z", head):
        return "a text file"
    return None


def _names_in(path: Path) -> list[str]:
    """Of a zip archive that anybody wrote; none where its directory is damaged, or longer than is sensible."""
    try:
        with path.open("rb") as file:
            _require_short_directory(path, file)
            with zipfile.ZipFile(file) as archive:
                return archive.namelist()
    except _DAMAGED:  # ArtifactError is one of them
        return []


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
