"""A fault is injected here: a folder is made for it, the program runs in it, and what came of it is held against the rules."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

STUDIES = Path(__file__).parent
ROOT = STUDIES.parent
PROGRAM = os.environ.get("IRESNET_FAULTS_PROGRAM", f"{sys.executable} -m iresnet_export").split()
"""The installed program, where a case needs a fresh process."""

ACCEPTED = frozenset({0, 1, 2, 3})
"""Whatever a damaged thing may come to: it is read, found wanting, refused, or something is missing."""
REFUSED = frozenset({2})
MEMORY_MB = 3000
"""More than any of these small networks needs, and far less than a bomb takes."""
_ADDRESS_SPACE = 24 << 30
_IDLE = 20.0
"""Seconds without any work after which a command is taken to wait for ever."""
_DUMPS = (
    "Traceback (most recent call last)",
    "terminate called",
    "Segmentation fault",
    "Fatal Python error",
    "Exception ignored",
    "core dumped",
    "fault of iresnet-export",
    "Error in atexit",
    "never awaited",
    "leaked semaphore",
)
_WARNING = re.compile(r"site-packages\S*:\d+: \w*Warning")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Outcome:
    """What a run of the program left. `status` is negative where a signal ended it, None where it hung."""

    status: int | None
    out: str
    err: str
    seconds: float
    peak_mb: int

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Case:
    """One fault: what is laid out for it, the command that meets it, and how that has to end.

    `setup` prepares the folder that the command runs in; `outputs` are patterns of the files that it may write there, and `status`
    the exit statuses that are right. `says` is a pattern of what has to be said. `then` looks further, and gives what it finds
    wrong. `fresh`: the installed program starts anew, rather than as a fork of one that has imported everything.
    `signal` is sent after a share of the command's usual time (or, where `at` is "partial", while it writes).
    """

    name: str
    kind: str
    command: tuple[str, ...]
    setup: Callable[[Scene], object] = lambda scene: None
    status: frozenset[int] = REFUSED
    says: str | None = None
    outputs: tuple[str, ...] = ()
    then: Callable[[Scene, Outcome], list[str]] | None = None
    fresh: bool = False
    stdout: str = "file"
    env: dict[str, str | None] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    uid: int | None = None
    hidden: tuple[str, ...] = ()
    signal: int | None = None
    at: float | str = 0.0
    seconds: float = 60.0
    peak_mb: int = MEMORY_MB
    quick: bool = False
    """Whether it is soon over: the tests run some of these."""


class Canary:
    """A server that nothing has a reason to call."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.calls = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.calls += 1
            with contextlib.suppress(OSError), connection:
                connection.settimeout(1)
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


class Nursery:
    """The process that children are forked from; one at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), str(ROOT / "models"), str(ROOT / "train"), os.environ.get("PYTHONPATH", "")]
        )
        self._process = subprocess.Popen(
            [sys.executable, str(STUDIES / "fault_nursery.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            bufsize=1,
            errors="surrogateescape",
        )
        assert self._answer(300).get("ready")

    def run(self, request: dict[str, Any], seconds: float, watch: Callable[[int], None] | None) -> tuple[int | None, int]:
        """Exit status (None: it hung and was killed) and the most memory that it held, in MB."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid = self._answer(60)["pid"]
        if watch is not None:
            threading.Thread(target=watch, args=(pid,), daemon=True).start()
        idle_since, used, spent = time.monotonic(), 0.0, 0.0
        while True:
            try:
                ended = self._answer(0.5)
                return ended["status"], ended["peak_mb"]
            except TimeoutError:
                now = time.monotonic()
                spent = _processor_seconds(pid)
                if spent > used + 0.01:
                    idle_since, used = now, spent
                # By its own time, not the clock's, for the machine may be busy: it waits for what never comes, or goes round.
                if now - idle_since > _IDLE or spent > seconds:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                    return None, self._answer(60)["peak_mb"]

    def _answer(self, seconds: float) -> dict[str, Any]:
        stream = self._process.stdout
        assert stream is not None
        if not select.select([stream], [], [], seconds)[0]:
            raise TimeoutError
        line = stream.readline()
        if not line:
            raise RuntimeError("The process that cases are forked from has died.")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


