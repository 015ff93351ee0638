"""A headless Chromium, steered by its DevTools protocol: as little of it as the tests of pages need."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import websocket

_START_SECONDS, _ANSWER_SECONDS = 30.0, 30.0


def chromium() -> str | None:
    """The program, if there is one."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Page:
    """The browser's one tab. `console`: what its console was told, exceptions included; `requests`: what it asked for."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=_ANSWER_SECONDS, suppress_origin=True)
        self._number = 0
        self.console: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events that come before it are taken down."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, message
                answer: dict[str, Any] = message["result"]
                return answer
            self._take_down(message)

    def open(self, file: Path, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Opens a file in a window of this width, on a phone where that is narrow."""
        self.console.clear()
        self.requests.clear()
        narrow = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=narrow)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=file.resolve().as_uri())
        deadline = time.monotonic() + _ANSWER_SECONDS
        while self.evaluate("document.readyState") != "complete" or self.evaluate("location.href") == "about:blank":
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON has it."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def close(self) -> None:
        self._socket.close()

    def _take_down(self, message: dict[str, Any]) -> None:
        method, found = message.get("method"), message.get("params", {})
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.console.append(json.dumps(found))
        elif method == "Log.entryAdded":
            self.console.append(found["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"])


@contextmanager
def browser() -> Iterator[Page]:
    """Starts Chromium with a profile of its own, and ends it."""
    program = chromium()
    assert program is not None
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # No sandbox: containers that run tests as root have none. The pages are the tests' own.
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        arguments += ["--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        page = None
        try:
            page = Page(_address(Path(profile) / "DevToolsActivePort", process))
            yield page
        finally:
            if page is not None:
                page.close()
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _address(announced: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "Chromium ended at once"
        text = announced.read_text() if announced.exists() else ""
        if "\n" in text:
            with urllib.request.urlopen(f"http://127.0.0.1:{text.splitlines()[0]}/json/list", timeout=_ANSWER_SECONDS) as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            if pages:
                address: str = pages[0]["webSocketDebuggerUrl"]
                return address
        time.sleep(0.05)
    raise AssertionError("Chromium did not open its DevTools port")
