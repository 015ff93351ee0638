"""The checkpoints that the networks' authors published: downloaded once, checked, then read from a cache.

A download goes to `<arch><depth>.pth.download` and takes its final name when it has passed the check, so a file that
did not pass is never read. A file without a record was put there by hand: it is checked, then recorded.
"""

from __future__ import annotations

import errno
import html
import math
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from iresnet_models.cache import CACHE_VARIABLE, cache_folder
from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.errors import CheckpointError, InputError, IResNetError, UnavailableError, first_line, named_line
from iresnet_models.files import read_json, require_file, sha256_of, write_json
from iresnet_models.recognition import shapes_of
from iresnet_models.spec import OFFICIAL_WEIGHTS, ModelSpec

_RETRIES = 3
_TIMEOUT = (15.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""


def download_official(arch: str, depth: int, *, cache: Path | None = None, quiet: bool = False) -> Path:
    """The official checkpoint of a network: a file `<arch><depth>.pth` in the folder `cache` (default: `cache_folder`).

    It is downloaded from the authors' Google Drive the first time; a download that broke off is continued by the next call.
    Its record `<arch><depth>.pth.json` holds `sha256`, `size_bytes`, `source` (the address) and `downloaded` (time, UTC); the
    last two are null for a file that was put there by hand. A cached file is compared with its record at every call.
    Progress is shown on stderr if that is a terminal and `quiet` is false.

    Raises InputError for a network that was not published or a folder that cannot be written, UnavailableError if the
    download fails or the disk is full, and CheckpointError for a file that is not this network's weights (a download is
    then removed, a file put there by hand renamed to `<arch><depth>.pth.rejected`) or differs from its record (it is
    left alone).
    """
    spec = ModelSpec(arch, depth)
    place = _Place(spec, published_id(spec), Path(cache or cache_folder()).expanduser().absolute() / f"{spec.name}.pth")
    if not _in_cache(place):
        with _alone(place):
            if not _in_cache(place):  # another process may have been downloading it
                _bring(place, quiet=quiet or sys.stderr is None or not sys.stderr.isatty())
    return place.file


@dataclass(frozen=True)
class _Place:
    """A published checkpoint: what it is, where it comes from, and its files in the cache."""

    spec: ModelSpec
    drive_id: str
    file: Path

    @property
    def address(self) -> str:
        return f"https://drive.google.com/file/d/{self.drive_id}/view"

    @property
    def record(self) -> Path:
        return self.file.with_name(f"{self.file.name}.json")

    @property
    def unchecked(self) -> Path:
        """A whole download that was not checked yet."""
        return self.file.with_name(f"{self.file.name}.download")

    @property
    def rejected(self) -> Path:
        return self.file.with_name(f"{self.file.name}.rejected")

    def partials(self) -> list[Path]:
        """What gdown left of broken downloads (it names them so), the largest first."""
        found = self.file.parent.glob(f"{self.unchecked.name}????????.part")
        return sorted(found, key=lambda partial: partial.stat().st_size, reverse=True)

    def received(self) -> int:
        """Bytes that the next download need not fetch again."""
        return max((partial.stat().st_size for partial in self.partials()), default=0)


def published_id(spec: ModelSpec) -> str:
    """The Google Drive id of a network's checkpoint; InputError, which lists depths, for one that was not published."""
    if (spec.arch, spec.depth) not in OFFICIAL_WEIGHTS:
        depths = ", ".join(str(depth) for arch, depth in OFFICIAL_WEIGHTS if arch == spec.arch)
        raise InputError(
            f"The authors published no weights of {spec.name}; of {spec.arch} they published depths {depths}.",
            "Choose one of these, or give weights of your own with --checkpoint.",
        )
    return OFFICIAL_WEIGHTS[spec.arch, spec.depth]


def _in_cache(place: _Place) -> bool:
    """Whether the file is there and was checked; CheckpointError if it is no longer the file that was."""
    if not (place.file.exists() and place.record.exists()):
        return False
    if (difference := _difference(place)) is not None:
        raise CheckpointError(
            f"The cached checkpoint {place.file} is not the file that was checked: {difference}. It was damaged or exchanged.",
            "Delete it, and the next run downloads it again; if you put it there yourself, delete only "
            f"{place.record.name} beside it, and the next run checks it anew.",
        )
    return True


def _difference(place: _Place) -> str | None:
    """How the cached file differs from its record; None if it does not."""
    try:
        record = read_json(place.record, "The record")
        size, sha256 = record["size_bytes"], record["sha256"]
    except (InputError, KeyError, TypeError):
        return f"its record {place.record.name} cannot be read"
    found = place.file.stat().st_size
    if found != size:
        return f"it has {found} bytes, and {size} were recorded"
    digest = sha256_of(require_file(place.file, "The cached checkpoint"))
    return None if digest == sha256 else f"its SHA-256 is {digest}, and {sha256} was recorded"


@contextmanager
def _alone(place: _Place) -> Iterator[None]:
    """Keeps other processes from downloading the same file, which would mix their bytes; makes its folder."""
    from filelock import FileLock

    try:
        place.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.file.with_name(f".{place.file.name}.lock")):
            yield
    except OSError as error:
        raise _unwritable(place, error) from error


def _bring(place: _Place, *, quiet: bool) -> None:
    """Makes a checked and recorded file of what is there, or of a download."""
    if place.file.exists():
        _accept_by_hand(place)
    else:
        if not place.unchecked.exists():
            _download(place, quiet=quiet)
        _accept_download(place)
    for leftover in (place.unchecked, *place.partials()):
        leftover.unlink(missing_ok=True)


