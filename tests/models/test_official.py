"""Official checkpoints, from a server on this machine that behaves like Google Drive."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import gdown
import platformdirs
import pytest
import requests
import torch

from iresnet_models import ModelSpec, build_model, official, save_checkpoint, spec
from iresnet_models.cache import cache_folder
from iresnet_models.errors import CheckpointError, InputError, IResNetError, UnavailableError
from iresnet_models.initialization import untrained_network
from iresnet_models.network import network_from_spec
from iresnet_models.official import download_official

SPEC = ModelSpec("iresnet", 18)  # not published; its file is small
ADDRESS = "https://drive.google.com/file/d/testid/view"
MEBI = 1 << 20

# The page's form as Google Drive writes it: on one line, with its answers in hidden fields.
CONFIRMATION = (
    "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<p class="uc-warning-caption">Google Drive can&#39;t scan this file for viruses.</p>'
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="submit" id="uc-download-link" class="goog-inline-block" value="Download anyway"/>'
    '<input type="hidden" name="id" value="testid"><input type="hidden" name="export" value="download">'
    '<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="0a1b"></form></body></html>'
)
QUOTA = (
    "<html><head><title>Google Drive - Quota exceeded</title></head>\n<body>"
    '<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>\n'
    '<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently. If you still can&#39;t '
    "access a file after 24 hours, contact your domain administrator.</p></body></html>"
)


@dataclass
class Drive:
    """What the server has and does, and what it was asked: (host and path, Range header or None)."""

    body: bytes
    page: str | None = None
    status: int = 200
    content_type: str | None = "text/html; charset=utf-8"
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off."""
    silent: Event | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    @property
    def bodies(self) -> list[str | None]:
        """Range headers of the requests for the file itself."""
        return [range_ for where, range_ in self.asked if where == "drive.usercontent.google.com/download confirmed"]


