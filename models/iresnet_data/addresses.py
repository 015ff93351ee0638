"""What lies at an address that a user typed: an object store's, by fsspec, or a web server's, by Python itself.

Nothing else is opened: no address in a file, no list of links in a page, no chain of file systems.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj
from typing import Any
from urllib.parse import unquote, urlsplit

from iresnet_models.errors import InputError, IResNetError, UnavailableError, first_line
from iresnet_models.image_files import printable

TIMEOUT = 60.0
"""Seconds without a byte, or for the whole of an image where the file system can be told so."""

_WEB = ("http", "https")
_REFUSED = ("reference", "generic", "dir", "cached", "blockcache", "filecache", "simplecache")
"""Protocols of fsspec that open what a file names, or what another address does."""


def is_address(text: str) -> bool:
    """Whether it begins with a protocol, as in s3://bucket/photo.jpg."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def shown(text: str) -> str:
    """An address as reports and messages may hold it: without user and password, and without a signature or other query."""
    if not is_address(text):
        return printable(text)
    protocol, _, rest = text.partition("://")
    place, slash, path = rest.partition("/")
    if "@" in path and ":" in place and re.search(r"(@|:[0-9]*$|\]$)", place) is None:  # a password with a `/`
        place, slash, path = rest.rpartition("@")[2].partition("/")
    if protocol.lower() in _WEB:
        place, path = re.split("[?#]", place)[0], re.split("[?#]", path)[0]
    return printable(f"{protocol}://{place.rpartition('@')[2]}{slash}{path}")


def listed(address: str) -> list[str]:
    """The addresses that one with `*`, `?` or `[` stands for, or one that ends in `/`, sorted; of any other itself, unasked.

    Raises InputError for what cannot be listed, UnavailableError where the store cannot be reached or its package is not here.
    """
    protocol, path = _parted(address)
    is_folder, is_pattern = path.endswith("/"), any(sign in path for sign in "*?[")
    if protocol in _WEB:
        if is_folder or "*" in urlsplit(address).path:
            raise InputError(f"{shown(address)} stands for many files, and web servers list none:", "name each.")
        return [address]
    if not is_folder and not is_pattern:
        _system(address)
        return [address]
    system, root = _system(address)
    with _reaching(address):
        if is_folder:
            return sorted(address[:-1] + name[len(root.rstrip("/")) :] for name in system.find(root))
        before = len(_fixed(root))
        return sorted(_fixed(address) + name[before:] for name in system.glob(root) if not system.isdir(name))


def content_of(address: str, most: int) -> bytes:
    """What lies there; InputError, as for an image file that cannot be read, where there is nothing, or more than so many bytes."""
    try:
        content = _read(address, most)
    except MemoryError:
        raise
    except IResNetError as error:
        raise InputError(f"The image {shown(address)} cannot be read ({error.reason}). Remove it or replace it.") from error
    except Exception as error:  # every file system raises errors of its own
        raise InputError(f"The image {shown(address)} cannot be read ({reason_of(error)}). Remove it or replace it.") from error
    if len(content) > most:
        raise InputError(f"The image {shown(address)} cannot be read (it has more than {most:,} bytes). Remove it or replace it.")
    return content


def copied(address: str, path: Path) -> None:
    """Writes what lies there to a file; UnavailableError where it cannot be fetched whole."""
    with _reaching(address), path.open("wb") as file:
        if _parted(address)[0] not in _WEB:
            system, root = _system(address)
            with system.open(root, "rb") as found:
                copyfileobj(found, file)
            return
        with _opened(address) as response:
            copyfileobj(response, file)
            length = response.headers.get("Content-Length")
            if length is not None and length.strip() != str(file.tell()):  # a connection that breaks off looks like the end
                raise ConnectionError(f"{file.tell()} of {length} bytes came")


def reason_of(error: Exception) -> str:
    """In one line, without a user, a password or a signature that a library has put into its message."""
    said = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
    said = re.sub(r"(\w+://)[^/@\s]*@", r"\1", said)
    return printable(re.sub(r"(https?://[^\s?'\"]*|(?<=')/[^?']*)\?[^\s'\"]*", r"\1", said))


def _parted(address: str) -> tuple[str, str]:
    protocol, _, path = address.partition("://")
    protocol = protocol.lower()
    if protocol in _WEB:
        try:
            parts = urlsplit(address)
            try:
                port = parts.port
            except ValueError:  # whose message holds what may be a password with a `/`
                raise ValueError("its port is no number from 1 to 65535") from None
            if not parts.hostname or port == 0:
                raise ValueError("it names no server")
        except ValueError as error:
            raise InputError(f"{shown(address)} is no address ({reason_of(error)});", "check it.") from error
    elif "::" in address or protocol in _REFUSED:
        raise InputError(f"{shown(address)} opens one file by another:", "name the images themselves, or a shard.")
    return protocol, path


def _read(address: str, most: int) -> bytes:
    if _parted(address)[0] in _WEB:
        with _opened(address) as response:
            content: bytes = response.read(most + 1)
            length = response.headers.get("Content-Length", "").strip()
            if len(content) <= most and length.isdecimal() and len(content) < int(length):
                raise ConnectionError(f"{len(content)} of {length} bytes came")
            return content
    system, root = _system(address)
    if getattr(system, "async_impl", False):
        from fsspec.asyn import sync

        return bytes(sync(system.loop, system._cat_file, root, start=0, end=most + 1, timeout=TIMEOUT))
    with system.open(root, "rb") as file:
        return bytes(file.read(most + 1))


def _opened(address: str) -> Any:
    """A web server's answer. What stands before an `@` is sent to that server alone, and not to where it leads on."""
    import urllib.request

    parts = urlsplit(address)
    user, at, place = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=place, fragment="").geturl())
    if at:
        token = base64.b64encode(":".join(map(unquote, user.split(":", 1))).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    opener = urllib.request.OpenerDirector()
    for handler in ("Proxy", "Unknown", "HTTP", "HTTPS", "HTTPDefaultError", "HTTPRedirect"):  # no FTP, to which a server may lead
        opener.add_handler(getattr(urllib.request, f"{handler}Handler")())
    opener.add_handler(urllib.request.HTTPErrorProcessor())
    return opener.open(request, timeout=TIMEOUT)


def _system(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the place in it."""
    import fsspec
    from fsspec.registry import known_implementations

    protocol, _ = _parted(address)
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        told = known_implementations.get(protocol, {}).get("err", first_line(error))
        raise UnavailableError(f"{shown(address)} needs a package that is not here.", f"{told}.") from error
    except ValueError as error:
        if "not known" not in str(error):
            raise InputError(f"{shown(address)} is no address ({reason_of(error)});", "check it.") from error
        some = "s3 (package s3fs), gs (gcsfs), az (adlfs), hf (huggingface_hub), sftp (paramiko), http and https"
        raise InputError(
            f"{shown(address)} is no address: fsspec knows no protocol {protocol[:40]!r}.", f"It reads {some} and others."
        ) from error
    return system, str(root)


def _fixed(pattern: str) -> str:
    """What stands before the first part of a path that stands for several: the same in an address and in its file system's path."""
    before = re.split(r"[*?[]", pattern, maxsplit=1)[0]
    return before[: before.rindex("/") + 1]


@contextmanager
def _reaching(address: str) -> Iterator[None]:
    """Makes an UnavailableError of whatever a file system raises where it cannot be reached, or has not what is asked for."""
    try:
        yield
    except (IResNetError, MemoryError):
        raise
    except Exception as error:
        raise UnavailableError(f"{shown(address)} cannot be fetched ({reason_of(error)}).", "Check address and network.") from error
