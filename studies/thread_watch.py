"""What each candidate's threads use, and what the others' use meanwhile, as Linux tells it."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

_TASKS = Path("/proc/self/task")


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