class Scene:
    """The folder of a case: `work`, where the command runs, `outside`, where it has no business, and a home of its own."""

    def __init__(self, root: Path, shop: Any, nursery: Nursery, canary: Canary, case: Case) -> None:
        self.root, self.shop, self._nursery, self.canary, self._case = root, shop, nursery, canary, case
        self.work, self.outside, self.home = root / "desk", root / "outside", root / "home"
        self.canaries = self.outside / "canary"
        for folder in (self.work, self.outside, self.home, self.canaries):
            folder.mkdir(parents=True)
            folder.chmod(0o777)
        root.chmod(0o755)
        (self.outside / "secret.txt").write_text("nobody should read or change this\n")
        self.mounts: list[Path] = []
        self.closing: list[Callable[[], object]] = []
        self.random = random.Random(case.name)
        self._runs = 0

    @property
    def url(self) -> str:
        return self.canary.url

    @property
    def trap(self) -> str:
        """A command that must never run."""
        return f"touch {self.canaries}/ran"

    def take(self, *names: str) -> None:
        """Copies things of the shop into `work`; an artifact with its manifest."""
        for name in names:
            made = self.shop.get(name)
            for source in [made, *([made.with_name(f"{made.name}.json")] if made.is_file() else [])]:
                if source.is_dir():
                    shutil.copytree(source, self.work / source.name)
                elif source.exists():
                    shutil.copyfile(source, self.work / source.name)

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        return path

    def full_disk(self, name: str, size: int) -> None:
        """A folder on a disk of `size` bytes, as root; the others' files are limited to that size."""
        folder = self.work / name
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False, capture_output=True
        )
        if done.returncode == 0:
            self.mounts.append(folder)

    def run(self, *command: str, **changes: Any) -> Outcome:
        """A run of the program; `changes` are fields of the case that are otherwise for this run."""

        def of(name: str) -> Any:
            return changes.get(name, getattr(self._case, name))

        self._runs += 1
        out, err = self.root / f"out{self._runs}", self.root / f"err{self._runs}"
        environment = self.environment()
        for name, value in of("env").items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value.replace("{root}", str(self.root)).replace("{url}", self.url)
        request = {
            "arguments": [word.replace("{root}", str(self.root)).replace("{url}", self.url) for word in command],
            "cwd": str(self.work),
            "env": environment,
            "err": str(err),
            "stdout": str(out) if of("stdout") == "file" else of("stdout"),
            "limits": {"AS": _ADDRESS_SPACE, "CORE": 0, **of("limits")},
            "uid": of("uid"),
            "fresh": of("fresh"),
            "hidden": list(of("hidden")),
            "program": PROGRAM,
        }
        sending = of("signal")
        begun = time.monotonic()
        stopped = threading.Event()
        watch = None if sending is None else lambda pid: self._send(pid, sending, of("at"), stopped)
        status, peak = self._nursery.run(request, of("seconds"), watch)
        stopped.set()
        return Outcome(status, _text(out), _text(err), time.monotonic() - begun, peak)

    def environment(self) -> dict[str, str]:
        kept = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "IRESNET_FAULTS_PROGRAM")
        found = {name: os.environ[name] for name in kept if name in os.environ}
        home = self.home
        return found | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "models"), str(ROOT / "train"), os.environ.get("PYTHONPATH", "")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "LC_ALL": "C.UTF-8",
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_DATA_HOME": str(home / "data"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "IRESNET_EXPORT_CACHE": str(home / "cache" / "iresnet-export"),
            "MPLCONFIGDIR": str(self.shop.folder / "matplotlib"),
            "http_proxy": "http://127.0.0.1:9",  # nothing leaves this machine, whatever is asked for
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "127.0.0.1",
        }

    def _send(self, pid: int, number: int, at: float | str, stopped: threading.Event) -> None:
        if isinstance(at, float):
            stopped.wait(at)
        else:
            while not stopped.is_set() and not self.partials():
                time.sleep(0.001)
            stopped.wait(0.01)
        if not stopped.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def partials(self) -> list[str]:
        """What was begun, and neither finished nor taken away."""
        found: list[str] = []
        for top in (self.work, self.outside, self.home):
            for place, _, files in os.walk(top):
                found += [os.path.join(place, name) for name in files if name.endswith(".partial")]
        return found

    def snapshot(self) -> dict[str, tuple[Any, ...]]:
        """What lies in `work` and `outside`: for each name its kind, and what it holds."""
        found: dict[str, tuple[Any, ...]] = {}
        for top in (self.work, self.outside):
            for place, folders, files in os.walk(top):
                for name in [*folders, *files]:
                    path = os.path.join(place, name)
                    found[os.path.relpath(path, self.root)] = _content(path)
        return found

    def close(self) -> None:
        for close in self.closing:
            close()
        for folder in self.mounts:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        for place, folders, _ in os.walk(self.root):
            for name in folders:
                with contextlib.suppress(OSError):
                    os.chmod(os.path.join(place, name), 0o700, follow_symlinks=True)
        shutil.rmtree(self.root, ignore_errors=True)


