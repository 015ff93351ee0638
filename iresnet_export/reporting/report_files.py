"""Reports of other commands, read from their files: strictly, with one clear sentence about what is wrong."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from iresnet_export.errors import InputError
from iresnet_export.reporting.schemas import KINDS, VERSION, AnyReport
from iresnet_models.files import names_apart, require_file, sha256_of
from iresnet_models.typed import adapter, json_from, shortly

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
    + "]"
)
_SCHEMA = re.compile(r"iresnet-export/([a-z]+)/(\d+)")


@dataclass(frozen=True)
class ReportFile:
    """`name` tells the files of one page apart; it is the file's name, with its folder where two have the same."""

    name: str
    kind: str
    sha256: str
    report: AnyReport


def read_reports(paths: Sequence[Path]) -> list[ReportFile]:
    """Reads every file; InputError says of the first bad one what is wrong with it."""
    if not paths:
        raise InputError("No report was named.", "Make one with: iresnet-export bench artifacts/*.onnx --json bench.json")
    known: set[Path] = set()
    files = []
    for path, name in zip(paths, names_apart(paths), strict=True):
        if path.resolve() in known:
            raise InputError(f"{path} was named twice;", "name every report once.")
        known.add(path.resolve())
        files.append(read_report(path, name))
    return files


def read_report(path: Path, name: str | None = None) -> ReportFile:
    """One report; InputError if it is none, or none that this version can read."""
    document = _parsed(require_file(path, "Report"))
    kind = _kind(document, path)
    try:
        report = adapter(KINDS[kind]).validate_json(json.dumps(document))
    except ValidationError as error:
        raise InputError(_complaint(path, kind, error)) from error
    return ReportFile(name or path.name, kind, sha256_of(path), report)


def _parsed(path: Path) -> Any:
    try:
        return _printable(json_from(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError(f"Report {path} cannot be read as JSON: {error}.", "Make it anew, such as with `bench --json`.") from error


def _printable(value: Any) -> Any:
    """Text without what no page may hold or what would turn its lines around: control characters, lone surrogates, bidi marks."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value


def _kind(document: Any, path: Path) -> str:
    schema = document.get("schema") if isinstance(document, dict) else None
    found = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    kinds = ", ".join(KINDS)
    if found is None:
        said = f"its schema is {shortly(schema)}" if schema is not None else "it names no schema"
        raise InputError(f"{path} is no report of iresnet-export: {said}.", f"`report` reads what --json of {kinds} writes.")
    kind, version = found[1], int(found[2])
    if kind not in KINDS:
        raise InputError(f"{path} is of the schema {schema}, which a page has no place for.", f"`report` reads reports of {kinds}.")
    if version > VERSION:
        raise InputError(
            f"{path} is of the schema {schema}, and this version reads up to version {VERSION}: a newer iresnet-export wrote it.",
            "Upgrade this one, or make the report anew with it.",
        )
    if version < VERSION:
        raise InputError(f"{path} is of the schema {schema}, which no version of iresnet-export writes.", "Make the report anew.")
    return kind


def _complaint(path: Path, kind: str, error: ValidationError) -> str:
    """The first thing that is wrong, by its place in the document."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" ({error.error_count() - 1} more like it)" if error.error_count() > 1 else ""
    what = "is missing" if first["type"] == "missing" else f"is not as it should be: {first['msg'][0].lower()}{first['msg'][1:]}"
    remedy = f"Make it anew with: iresnet-export {kind} ... --json {shlex.quote(path.name)}"
    return f"{path} is no whole report of `{kind}`: {place} {what}{more}. {remedy}"
