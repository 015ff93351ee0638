"""What the doctor found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from iresnet_export.doctor import Diagnosis
from iresnet_export.reporting.tables import ResultTable, table
from iresnet_export.reporting.words import one_line

_ANSWERS = {"yes": Text("yes", "green"), "untried": Text("untried", "yellow"), "no": Text("no", "red")}


def diagnosis_tables(diagnosis: Diagnosis) -> Iterator[ResultTable]:
    """What can be done, the parts of the stack, and the engines of a folder where one was named."""
    found = table("backend", "direction", "device", "here", "why not", "remedy", keys=3)
    said: set[str] = set()
    for finding in diagnosis.findings:
        row = (finding.backend, finding.direction, finding.device, _ANSWERS[finding.answer])
        remedy = "as above" if finding.remedy in said else finding.remedy or ""
        found.line(*row, finding.reason or "", remedy)
        said |= {finding.remedy} if finding.remedy else set()
    yield found
    parts = table("part", "version", "")
    for part in diagnosis.components:
        parts.line(part.name, Text("not here", "red") if part.version is None else part.version, part.note or "")
    yield parts
    if diagnosis.engines:
        engines = table("engine", "runs here", "")
        for engine in diagnosis.engines:
            engines.line(one_line(engine.file), _ANSWERS[engine.answer], engine.says)
        yield engines
