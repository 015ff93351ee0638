"""`report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from iresnet_export.cli.console import notice, say, write_output


def report(
    reports: Annotated[list[Path], typer.Argument(help="What --json of verify, bench, eval and train wrote.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("report.html"),
    format: Annotated[
        Literal["html", "md", "csv"] | None,
        typer.Option("--format", help="html, md or csv. Default: by the output's name, or html.", show_default=False),
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Above the page's result.", show_default=False)] = None,
    compare: Annotated[
        bool | None,
        typer.Option(
            "--compare/--no-compare",
            help="Compare two benchmarks, the old one first. Default: where exactly two are named that share a candidate.",
            show_default=False,
        ),
    ] = None,
    fail_if_slower: Annotated[
        str | None,
        typer.Option(
            "--fail-if-slower",
            metavar="SHARE",
            help="Exit with 1 if a candidate is slower by more than this, such as 5%, and beyond noise; compares.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make one page of any number of reports: verdicts, tables, plots; needs no network, opens from a mail.

    Of two benchmarks of the same candidates it says what became faster or slower, beyond noise.
    """
    from iresnet_export.reporting.report import (
        ReportOptions,
        failures,
        format_of,
        make_report,
        share_from_text,
    )

    limit = None if fail_if_slower is None else share_from_text(fail_if_slower)
    made = make_report(reports, ReportOptions(format_of(output, format), title, compare, limit))
    write_output(output, made.text, "Report")
    if made.comparison is not None:
        for one in made.comparison.in_order:
            say(one.in_words())
        for line in (*made.comparison.differences, *made.comparison.gaps):
            notice(line)
    if limit is None or made.comparison is None:
        return
    if not any(one.ratio is not None or one.lost for one in made.comparison.candidates):
        notice("Nothing could be compared, so nothing is shown not to be slower.")
        raise typer.Exit(3)
    if failed := failures(made.comparison, limit):
        notice(f"Slower by more than {100 * limit:g} %: {'; '.join(failed)}")
        raise typer.Exit(1)
