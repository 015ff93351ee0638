"""What lies at addresses: read within bounds, named without passwords, and nothing that a file names."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from iresnet_data import addresses
from iresnet_data.addresses import content_of, copied, is_address, listed, reason_of, shown
from iresnet_models.errors import InputError, UnavailableError


@pytest.fixture
def store() -> Iterator[str]:
    """An object store of this process, with three files."""
    place = f"memory://{uuid4().hex}"
    memory = fsspec.filesystem("memory")
    for name in ("b.png", "a.png", "deep/c.png"):
        memory.pipe(f"{place}/{name}", name.encode())
    yield place
    memory.rm(place, recursive=True)


@pytest.fixture
def server() -> Iterator[str]:
    """A web server: what it is asked for; /private only with a password, /short breaks off, /away and /ftp lead on."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = self.headers.get("Authorization")
            allowed = not self.path.startswith("/private") or told == "Basic " + base64.b64encode(b"me:s@cret").decode()
            self.send_response(404 if "absent" in self.path else 302 if self.path in ("/away", "/ftp") else 200 if allowed else 401)
            self.send_header("Location", "/headers" if self.path == "/away" else "ftp://127.0.0.1:1/a.jpg")
            content = str(told).encode() if self.path == "/headers" else self.path.encode()
            self.send_header("Content-Length", str(len(content) + 10 * (self.path == "/short")))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_what_is_an_address() -> None:
    assert all(map(is_address, ("s3://b/a.jpg", "HTTPS://host/a", "memory://x", "s3+x://b")))
    assert not any(map(is_address, ("a.jpg", "c:/a.jpg", "c://a.jpg", "/a://b", "://x", "pipe:cat x", "3s://b")))


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("s3://key:secret@bucket/a b.jpg", "s3://bucket/a b.jpg"),
        ("https://me:p@ss@host:80/a.jpg?X-Signature=abc#x", "https://host:80/a.jpg"),
        ("https://host?token=abc", "https://host"),
        ("https://me:p/w@host:80/a.jpg", "https://host:80/a.jpg"),
        ("https://host:80/@me/a.jpg", "https://host:80/@me/a.jpg"),
        ("s3://bucket/what?.jpg", "s3://bucket/what?.jpg"),
        ("s3://bucket/me@home.jpg", "s3://bucket/me@home.jpg"),
        ("memory://a\x1b[2J", "memory://a\\x1b[2J"),
        ("photos/a?.jpg", "photos/a?.jpg"),
    ],
)
def test_what_is_secret_is_not_shown(address: str, name: str) -> None:
    assert shown(address) == name


def test_what_is_secret_is_not_shown_in_errors() -> None:
    said = "no route to https://me:secret@host/a.jpg?sig=abc (s3://key:secret@b)"
    assert reason_of(ValueError(said)) == "no route to https://host/a.jpg (s3://b)"
    for address in ("http://127.0.0.1:1/a b.jpg?sig=hidden", "http://me:hidden/w@host/a.jpg"):
        with pytest.raises(InputError) as raised:
            content_of(address, 100)
        assert "hidden" not in str(raised.value)


def test_patterns_and_folders_are_listed_in_order(store: str) -> None:
    assert listed(f"{store}/*.png") == [f"{store}/a.png", f"{store}/b.png"]
    assert listed(f"{store}/**/*.png")[-1] == f"{store}/deep/c.png"
    assert listed(f"{store}/*") == [f"{store}/a.png", f"{store}/b.png"], "a folder is no file"
    assert listed(f"{store}/") == [f"{store}/a.png", f"{store}/b.png", f"{store}/deep/c.png"]
    assert listed(f"{store}/absent.png") == [f"{store}/absent.png"], "it is not asked for yet"
    assert listed(f"{store}/*.jpg") == []


def test_no_more_is_read_than_is_allowed(store: str, server: str) -> None:
    assert content_of(f"{store}/a.png", 5) == b"a.png"
    assert content_of(f"http://{server}/a?x", 4) == b"/a?x"
    for address in (f"{store}/a.png", f"http://{server}/a?x"):
        with pytest.raises(InputError, match="it has more than 3 bytes"):
            content_of(address, 3)


def test_file_systems_that_wait_for_several_answers_are_given_a_time(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    slow = AsyncFileSystemWrapper(fsspec.filesystem("memory"), asynchronous=False)
    monkeypatch.setattr(addresses, "_system", lambda address: (slow, address))
    assert content_of(f"{store}/a.png", 5) == b"a.png"

    async def never(*_arguments: Any, **_options: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    monkeypatch.setattr(slow, "_cat_file", never)
    monkeypatch.setattr(addresses, "TIMEOUT", 0.05)
    with pytest.raises(InputError, match=r"memory://.*a\.png cannot be read"):
        content_of(f"{store}/a.png", 5)


def test_a_password_is_for_the_server_that_it_was_typed_for(server: str) -> None:
    assert content_of(f"http://me:s%40cret@{server}/private", 100) == b"/private"
    with pytest.raises(InputError, match=rf"http://{server}/private cannot be read \(HTTP Error 401"):
        content_of(f"http://me:wrong@{server}/private", 100)
    assert content_of(f"http://me:s%40cret@{server}/away", 100) == b"None", "not where it leads on"


def test_a_web_server_leads_to_no_other_protocol(server: str) -> None:
    with pytest.raises(InputError, match="unknown url type: ftp"):
        content_of(f"http://{server}/ftp", 100)


def test_what_is_not_there_or_breaks_off_is_named(store: str, server: str, tmp_path: Path) -> None:
    for address in (f"http://{server}/absent?sig=abc", f"http://{server}/short", f"{store}/absent.png", "http://127.0.0.1:1/a.jpg"):
        with pytest.raises(InputError, match="cannot be read") as raised:
            content_of(address, 100)
        assert "abc" not in str(raised.value)
        with pytest.raises(UnavailableError, match="cannot be fetched"):
            copied(address, tmp_path / "file")
    copied(f"{store}/a.png", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"a.png"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("what://x/a.jpg", "fsspec knows no protocol 'what'"),
        ("zip://a.jpg::s3://bucket/x.zip", "opens one file by another"),
        ("reference://x.json", "opens one file by another"),
        ("simplecache://x", "opens one file by another"),
        ("https://host/photos/*.jpg", "web servers list none"),
        ("https://host/photos/", "web servers list none"),
        ("http://[::1/a.jpg", "is no address"),
        ("http:///a.jpg", "it names no server"),
    ],
)
def test_what_is_no_address_or_leads_elsewhere_is_refused(address: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        listed(address)


def test_the_package_that_serves_an_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UnavailableError, match=r"s3://bucket/a\.jpg needs a package that is not here\. Install s3fs"):
        listed("s3://key:secret@bucket/a.jpg")
