"""Reports as GitHub's Markdown, for a pull request or a wiki. What comes from reports is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from iresnet_export.reporting.collection import Collection
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.missing import not_measured
from iresnet_export.reporting.remarks import evaluation_remarks, references_in_words, verify_remarks
from iresnet_export.reporting.schemas import VerifyReport
from iresnet_export.reporting.summary import headline, verdicts
from iresnet_export.reporting.tables import (
    Table,
    comparison_table,
    environment_rows,
    eval_table,
    further_tables,
    measurement_tables,
    sizes_tables,
    verify_table,
)
from iresnet_export.reporting.words import printable


def verify_markdown(report: VerifyReport) -> str:
    """A table of the candidates, what is wrong with them or differs, and what they were compared with."""
    parts = [
        f"### Verification {'passed' if report.passed else 'did not pass'}",
        _table(verify_table(report.candidates)),
        *map(_table, (*further_tables(report.candidates), *sizes_tables(report.candidates))),
        _bullets(map(text, verify_remarks(report.candidates))),
        "Compared with:" if report.references else "",
        _bullets(map(text, references_in_words(report))),
    ]
    return _document(parts)


def markdown_report(collection: Collection, comparison: Comparison | None, title: str | None) -> str:
    """The sentence, the verdicts, the tables, the comparison."""
    parts = [f"## {text(title)}" if title else "", f"### {text(headline(collection, comparison))}"]
    if comparison is not None:
        parts += [_table(comparison_table(comparison)), _bullets(map(text, comparison.differences))]
        parts += [text(gap) for gap in comparison.gaps]
    parts.append(_bullets(text(warning) for warning in collection.warnings()))
    parts.append(_bullets(f"**{text(one.status)}** {text(f'{one.subject} {one.text}'.strip())}" for one in verdicts(collection)))
    parts += map(_table, measurement_tables(collection.measurements))
    parts += [_table(verify_table(collection.candidates))] if collection.candidates else []
    parts += map(_table, (*further_tables(collection.candidates), *sizes_tables(collection.candidates)))
    parts += [_table(eval_table(collection.evaluations))] if collection.evaluations else []
    parts += [_bullets(map(text, evaluation_remarks(collection.evaluations)))]
    absent = [f"{text(what)}: {_how(how)}" for what, how in not_measured(collection)]
    parts += ["Not measured:", _bullets(absent)] if absent else []
    for name, rows in environment_rows(collection):
        parts += [f"**{text(name)}**", _bullets(f"{text(key)}: {text(value)}" for key, value in rows)]
    return _document(parts)


def text(words: str) -> str:
    """On one line, nothing in it read as markup or as the end of a cell, nothing that turns or hides what follows."""
    return re.sub(r"([\\`*_{}\[\]<>|#~@])", r"\\\1", printable(" ".join(words.split())))


def _document(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


def _how(command: str) -> str:
    return f"`{command}`" if command.startswith("iresnet-export ") else text(command)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(made: Table) -> str:
    heads = [text(column.name) for column in made.columns]
    rule = ["---:" if column.right else "---" for column in made.columns]
    rows = ([text(cell.text) for cell in row] for row in made.rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
