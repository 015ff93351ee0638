"""`train --config FILE`: options in a TOML file, by their names on the command line, which wins."""

from __future__ import annotations

import json
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from iresnet_export.errors import InputError
from iresnet_models.files import require_file
from iresnet_models.typed import shortly

_LARGEST = 1 << 16
ON_COMMAND_LINE = ("config", "json", "force", "resume", "auto_resume", "help")
"""These say what is done with a run now, and not what it is."""


def defaults_from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Makes what a file says the defaults of the command's options. Their values are read as if they were typed."""
    if path is None or context.resilient_parsing:
        return path
    parameters = {parameter.name: parameter for parameter in context.command.params if parameter.name not in ON_COMMAND_LINE}
    options = {str(name).replace("_", "-"): name for name in parameters}
    found: dict[str, Any] = {}
    for key, value in _read(path).items():
        if key not in options:
            raise InputError(f"{path} sets {shortly(key)}, {_why_not(key, list(options))}")
        parameter: Any = parameters[options[key]]
        found[parameter.name] = _typed_out(value, f"{path} sets {key}", flag=parameter.is_flag, many=parameter.multiple)
    for name in ("data", "val_data"):
        if runs_or_fetches(found.get(name)):
            raise InputError(
                f"{path} names data that a command or a server gives, and a file says neither commands nor addresses;",
                f"name them with --{name.replace('_', '-')} on the command line.",
            )
    context.default_map = found
    return path


def toml_of(said: dict[str, Any]) -> str:
    """The file that says `said`, option values by their parameters' names, but for data that a command or a server gives."""
    kept = {name: value for name, value in said.items() if not runs_or_fetches(value)}
    return "".join(f"{name.replace('_', '-')} = {_toml(value)}\n" for name, value in kept.items())


def runs_or_fetches(value: object) -> bool:
    """Whether it names data that are a command's output or come from a server."""
    return isinstance(value, str) and (value.startswith("pipe:") or "://" in value)


def _read(path: Path) -> dict[str, Any]:
    require_file(path, "The configuration")
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST:,} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise InputError(f"The configuration {path} is nested too deeply; it holds lines such as: batch-size = 32") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"The configuration {path} cannot be read as TOML ({error}).", "It holds lines such as: batch-size = 32"
        ) from error


def _why_not(key: str, options: list[str]) -> str:
    if key.replace("-", "_") in ON_COMMAND_LINE:
        return f"which belongs on the command line: --{key}."
    nearest = get_close_matches(key[:100].replace("_", "-").removeprefix("no-"), options, 1, 0)
    return f"which is no option of train. The nearest is {nearest[0]}."


def _typed_out(value: Any, what: str, *, flag: bool, many: bool) -> Any:
    """A value as the command line has it: flags are true or false, the others text."""
    if flag != isinstance(value, bool):
        raise InputError(f"{what} to {shortly(value)};", "it takes true or false." if flag else "it takes a value.")
    if flag:
        return value
    if many and isinstance(value, list):
        return [_typed_out(one, what, flag=False, many=False) for one in value]
    if not isinstance(value, str | int | float):
        raise InputError(f"{what} to {shortly(value)};", f"it takes {'a list of texts' if many else 'one text or number'}.")
    text = value if isinstance(value, str) else shortly(value)
    if "\0" in text:
        raise InputError(f"{what} to {shortly(value)};", "no text on a command line has a zero byte.")
    return [text] if many else text


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's, but that TOML escapes one character more, and halves of surrogate pairs not at all.
    plain = value if isinstance(value, bool | int | float) else str(value)
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
