"""Reports as GitHub's Markdown: the sentence, the verdicts, the table, the comparison."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from iresnet_export.reporting.collection import Collection
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.missing import not_measured
from iresnet_export.reporting.report_tables import (
    Table,
    bench_table,
    cold_table,
    comparison_table,
    environment_rows,
    eval_table,
    server_table,
    verify_table,
)
from iresnet_export.reporting.summary import headline, verdicts


def markdown_report(collection: Collection, comparison: Comparison | None, title: str | None) -> str:
    """For a pull request or a wiki. What comes from the reports is escaped."""
    parts = [f"## {_text(title)}" if title else "", f"### {_text(headline(collection, comparison))}"]
    if comparison is not None:
        parts += [_table(comparison_table(comparison)), _list(map(_text, comparison.differences))]
        parts += [f"Only in the old run: {_text(', '.join(comparison.only_old))}." if comparison.only_old else ""]
        parts += [f"Only in the new run: {_text(', '.join(comparison.only_new))}." if comparison.only_new else ""]
    parts.append(_list(_text(warning) for warning in collection.warnings()))
    parts.append(_list(f"**{_text(one.status)}** {_text(f'{one.subject} {one.text}'.strip())}" for one in verdicts(collection)))
    parts += [_table(made) for made in _tables(collection)]
    absent = [f"{_text(what)}: {_how(how)}" for what, how in not_measured(collection)]
    parts += ["Not measured:", _list(absent)] if absent else []
    for name, rows in environment_rows(collection):
        parts += [f"**{_text(name)}**", _list(f"{_text(key)}: {_text(value)}" for key, value in rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _how(text: str) -> str:
    return f"`{text}`" if text.startswith("iresnet-export ") else _text(text)


def _tables(collection: Collection) -> Iterator[Table]:
    if any(one.result.server is None and one.result.cold is None for one in collection.measurements):
        yield bench_table(collection)
    for mode, made in (("server", server_table), ("cold", cold_table)):
        if group := collection.in_mode(mode):
            yield made(group)
    if collection.candidates:
        yield verify_table(collection)
    if collection.evaluations:
        yield eval_table(collection)


def _table(table: Table) -> str:
    rule = ["---:" if column.right else "---" for column in table.columns]
    rows = [[_text(cell.text) for cell in row] for row in table.rows]
    lines = [[_text(column.name) for column in table.columns], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _text(text: str) -> str:
    """On one line, nothing in it read as markup or as the end of a cell."""
    return re.sub(r"([\\`*_{}\[\]<>|#~@])", r"\\\1", " ".join(text.split()))
