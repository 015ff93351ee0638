"""What the doctor found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from iresnet_export.doctor import Diagnosis
from iresnet_export.reporting.tables import table

_ANSWERS = {"yes": "[green]yes[/]", "untried": "[yellow]untried[/]", "no": "[red]no[/]"}


def diagnosis_tables(diagnosis: Diagnosis) -> Iterator[Table]:
    """What can be done, the parts of the stack, and the engines of a folder where one was named."""
    found = table("backend", "direction", "device", "here", "why not", "what mends it")
    said: set[str] = set()
    for finding in diagnosis.findings:
        row = (finding.backend, finding.direction, finding.device, _ANSWERS[finding.answer])
        mend = "as above" if finding.mend in said else escape(finding.mend or "")
        found.add_row(*row, escape(finding.reason or ""), mend)
        said |= {finding.mend} if finding.mend else set()
    yield found
    parts = table("part", "version", "")
    for part in diagnosis.parts:
        parts.add_row(part.name, "[red]not here[/]" if part.version is None else escape(part.version), escape(part.note or ""))
    yield parts
    if diagnosis.engines:
        engines = table("engine", "runs here", "")
        for engine in diagnosis.engines:
            engines.add_row(escape(engine.file), _ANSWERS[engine.answer], escape(engine.says))
        yield engines
