"""Runs the program many times at a small price: everything is imported once, and each run is a forked child of that.

A child is a process of its own in all that matters here: it has its own streams, limits, user and memory, runs the program's `main`
as the last thing that it does, and ends as an interpreter ends. Where the start itself is part of the case (`fresh`), the child
becomes the installed program by `exec`. Requests and answers are lines of JSON on standard input and output.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import traceback
import warnings
from typing import Any

HEAVY = ("torch", "torchvision", "onnx", "PIL.Image", "sklearn.datasets", "scipy.stats", "matplotlib", "numpy")
"""Not ONNX Runtime and OpenVINO: importing them starts threads, which forks lack."""
LAZY = ("importlib.readers", "importlib.resources.readers", "importlib.simple", "importlib.resources.simple")
"""What the standard library imports late: a Python that lies in root's home cannot be read by the other users of some cases."""
NOT_PRELOADED = ("__main__", "benchmark.child")


def preload() -> None:
    """Imports the program and what it imports when it needs it."""
    warnings.simplefilter("ignore")
    for name in (*HEAVY, *LAZY):
        with_luck(name)
    for package in ("iresnet_models", "iresnet_data", "iresnet_train", "iresnet_export"):
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.endswith(NOT_PRELOADED):
                with_luck(module.name)
    warnings.resetwarnings()
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.filterwarnings("ignore", category=category)


def with_luck(name: str) -> None:
    with contextlib.suppress(ImportError):  # what is not installed here is part of what is tried
        importlib.import_module(name)


def main() -> None:
    requests, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    preload()
    answer(answers, {"ready": True})
    for line in requests:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            requests.close()
            become(request, answers)
            return
        answer(answers, {"pid": child})
        _, status, usage = os.wait4(child, 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what it may have left running
        answer(answers, {"status": os.waitstatus_to_exitcode(status), "peak_mb": usage.ru_maxrss // 1024})


def answer(stream: Any, content: dict[str, Any]) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()


def become(request: dict[str, Any], answers: Any) -> None:
    """Makes this child the run that was asked for."""
    os.setsid()
    os.dup2(os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 2)
    stdout(request["stdout"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    for name in request["hidden"]:
        for loaded in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
            sys.modules[loaded] = None  # type: ignore[assignment]
        sys.modules[name] = None  # type: ignore[assignment]
    for name, value in request["limits"].items():
        limit(name, value)
    if request["uid"] is not None:
        os.setgroups([])
        os.setgid(request["uid"])
        os.setuid(request["uid"])
    arguments = [os.fsencode(argument) for argument in request["arguments"]]
    if request["fresh"]:
        for descriptor in (int(name) for name in os.listdir("/proc/self/fd")):
            if descriptor > 2:
                with contextlib.suppress(OSError):
                    os.set_inheritable(descriptor, False)
        program = [os.fsencode(word) for word in request["program"]]
        os.execvpe(program[0], [*program, *arguments], request["env"])
    answers.close()
    sys.argv = ["iresnet-export", *map(os.fsdecode, arguments)]


def stdout(kind: str) -> None:
    if kind == "closed":
        os.close(1)
    elif kind == "broken":
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(read)
        os.close(write)
    elif kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    else:
        os.dup2(os.open(kind, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), 1)


def limit(name: str, value: int) -> None:
    if name == "more_memory":  # beyond what is mapped already
        with open("/proc/self/statm") as file:
            value += int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        name = "AS"
    number = getattr(resource, f"RLIMIT_{name}")
    most = resource.getrlimit(number)[1]
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(number, (value, value))


if __name__ == "__main__":
    main()
    if len(sys.argv) > 0 and sys.argv[0] == "iresnet-export":
        try:
            from iresnet_export.cli.main import main as program
        except BaseException:
            traceback.print_exc()
            os._exit(99)
        program()
