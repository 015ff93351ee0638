"""One report from the JSON of other commands: a page, Markdown or CSV, and what a comparison of two runs found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.errors import InputError
from iresnet_export.reporting.collection import Collection
from iresnet_export.reporting.comparison import Compared, Comparison, comparable, compare
from iresnet_export.reporting.report_files import read_reports

FORMATS = ("html", "md", "csv")


@dataclass(frozen=True)
class ReportOptions:
    """`compare`: None for where two benchmarks share a candidate. `fail_if_slower`: a share, 0.05 for 5 %; it compares."""

    format: str = "html"
    title: str | None = None
    compare: bool | None = None
    fail_if_slower: float | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise InputError(f"--format takes {', '.join(FORMATS)}, not {self.format!r}.")
        if self.fail_if_slower is not None and self.compare is False:
            raise InputError("--fail-if-slower compares two runs, and --no-compare says not to;", "leave one of them out.")


@dataclass(frozen=True)
class Made:
    """The report's text, and the comparison in it."""

    text: str
    comparison: Comparison | None


def make_report(paths: Sequence[Path], options: ReportOptions) -> Made:
    """Reads the reports and writes theirs."""
    files = read_reports(paths)
    wanted = options.compare if options.fail_if_slower is None else True
    comparison = compare(files) if wanted or (wanted is None and comparable(files)) else None
    # The old run is what the new one is compared with; tables and plots are the new one's.
    collection = Collection([file for file in files if comparison is None or file is not comparison.old])
    if options.format == "csv":
        from iresnet_export.reporting.csv_report import csv_report

        return Made(csv_report(collection, comparison), comparison)
    if options.format == "md":
        from iresnet_export.reporting.markdown import markdown_report

        return Made(markdown_report(collection, comparison, options.title), comparison)
    from iresnet_export.reporting.page.page import html_page

    return Made(html_page(collection, comparison, options.title), comparison)


def format_of(output: Path, named: str | None) -> str:
    """The format that was named, else the one that the file's name ends in, else HTML."""
    ending = output.suffix.lower().removeprefix(".")
    return named or (ending if ending in FORMATS else "html")


def share_from_text(text: str) -> float:
    """`5%`, `5 %` or `0.05` as 0.05."""
    number = text.strip()
    try:
        found = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        found = float("nan")
    if not 0 <= found < 10:
        raise InputError(f"--fail-if-slower takes a share such as 5% or 0.05, not {text!r}.")
    if not number.endswith("%") and found >= 1:
        raise InputError(f"--fail-if-slower {text} would mean {100 * found:g} %;", f"write {text}% for that many percent.")
    return found


def failures(comparison: Comparison, limit: float) -> list[str]:
    """Why a gate on speed fails: one line for each candidate that is slower by more than `limit`, or that no longer runs."""
    return [_failure(one) for one in comparison.candidates if one.slower_than(limit) or one.lost]


def _failure(one: Compared) -> str:
    return f"{one.name}: measured before, and not any more ({one.new.status})" if one.lost else one.in_words()
