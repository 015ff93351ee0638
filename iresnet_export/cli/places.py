"""Where commands write their reports: never over what they read, nor over what is no report. Said before any work is done."""

from __future__ import annotations

import functools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from iresnet_export.cli.console import is_standard_output, results_on_stderr
from iresnet_export.errors import InputError, UnavailableError

OPTIONS = {"json": "--json", "markdown": "--markdown", "output": "--output", "predictions": "--predictions"}
"""The parameters that name what a command writes, in every command."""

_SCHEMA = re.compile(r'\s*\{\s*"schema":\s*"iresnet-export/(\w+)/')
_TEXTS = ("### ", "## ", "<!doctype html", "kind,artifact,", "artifact,backend,image,", '{"artifact": ')
"""How the Markdown, pages, CSV and JSON lines begin that are written here."""
_ARTIFACTS = (".ts", ".pt2", ".onnx", ".engine", ".plan", ".pt", ".pth", ".safetensors")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command that refuses to write over its inputs, and whose standard output is the report's alone where that is asked for."""

    @functools.wraps(command)
    def run(**values: Any) -> None:
        outputs = {option: values[name] for name, option in OPTIONS.items() if isinstance(values.get(name), Path)}
        inputs = [
            path for name, value in values.items() if name not in OPTIONS for path in _paths(value, may_be_text=name == "images")
        ]
        require_distinct(outputs)
        for option, path in outputs.items():
            if option != "--output" or command.__name__ == "report":
                require_report_place(path, option, inputs, command.__name__)
        try:
            with results_on_stderr(any(is_standard_output(path) for path in outputs.values())):
                command(**values)
        except BrokenPipeError as error:  # typer would end with 1 without a word
            raise UnavailableError(f"Another process of this command has gone ({error}).", "Run it again.") from error

    return run


def require_distinct(outputs: dict[str, Path]) -> None:
    """InputError where two options name one file; anything may go to a terminal or to /dev/null at once."""
    named = list(outputs.items())
    for number, (option, path) in enumerate(named):
        for other, second in named[:number]:
            if _same(path, second) and not (path.exists() and stat.S_ISCHR(path.stat().st_mode)):
                raise InputError(f"{other} and {option} both name {path};", "give each a file of its own.")


def require_report_place(path: Path, option: str, inputs: list[Path], command: str) -> None:
    """InputError unless a report may be written to `path`: nothing is there, or an earlier report, and no input is it.

    Pipes, terminals and other character devices take anything.
    """
    if is_standard_output(path):
        return
    mode = _mode(path, option)
    if mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return
    if mode is not None and not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no file that could be replaced"
        raise InputError(f"{option} {path} is {what};", "name a file.")
    for read in inputs:
        if _same(path, read):
            raise InputError(f"{option} {path} would replace {read}, which this command reads;", "name another file.")
    owner = Path(os.path.realpath(path)).with_suffix("")
    if (
        path.suffix == ".json"
        and (owner.suffix.lower() in _ARTIFACTS or any(_same(owner, read) for read in inputs))
        and owner.is_file()
    ):
        raise InputError(f"{option} {path} is the place of the manifest of {owner.name};", "name another file.")
    if mode is not None and (found := _foreign(path, option, command)) is not None:
        raise InputError(
            f"{option} {path} would replace {found}, and a report replaces only an earlier one.", "Name another file, or remove it."
        )
    from iresnet_models.files import require_writable_folder

    require_writable_folder(path)


def require_outside_run(path: Path | None, folder: Path) -> None:
    """InputError where a run would first write one of its own files to `path`, which a report would then replace."""
    if path is None or is_standard_output(path):
        return
    inside = [parent for parent in Path(os.path.realpath(path)).parents if _same(parent, folder / "states")]
    if inside or any(_same(path, folder / name) for name in ("log.csv", "config.toml", "logs.json", "best.pt", "last.pt")):
        raise InputError(f"--json {path} is the place of one of the run's own files;", "name another file.")


def _mode(path: Path, option: str) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written ({error}).", "Name another file.") from error


def _same(path: Path, other: Path) -> bool:
    """Whether two names lead to one file, through links of either kind."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)


def _foreign(path: Path, option: str, command: str) -> str | None:
    """What is in a file that is no report of the kind that `option` writes; None for a report, and for an empty file."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{option} {path} cannot be written ({error}).", "Name another file.") from error
    text = head.decode("utf-8", errors="replace").lower()
    found = _SCHEMA.match(text)
    if not head.strip():
        return None
    if option != "--json":
        return None if text.startswith(_TEXTS) else "a file of another kind"
    if found is None:
        return "a file that is no report" if not _names_schema(path, head) else None
    if found[1] == "manifest":
        return "the manifest of an artifact"
    if found[1] == "train" and command != "train":
        return "the report of a training run"
    return None


def _names_schema(path: Path, head: bytes) -> bool:
    """Whether it is a report that was written anew by something else, with its keys in another order."""
    if not head.lstrip().startswith(b"{") or path.stat().st_size > 16 << 20:
        return False
    try:
        document = json.loads(path.read_bytes())
        kind = re.fullmatch(r"iresnet-export/(\w+)/\d+", document["schema"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return kind is not None and kind[1] not in ("manifest", "train")


def _paths(value: Any, may_be_text: bool) -> Iterator[Path]:
    """The files that a parameter names; those of `predict` are texts, since they may be addresses too."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one, may_be_text)
    elif may_be_text and isinstance(value, str):
        from iresnet_data.addresses import is_address

        if not is_address(value):
            yield Path(value)