def _accept_by_hand(place: _Place) -> None:
    try:
        sha256 = _checked(place.spec, place.file)
    except InputError as error:
        os.replace(place.file, place.rejected)
        raise CheckpointError(
            f"The file that was put into the cache by hand is not the official {place.spec.name}: {error} It was renamed to "
            f"{place.rejected.name}.",
            f"Save the file behind {place.address} as {place.file}, or leave that to the next run.",
        ) from error
    _write_record(place, place.file, sha256, source=None, downloaded=None)


def _accept_download(place: _Place) -> None:
    try:
        sha256 = _checked(place.spec, place.unchecked)
    except InputError as error:
        place.unchecked.unlink()
        raise CheckpointError(
            f"What was downloaded from {place.address} is not the official {place.spec.name}, and was removed: {error}",
            f"Try again later, or open the address in a browser and save the file as {place.file}.",
        ) from error
    # The record goes first: the file is never there without it, which would pass for one put there by hand.
    now = datetime.now(UTC).isoformat(timespec="seconds")
    _write_record(place, place.unchecked, sha256, source=place.address, downloaded=now)
    place.unchecked.chmod(stat.S_IMODE(place.record.stat().st_mode))  # gdown's files are closed to other users
    with place.unchecked.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(place.unchecked, place.file)


def _checked(spec: ModelSpec, path: Path) -> str:
    """SHA-256 of a file; InputError if it is anything but the published weights of `spec`."""
    size = require_file(path, "The file").stat().st_size
    least = 4 * sum(math.prod(shape) for key, shape in shapes_of(spec).items() if not key.endswith("num_batches_tracked"))
    if size < least:
        kind = "a web page" if _is_web_page(path) else "cut off, or another file"
        raise CheckpointError(f"{path} has {size} bytes, and the weights alone take {least}; it is {kind}.")
    try:
        found = load_checkpoint(path, arch=spec.arch, depth=spec.depth, num_classes=spec.num_classes)
    except CheckpointError as error:
        # What to do about options does not help here: the network's name is what was asked for.
        raise CheckpointError(f"{error.reason}.") from error
    if found.spec != spec:
        raise CheckpointError(f"{path} is a checkpoint of {spec.name} that was trained for other data.")
    return found.sha256


def _is_web_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1024).lstrip().startswith(b"<")


def _write_record(place: _Place, path: Path, sha256: str, *, source: str | None, downloaded: str | None) -> None:
    size = path.stat().st_size
    write_json(place.record, {"sha256": sha256, "size_bytes": size, "source": source, "downloaded": downloaded})


def _download(place: _Place, *, quiet: bool) -> None:
    """Downloads to `place.unchecked`, going on from where an earlier download broke off."""
    for partial in place.partials()[1:]:  # gdown goes on only from a lone one
        partial.unlink()
    before = place.received()
    try:
        _fetch(place, resume=True, quiet=quiet)
    except UnavailableError as error:
        if not (before and before == place.received() and _is_refusal(error.__cause__)):
            raise
        _fetch(place, resume=False, quiet=quiet)


def _fetch(place: _Place, *, resume: bool, quiet: bool) -> None:
    import gdown

    try:
        gdown.download(
            id=place.drive_id,
            output=str(place.unchecked),
            quiet=quiet,
            use_cookies=False,
            resume=resume,
            retries=_RETRIES,
            timeout=_TIMEOUT,
            log_messages={"start": f"Downloading the official {place.spec.name}\n", "output": f"To: {place.file}\n"},
        )
    except Exception as error:  # a page that gdown does not know makes it stumble in many ways
        if _is_local(error):
            raise
        raise _unavailable(place, error) from error


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the server will not go on from the bytes that are here: they are all there is, or the file changed."""
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    return isinstance(error, DownloadError) and not isinstance(error, FileURLRetrievalError) and error.__cause__ is None


def _is_local(error: Exception) -> bool:
    """Whether it is the disk that failed, and not the network, whose errors are OSErrors too."""
    from requests.exceptions import RequestException

    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, RequestException)


def _unavailable(place: _Place, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"The official {place.spec.name} could not be downloaded: {_reason(error)}.",
        f"Check the connection and run the command again"
        f"{_kept(place)}; or open {place.address} in a browser and save the file as {place.file}.",
    )


def _unwritable(place: _Place, error: OSError) -> IResNetError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnavailableError(
            f"The disk is full: the official {place.spec.name} could not be written to {place.file.parent} ({error}).",
            f"Free some space and run the command again{_kept(place)}, or name another folder in {CACHE_VARIABLE}.",
        )
    return InputError(
        f"The official {place.spec.name} cannot be kept in {place.file.parent} ({error}).",
        f"Change the folder's permissions, or name another folder in {CACHE_VARIABLE}.",
    )


def _kept(place: _Place) -> str:
    received = place.received()
    return f" (the {received} bytes received so far are kept, and the download goes on from there)" if received else ""


def _reason(error: Exception) -> str:
    """gdown's or the vendor's reason in one sentence, without gdown's own advice."""
    from gdown.exceptions import DownloadError, FileURLRetrievalError

    if isinstance(error, FileURLRetrievalError) and isinstance(error.__context__, FileURLRetrievalError):
        error = error.__context__  # what the page said, which gdown wraps into several paragraphs
    return html.unescape(first_line(error) if isinstance(error, (DownloadError, OSError)) else named_line(error)).rstrip(".")
