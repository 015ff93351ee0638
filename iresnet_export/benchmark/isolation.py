"""Whether other threads work while one candidate is measured: those of the others should rest."""

from __future__ import annotations

import threading
import time
from pathlib import Path

_TASKS = Path("/proc/self/task")
_PROBE_SECONDS, _IDLE_SHARE = 0.002, 0.05


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