class Handler(BaseHTTPRequestHandler):
    drive: ClassVar[Drive]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts, drive = urlsplit(self.path), self.drive
        query = parse_qs(parts.query)
        confirmed = query.get("confirm") == ["t"] and query.get("uuid") == ["0a1b"]
        where = f"{self.headers['Host']}{parts.path}"
        drive.asked.append((f"{where} confirmed" if confirmed else where, self.headers["Range"]))
        if drive.silent is not None:
            drive.silent.wait(10)
        elif drive.page is not None:
            self._html(drive.status, drive.page)
        elif query.get("id") != ["testid"]:
            self._html(404, "<html>Sorry, the file you have requested does not exist.</html>")
        elif where == "drive.google.com/uc":
            self.send_response(303)
            self.send_header("Location", "https://drive.usercontent.google.com/download?id=testid&export=download")
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
        elif not confirmed:
            self._html(200, CONFIRMATION)
        else:
            self._file()

    def _html(self, status: int, page: str) -> None:
        self.send_response(status)
        if self.drive.content_type is not None:
            self.send_header("Content-Type", self.drive.content_type)
        self.end_headers()
        self.wfile.write(page.encode())

    def _file(self) -> None:
        drive, total = self.drive, len(self.drive.body)
        asked = self.headers["Range"] if drive.ranges else None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Disposition", 'attachment; filename="iresnet.pth"')
        self.send_header("Content-Length", str(total - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Fri, 10 Apr 2020 08:00:00 GMT")
        self.end_headers()
        end = start + drive.breaks.pop(0) if drive.breaks else total
        try:
            self.wfile.write(memoryview(drive.body)[start:end])
        except ConnectionError:  # the client goes on elsewhere
            self.close_connection = True


def saved(state: dict[str, torch.Tensor]) -> bytes:
    """A bare state dict in PyTorch's format of 2020, which is that of the published files."""
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine torch's threads mostly wait for each other, over work as small as this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights() -> bytes:
    return saved(untrained_network(SPEC).state_dict())


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cache"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # pytest would keep a gigabyte of them


@pytest.fixture
def drive(weights: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Drive]:
    """Google Drive with one file; requests go to it through real sockets, and nowhere else."""
    state = Drive(weights)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHandler", (Handler,), {"drive": state}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    strangers: list[str] = []
    send = requests.adapters.HTTPAdapter.send

    def routed(self: Any, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        parts = urlsplit(str(request.url))
        if parts.scheme != "https" or parts.netloc not in ("drive.google.com", "drive.usercontent.google.com"):
            strangers.append(str(request.url))
        local = request.copy()
        local.url = f"http://127.0.0.1:{server.server_port}{parts.path}?{parts.query}"
        local.headers["Host"] = parts.netloc
        return send(self, local, **{**options, "proxies": {}})

    def stop() -> None:
        if thread.is_alive():
            server.shutdown()
            thread.join()
            server.server_close()

    state.stop = stop
    cookies = tmp_path / "cookies.txt"
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", routed)
    monkeypatch.setattr(sys.modules[gdown.download.__module__], "DEFAULT_COOKIES_FILE", str(cookies))
    monkeypatch.setattr("random.uniform", lambda low, high: low)  # no waiting between gdown's attempts
    monkeypatch.setitem(spec.OFFICIAL_WEIGHTS, ("iresnet", 18), "testid")
    yield state
    stop()
    assert not strangers
    assert not cookies.exists()


def get(cache: Path) -> Path:
    return download_official("iresnet", 18, cache=cache)


def names(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir() if not path.name.endswith(".lock")}


def fill(cache: Path, weights: bytes, *, record: bool) -> Path:
    """Puts a file into the cache, and its record."""
    cache.mkdir()
    path = cache / "iresnet18.pth"
    path.write_bytes(weights)
    if record:
        told = {"sha256": hashlib.sha256(weights).hexdigest(), "size_bytes": len(weights), "source": ADDRESS, "downloaded": None}
        (cache / "iresnet18.pth.json").write_text(json.dumps(told))
    return path


def partial(cache: Path) -> Path:
    (found,) = cache.glob("*.part")
    return found


def require_unavailable(error: IResNetError, cache: Path) -> str:
    """The message, which has to be one paragraph that says how to get the file by hand."""
    message = str(error)
    assert isinstance(error, UnavailableError)
    assert error.exit_status == 3
    assert ADDRESS in message
    assert str(cache / "iresnet18.pth") in message
    assert "\n" not in message
    assert "iresnet18.pth" not in names(cache)
    assert "iresnet18.pth.json" not in names(cache)
    return message


# Downloads


def test_it_is_downloaded_checked_and_recorded(
    drive: Drive, cache: Path, weights: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    path = get(cache)
    assert path == cache / "iresnet18.pth"
    assert path.read_bytes() == weights
    assert [where for where, _ in drive.asked] == [
        "drive.google.com/uc",
        "drive.usercontent.google.com/download",
        "drive.usercontent.google.com/download confirmed",
    ]
    record = json.loads((cache / "iresnet18.pth.json").read_text())
    assert record.keys() == {"sha256", "size_bytes", "source", "downloaded"}
    assert record["sha256"] == hashlib.sha256(weights).hexdigest()
    assert record["size_bytes"] == len(weights)
    assert record["source"] == ADDRESS
    time = datetime.fromisoformat(record["downloaded"])
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=5)
    assert names(cache) == {"iresnet18.pth", "iresnet18.pth.json"}
    other = cache / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode  # as readable to others as any file is
    assert capfd.readouterr() == ("", "")
    drive.stop()
    assert get(cache) == path


def test_the_second_call_uses_no_network(drive: Drive, cache: Path, weights: bytes) -> None:
    path = fill(cache, weights, record=True)
    assert get(cache) == path
    assert drive.asked == []


def test_a_download_that_breaks_off_is_continued(drive: Drive, cache: Path, weights: bytes) -> None:
    drive.breaks = [20 * MEBI]
    assert get(cache).read_bytes() == weights
    assert drive.bodies == [None, f"bytes={20 * MEBI}-"]


def test_the_next_call_continues_a_broken_download(drive: Drive, cache: Path, weights: bytes) -> None:
    drive.breaks = [4 * MEBI, *[2 * MEBI] * 99]
    with pytest.raises(UnavailableError) as caught:
        get(cache)
    kept = partial(cache).stat().st_size
    assert kept == (4 + 3 * 2) * MEBI
    assert partial(cache).read_bytes() == weights[:kept]
    assert f"the {kept} bytes received so far are kept" in require_unavailable(caught.value, cache)
    assert "--continue" not in str(caught.value)  # gdown's own option

    drive.breaks, drive.asked = [], []
    assert get(cache).read_bytes() == weights
    assert drive.bodies == [None, f"bytes={kept}-"]
    assert names(cache) == {"iresnet18.pth", "iresnet18.pth.json"}


def test_a_partial_download_that_is_whole_already_is_no_dead_end(drive: Drive, cache: Path, weights: bytes) -> None:
    cache.mkdir()
    (cache / "iresnet18.pth.downloadabcd1234.part").write_bytes(weights)
    assert get(cache).read_bytes() == weights
    assert names(cache) == {"iresnet18.pth", "iresnet18.pth.json"}


def test_the_larger_of_two_partial_downloads_is_continued(drive: Drive, cache: Path, weights: bytes) -> None:
    cache.mkdir()
    (cache / "iresnet18.pth.downloadabcd1234.part").write_bytes(weights[: 20 * MEBI])
    drive.ranges, drive.breaks = False, [MEBI] * 4
    with pytest.raises(UnavailableError, match=f"the {20 * MEBI} bytes") as caught:
        get(cache)
    require_unavailable(caught.value, cache)
    assert sorted(path.stat().st_size for path in cache.glob("*.part")) == [MEBI, 20 * MEBI]

    drive.ranges, drive.breaks, drive.asked = True, [], []
    assert get(cache).read_bytes() == weights
    assert drive.bodies == [None, f"bytes={20 * MEBI}-"]
    assert names(cache) == {"iresnet18.pth", "iresnet18.pth.json"}


def test_two_at_once_download_once(drive: Drive, cache: Path, weights: bytes) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(get, [cache, cache])
    assert first == second
    assert first.read_bytes() == weights
    assert drive.bodies == [None]
    assert json.loads((cache / "iresnet18.pth.json").read_text())["source"] == ADDRESS


def test_progress_is_shown_on_a_terminal_only(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    drive.body = b"<html>"
    for quiet in (False, True):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        with pytest.raises(CheckpointError):
            download_official("iresnet", 18, cache=tmp_path, quiet=quiet)
        shown = terminal.getvalue()
        assert ("iresnet18" in shown and "100%" in shown) is not quiet
        assert (shown == "") is quiet
    assert capfd.readouterr() == ("", "")


# What can go wrong


@pytest.mark.parametrize(
    ("page", "status", "content_type", "said"),
    [
        pytest.param(QUOTA, 200, "text/html", "Too many users have viewed .* you still can't access a file", id="quota"),
        pytest.param("<html>Error 404</html>", 404, "text/html", "public link", id="404"),
        pytest.param("Not found", 404, None, "KeyError: 'content-type'", id="404 without a type"),
        pytest.param("<html>Log in to the hotel's network</html>", 200, "text/html", "public link", id="portal"),
        pytest.param("<html>Error 503</html>", 503, "text/html", "public link", id="503"),
    ],
)
def test_a_page_instead_of_the_file(drive: Drive, cache: Path, page: str, status: int, content_type: str | None, said: str) -> None:
    drive.page, drive.status, drive.content_type = page, status, content_type
    with pytest.raises(UnavailableError, match=said) as caught:
        get(cache)
    message = require_unavailable(caught.value, cache)
    assert "kept" not in message
    assert names(cache) == set()


def test_offline(drive: Drive, cache: Path) -> None:
    drive.stop()
    with pytest.raises(UnavailableError, match="refused") as caught:
        get(cache)
    require_unavailable(caught.value, cache)
    assert isinstance(caught.value.__cause__, Exception)


def test_a_server_that_never_answers(drive: Drive, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "_TIMEOUT", (0.1, 0.1))
    drive.silent = Event()
    try:
        with pytest.raises(UnavailableError, match="timed out") as caught:
            get(cache)
    finally:
        drive.silent.set()
    require_unavailable(caught.value, cache)
    assert len(drive.asked) == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk(drive: Drive, cache: Path) -> None:
    cache.mkdir()
    (cache / "iresnet18.pth.downloadabcd1234.part").symlink_to("/dev/full")
    with pytest.raises(UnavailableError, match=r"disk is full.*No space left.*IRESNET_EXPORT_CACHE") as caught:
        get(cache)
    assert caught.value.exit_status == 3
    assert str(cache) in str(caught.value)


def test_a_cache_that_is_no_folder(drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="IRESNET_EXPORT_CACHE") as caught:
        get(tmp_path / "file")
    assert str(tmp_path / "file") in str(caught.value)
    assert drive.asked == []


def test_an_attached_web_page_is_refused(drive: Drive, cache: Path) -> None:
    drive.body = b"\n<!DOCTYPE html><html>" + b" " * MEBI
    with pytest.raises(CheckpointError, match="a web page") as caught:
        get(cache)
    assert ADDRESS in str(caught.value)
    assert str(cache / "iresnet18.pth") in str(caught.value)
    assert names(cache) == set()


@pytest.mark.parametrize(("cut", "said"), [(MEBI, "the weights alone take 46796448"), (8, "truncated")])
def test_a_truncated_file_is_refused(drive: Drive, cache: Path, weights: bytes, cut: int, said: str) -> None:
    drive.body = weights[:-cut]
    with pytest.raises(CheckpointError, match=said):
        get(cache)
    assert names(cache) == set()
    drive.body = b""
    with pytest.raises(CheckpointError, match="empty"):
        get(cache)
    assert names(cache) == set()


@pytest.mark.parametrize(
    ("arch", "classes", "said"), [("resnet", 1000, "holds resnet18 "), ("iresnet", 1001, "holds iresnet18 with 1001 classes")]
)
def test_the_weights_of_another_network_are_refused(drive: Drive, cache: Path, arch: str, classes: int, said: str) -> None:
    drive.body = saved(build_model(arch, 18, num_classes=classes).state_dict())
    with pytest.raises(CheckpointError, match=f"not the official iresnet18.*{said}") as caught:
        get(cache)
    assert "Leave out" not in str(caught.value)
    assert names(cache) == set()


def test_it_cannot_be_used_before_it_passed(drive: Drive, cache: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(official, "load_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            get(cache)
    assert "iresnet18.pth" not in names(cache)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            get(cache)
    assert "iresnet18.pth" not in names(cache)

    assert get(cache).read_bytes() == weights
    assert drive.bodies == [None]
    assert json.loads((cache / "iresnet18.pth.json").read_text())["source"] == ADDRESS
    assert names(cache) == {"iresnet18.pth", "iresnet18.pth.json"}


# The cache


def test_a_file_put_there_by_hand_is_checked_and_recorded(drive: Drive, cache: Path, weights: bytes) -> None:
    path = fill(cache, weights, record=False)
    (cache / "iresnet18.pth.downloadabcd1234.part").write_bytes(weights[:1000])
    assert get(cache) == path
    told = {"sha256": hashlib.sha256(weights).hexdigest(), "size_bytes": len(weights), "source": None, "downloaded": None}
    assert json.loads((cache / "iresnet18.pth.json").read_text()) == told
    assert names(cache) == {"iresnet18.pth", "iresnet18.pth.json"}
    assert get(cache) == path
    assert drive.asked == []


@pytest.mark.parametrize("kind", ["web page", "empty", "other data"])
def test_a_wrong_file_put_there_by_hand_is_set_aside(drive: Drive, cache: Path, kind: str) -> None:
    path = fill(cache, b"<html>" if kind == "web page" else b"", record=False)
    if kind == "other data":
        save_checkpoint(path, network_from_spec(SPEC.with_image_size(64)))
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"by hand is not the official iresnet18.*{kind}.*renamed") as caught:
        get(cache)
    assert ADDRESS in str(caught.value)
    assert str(path) in str(caught.value)
    assert names(cache) == {"iresnet18.pth.rejected"}
    assert (cache / "iresnet18.pth.rejected").read_bytes() == content
    assert drive.asked == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-1], r"it has \d+ bytes, and \d+ were recorded"),
        (lambda content: content[:MEBI] + bytes([content[MEBI] ^ 1]) + content[MEBI + 1 :], "its SHA-256 is"),
        (None, "its record iresnet18.pth.json cannot be read"),
    ],
    ids=["cut", "one bit", "record"],
)
def test_a_damaged_cached_file_is_noticed_and_left_alone(
    drive: Drive, cache: Path, weights: bytes, damage: Callable[[bytes], bytes] | None, said: str
) -> None:
    path = fill(cache, weights, record=True)
    if damage is None:
        (cache / "iresnet18.pth.json").write_text('{"sha256": ')
    else:
        path.write_bytes(damage(weights))
    content = path.read_bytes()
    with pytest.raises(CheckpointError, match=said) as caught:
        get(cache)
    assert str(path) in str(caught.value)
    assert "delete only iresnet18.pth.json" in str(caught.value)
    assert path.read_bytes() == content
    assert drive.asked == []


def test_a_damaged_file_is_replaced_once_it_is_deleted(drive: Drive, cache: Path, weights: bytes) -> None:
    path = fill(cache, b"another", record=True)
    path.unlink()
    assert get(cache).read_bytes() == weights
    assert json.loads((cache / "iresnet18.pth.json").read_text())["size_bytes"] == len(weights)


def test_the_cache_is_where_the_environment_says(
    drive: Drive, tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRESNET_EXPORT_CACHE", str(tmp_path / "elsewhere"))
    path = fill(tmp_path / "elsewhere", weights, record=True)
    assert download_official("iresnet", 18) == path
    monkeypatch.chdir(tmp_path)
    assert download_official("iresnet", 18, cache=Path("elsewhere")) == path
    for unset in (lambda: monkeypatch.setenv("IRESNET_EXPORT_CACHE", ""), lambda: monkeypatch.delenv("IRESNET_EXPORT_CACHE")):
        unset()
        assert cache_folder() == Path(platformdirs.user_cache_dir("iresnet-export"))


@pytest.mark.parametrize(
    ("arch", "depth", "said"),
    [
        ("iresnet", 1001, "no weights of iresnet1001; of iresnet .* 50, 101, 152, 200, 302, 404"),
        ("resnet", 18, "no weights of resnet18; of resnet .* 50, 101, 152, 200"),
        ("resnet", 302, "no resnet of depth 302"),
        ("vgg", 16, "no arch 'vgg'"),
    ],
)
def test_a_network_that_was_not_published(cache: Path, arch: str, depth: int, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        download_official(arch, depth, cache=cache)
    assert caught.value.exit_status == 2
    assert not cache.exists()
