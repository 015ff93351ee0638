"""A candidate measured in turn has the machine to itself: the others' threads rest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.registry import runtime_named
from iresnet_export.benchmark import clock
from iresnet_export.benchmark.clock import Clock, Timed, measure
from iresnet_export.system.progress import no_progress

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells what each thread does")

STUDIES = Path(__file__).parents[2] / "studies"
NAMES = ("torchscript", "onnxruntime", "openvino")

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from thread_watch import ThreadWatch
from iresnet_export.artifacts.artifact import open_artifact
from iresnet_export.backends.registry import runtime_named
from iresnet_export.benchmark import clock
from iresnet_export.benchmark.clock import Timed, measure
from iresnet_export.system.progress import no_progress

clock.RUNS_PER_TURN_SECONDS, clock.PATIENCE = 0.02, 1  # short turns spoil each other most
watch, timed, images = ThreadWatch(), [], torch.randn(4, 3, 32, 32)
for argument in sys.argv[1:]:
    name, _, path = argument.partition("=")
    def start():
        global session
        session = runtime_named(name).load(open_artifact(Path(path)), torch.device("cpu"), threads=2)
        for _ in range(5): session.run(images)
    watch.claim(name, start)
    timed.append(Timed(name, watch.watched(name, lambda session=session: session.run(images))))
measure(timed, seconds=0.1, warmup_seconds=0.0, seed=0, progress=no_progress)
print(json.dumps({entry.name: watch.others_share(entry.name) for entry in timed}))
"""


@pytest.fixture
def thread_watch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The studies' module, as their scripts find it."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import thread_watch

    return thread_watch


def test_threads_of_other_backends_use_no_time_worth_mentioning(benched: dict[str, Artifact]) -> None:
    """In a process whose OpenMP waits as it does for users; two threads each, however many cores there are."""
    if not runtime_named("openvino").is_installed():
        pytest.skip("openvino is not installed")
    files = {name: benched["torchscript" if name == "torchscript" else "onnx"].path for name in NAMES}
    hidden = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join([str(STUDIES), *filter(None, sys.path)])
    arguments = [f"{name}={path}" for name, path in files.items()]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shares = json.loads(done.stdout.splitlines()[-1])
    assert set(shares) == set(NAMES)
    assert max(shares.values()) < 0.05, shares


class Spinning:
    """A runtime whose thread goes on working for a while after each run, outside of Python, as OpenMP's do."""

    def __init__(self) -> None:
        self._buffer, self.over = bytes(20_000_000), False
        self._wake, self._works = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def run(self) -> None:
        sum(range(20_000))
        self._works.clear()
        self._wake.set()
        self._works.wait()

    def _work(self) -> None:
        while not self.over:
            self._wake.wait()
            self._wake.clear()
            self._works.set()
            hashlib.sha256(self._buffer)

    def close(self) -> None:
        self.over = True
        self._wake.set()
        self._thread.join()


def others_share(how: Clock, watch: Any) -> float:
    """What a spinning thread takes from a quiet candidate that is measured in turn with it."""
    made: list[Spinning] = []
    watch.claim("spinning", lambda: made.append(Spinning()))
    timed = [
        Timed("spinning", watch.watched("spinning", made[0].run)),
        Timed("quiet", watch.watched("quiet", lambda: sum(range(200_000)))),
    ]
    measure(timed, seconds=0.05, warmup_seconds=0.0, seed=0, progress=no_progress, clock=how)
    made[0].close()
    return watch.others_share("quiet")


class Hasty(Clock):
    def settle(self) -> None:
        """Does not wait."""


def test_the_clock_waits_until_spinning_threads_rest_and_the_watch_sees_it(
    thread_watch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "RUNS_PER_TURN_SECONDS", 0.01)
    monkeypatch.setattr(clock, "PATIENCE", 1)
    assert others_share(Hasty(), thread_watch.ThreadWatch()) > 0.05, "the watch is blind"
    assert others_share(Clock(), thread_watch.ThreadWatch()) < 0.05


def test_threads_are_counted(thread_watch: ModuleType) -> None:
    before = thread_watch.thread_seconds()
    end = time.thread_time() + 0.02
    while time.thread_time() < end:
        pass
    spent = thread_watch.thread_seconds()[threading.get_native_id()] - before[threading.get_native_id()]
    assert 0.01 <= spent <= 0.2
