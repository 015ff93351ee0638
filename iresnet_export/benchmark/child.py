"""What a fresh process measures: how long a candidate takes to load, its first inference, and its peak memory.

Run as `python -m iresnet_export.benchmark.child`, with one JSON object on stdin; the answer is the last line of stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.benchmark.clock import CLOCK
from iresnet_export.benchmark.recipe import Recipe, host_to_host, noise_inputs
from iresnet_export.errors import UnavailableError

INFERENCES = 3
"""At each batch size: runtimes take their working memory in the first ones."""


@dataclass(frozen=True)
class FreshRun:
    """Milliseconds; megabytes (10⁶ bytes) of resident memory at most, up to and with each batch size."""

    load_ms: float
    first_inference_ms: float
    peaks_mb: tuple[float, ...]


def in_fresh_process(recipe: Recipe, batches: Sequence[int]) -> FreshRun:
    """Opens a candidate in a process of its own, and runs it at each batch size; UnavailableError where that process dies."""
    import iresnet_models
    from iresnet_export import __file__ as ours

    roots = [str(Path(file).parent.parent) for file in (ours, iresnet_models.__file__ or ours)]
    path = os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "iresnet_export.benchmark.child"],
        input=json.dumps({"recipe": recipe.to_json(), "batches": list(batches)}),
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        answer = json.loads(done.stdout.splitlines()[-1])
        return FreshRun(answer["load_ms"], answer["first_inference_ms"], tuple(answer["peaks_mb"]))
    if done.returncode == -9:
        raise UnavailableError("its process was killed, most likely for want of memory")
    last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise UnavailableError(f"its process ended with {done.returncode}: {last}")


def measured(recipe: Recipe, batches: Sequence[int]) -> FreshRun:
    """The same in this process, which should have loaded nothing yet."""
    begin = CLOCK.now()
    session = recipe.open()
    loaded = CLOCK.now()
    with session:
        peaks, first = [], 0.0
        for step, batch in enumerate(batches):
            images = noise_inputs(recipe.spec, session, batch)
            for run in range(INFERENCES):
                start = CLOCK.now()
                host_to_host(session, images)
                if step == run == 0:
                    first = CLOCK.now() - start
            peaks.append(peak_memory_mb())
    return FreshRun((loaded - begin) * 1e3, first * 1e3, tuple(peaks))


def peak_memory_mb() -> float:
    """The most memory that this process has held in RAM so far, in 10⁶ bytes.

    Linux' `ru_maxrss` survives exec: it would count the parent's memory too. `VmHWM` begins with the program.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    import psutil

    if (peak := getattr(psutil.Process().memory_info(), "peak_wset", None)) is not None:  # Windows
        return float(peak) / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Answers one question."""
    question = json.loads(sys.stdin.read())
    found = measured(Recipe.from_json(question["recipe"]), question["batches"])
    answer = {"load_ms": found.load_ms, "first_inference_ms": found.first_inference_ms, "peaks_mb": found.peaks_mb}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
    sys.stdout.flush()
    # Some runtimes' threads outlive the interpreter's shutdown; the answer is out.
    os._exit(0)


if __name__ == "__main__":
    main()
