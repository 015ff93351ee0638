"""Whose threads work while one candidate is measured: those of the others should rest."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

_TASKS = Path("/proc/self/task")
_PROBE_SECONDS, _IDLE_SHARE = 0.002, 0.05


def thread_seconds() -> dict[int, float]:
    """CPU seconds of every thread of this process, by its number. Linux alone tells."""
    found = {}
    for task in _TASKS.iterdir():
        try:
            found[int(task.name)] = _seconds(task)
        except OSError:
            continue  # it has ended meanwhile
    return found


def _seconds(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    except FileNotFoundError:  # a kernel without scheduler statistics counts in ticks
        fields = (task / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def others_run() -> bool:
    """Whether another thread of this process runs or waits for a core to run on: one that spins does.

    Where the system does not tell of threads, by the CPU time that the process uses while the caller sleeps.
    """
    if not _TASKS.exists():
        begin, busy = time.perf_counter(), time.process_time()
        time.sleep(_PROBE_SECONDS)
        return time.process_time() - busy > _IDLE_SHARE * (time.perf_counter() - begin)
    own = threading.get_native_id()
    return any(_runs(task) for task in _TASKS.iterdir() if int(task.name) != own)


def _runs(task: Path) -> bool:
    try:
        return (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "R"
    except OSError:
        return False


class ThreadWatch:
    """Knows which threads each candidate has started, and adds up what they use while each one runs.

    Libraries that share a thread pool, as all of PyTorch's runtimes do, are one to it: their threads belong to whoever came first.
    """

    def __init__(self) -> None:
        self._owners: dict[int, str] = {threading.get_native_id(): ""}
        self._own: defaultdict[str, float] = defaultdict(float)
        self._others: defaultdict[str, float] = defaultdict(float)

    def claim(self, name: str, start: Callable[[], object]) -> None:
        """Whatever threads appear while `start` loads and runs a candidate are that candidate's."""
        start()
        for thread in thread_seconds():
            self._owners.setdefault(thread, name)

    def watched(self, name: str, run: Callable[[], object], group: str | None = None) -> Callable[[], object]:
        """`run`, with the threads' time counted; `group` is the name under which its threads were claimed, if it is another's."""
        own = group or name

        def counted() -> object:
            before = thread_seconds()
            answer = run()
            for thread, seconds in thread_seconds().items():
                used = seconds - before.get(thread, 0.0)
                owner = self._owners.get(thread, own)
                (self._own if owner in ("", own) else self._others)[name] += used
            return answer

        return counted

    def others_share(self, name: str) -> float:
        """CPU time of the others' threads while `name` ran, over that of its own."""
        return self._others[name] / self._own[name] if self._own[name] else 0.0