def _processor_seconds(pid: int) -> float:
    """What a process and its children have used."""
    try:
        process = psutil.Process(pid)
        return sum(sum(one.cpu_times()[:4]) for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0.0


def _content(path: str) -> tuple[Any, ...]:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        return "link", os.readlink(path)
    if kind == stat.S_IFREG:
        try:
            with open(path, "rb") as file:
                return "file", hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return "file", status.st_size
    return (stat.filemode(status.st_mode)[0],)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace") if path.exists() else ""


def tried(case: Case, folder: Path, shop: Any, nursery: Nursery, canary: Canary) -> tuple[list[str], Outcome]:
    """What is wrong with how the program meets a case, and how it met it."""
    scene = Scene(folder, shop, nursery, canary, case)
    try:
        case.setup(scene)
        before, calls = scene.snapshot(), canary.calls
        outcome = scene.run(*case.command)
        wrong = judged(case, scene, outcome, before)
        if case.then is not None:
            wrong += case.then(scene, outcome)
        if canary.calls > calls:
            wrong.append("it called a URL that a file named")
        if any(scene.canaries.iterdir()):
            wrong.append("a command or code out of a file was run")
        return wrong, outcome
    finally:
        scene.close()


def judged(case: Case, scene: Scene, outcome: Outcome, before: dict[str, tuple[Any, ...]]) -> list[str]:
    """What is wrong with an outcome by the rules that hold for all cases."""
    wrong: list[str] = []
    if outcome.status is None:
        return ["it hung: it waits for what never comes, or goes round and round"]
    if outcome.status not in case.status:
        ended = f"died by {signal.Signals(-outcome.status).name}" if outcome.status < 0 else f"exit status {outcome.status}"
        wrong.append(f"{ended}, and not {' or '.join(map(str, sorted(case.status)))}")
    wrong += [f"{dump!r} on the terminal" for dump in _DUMPS if dump in outcome.err or dump in outcome.out]
    if (warning := _WARNING.search(outcome.err)) is not None:
        wrong.append(f"a library's warning on the terminal ({warning[0][-60:]})")
    if outcome.status in (2, 3) and outcome.status in case.status:
        wrong += _told(outcome)
    if case.says is not None and outcome.status in case.status and not re.search(case.says, outcome.said, re.S | re.I):
        wrong.append(f"it does not say {case.says!r}")
    if (control := _CONTROLS.search(_COLOURS.sub("", outcome.said))) is not None:
        wrong.append(f"the control character {control[0]!r} on the terminal")
    if outcome.peak_mb > case.peak_mb:
        wrong.append(f"it took {outcome.peak_mb} MB of memory, more than {case.peak_mb}")
    after = scene.snapshot()
    for name in sorted(before.keys() | after.keys()):
        top, _, inside = name.partition("/")
        allowed = top == scene.work.name and any(fnmatch.fnmatch(inside, pattern) for pattern in case.outputs)
        if before.get(name) != after.get(name) and not allowed:
            what = "removed" if name not in after else "made" if name not in before else "changed"
            wrong.append(f"{name} was {what}")
        if allowed and name.endswith(".json") and after.get(name, ("",))[0] == "file":
            text = (scene.root / name).read_bytes()
            if str(scene.root).encode() in text and not any(str(scene.root) in word or "{root}" in word for word in case.command):
                wrong.append(f"{name} names a folder of this machine")
    if outcome.status != -signal.SIGKILL:
        wrong += [f"left behind: {os.path.relpath(path, scene.root)}" for path in scene.partials()]
    return wrong


def _told(outcome: Outcome) -> list[str]:
    """What is wrong with how an error is told: one paragraph of moderate length."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("iresnet-export: ")]
    if "Usage:" in outcome.err and "Error" in outcome.err:
        return []
    if not outcome.err.strip():
        return ["no word on stderr"]
    if not lines and outcome.said.strip():
        return []  # predict and report name what they found in their result
    wrong = []
    if len(lines) > 1:
        wrong.append(f"{len(lines)} error messages")
    if any(len(line) > 2500 for line in lines):
        wrong.append(f"a message of {max(map(len, lines))} characters")
    if not outcome.err.rstrip().splitlines()[-1].startswith("iresnet-export: "):
        wrong.append("the message is not one paragraph")
    return wrong


def run_cases(
    cases: Sequence[Case],
    folder: Path,
    shop: Any,
    jobs: int,
    seconds: float | None,
    told: Callable[[Case, list[str], Outcome], None],
) -> int:
    """Tries all cases, several at a time; `told` hears of each. The number that there was time for."""
    queue, lock, done = list(reversed(cases)), threading.Lock(), [0]
    deadline = None if seconds is None else time.monotonic() + seconds

    def work() -> None:
        nursery, canary = Nursery(), Canary()
        try:
            while True:
                with lock:
                    if not queue or (deadline is not None and time.monotonic() > deadline):
                        return
                    case = queue.pop()
                    number = len(queue)
                try:
                    wrong, outcome = tried(case, folder / f"case{number}", shop, nursery, canary)
                except Exception as error:  # a fault of the study, told like one of the program's
                    wrong, outcome = [f"THE STUDY FAILED: {type(error).__name__}: {error}"], Outcome(None, "", "", 0.0, 0)
                with lock:
                    done[0] += 1
                    told(case, wrong, outcome)
        finally:
            nursery.close()
            canary.close()

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done[0]
