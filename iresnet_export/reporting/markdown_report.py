"""Reports as GitHub's Markdown: the sentence, the verdicts, the table, the comparison."""

from __future__ import annotations

from collections.abc import Iterator

from iresnet_export.reporting.collection import Collection
from iresnet_export.reporting.comparison import Comparison
from iresnet_export.reporting.markdown_text import bullets, table, text
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
    parts = [f"## {text(title)}" if title else "", f"### {text(headline(collection, comparison))}"]
    if comparison is not None:
        parts += [_table(comparison_table(comparison)), bullets(map(text, comparison.differences))]
        parts += [text(gap) for gap in comparison.gaps]
    parts.append(bullets(text(warning) for warning in collection.warnings()))
    parts.append(bullets(f"**{text(one.status)}** {text(f'{one.subject} {one.text}'.strip())}" for one in verdicts(collection)))
    parts += [_table(made) for made in _tables(collection)]
    absent = [f"{text(what)}: {_how(how)}" for what, how in not_measured(collection)]
    parts += ["Not measured:", bullets(absent)] if absent else []
    for name, rows in environment_rows(collection):
        parts += [f"**{text(name)}**", bullets(f"{text(key)}: {text(value)}" for key, value in rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _how(command: str) -> str:
    return f"`{command}`" if command.startswith("iresnet-export ") else text(command)


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


def _table(made: Table) -> str:
    rows = ([text(cell.text) for cell in row] for row in made.rows)
    return table([(text(column.name), column.right) for column in made.columns], rows)
