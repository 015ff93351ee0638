"""What goes to the terminal: results to stdout, progress and notices to stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from iresnet_export.reporting.schemas import Report
    from iresnet_export.reporting.tables import Table
    from iresnet_export.system.progress import Progress

_PIPED_WIDTH = 200
_on_stderr = False


def out() -> Console:
    """Stdout, or stderr where stdout is a report's; plain and wide where it is not a terminal, so that no column is cut.

    Brackets are brackets: no markup.
    """
    from rich.console import Console

    terminal = (sys.stderr if _on_stderr else sys.stdout).isatty()
    return Console(stderr=_on_stderr, highlight=False, markup=False, width=None if terminal else _PIPED_WIDTH)


def say(text: str | Text) -> None:
    """A line of the result; here as below, nothing in it acts on the terminal."""
    from iresnet_export.reporting.terminal import safe

    out().print(safe(text), soft_wrap=True)


def notice(text: str | Text) -> None:
    """A line that is not part of the result."""
    from rich.console import Console

    from iresnet_export.reporting.terminal import safe

    Console(stderr=True, highlight=False, markup=False).print(safe(text), soft_wrap=True)


def warn(text: str) -> None:
    """A notice of what may not be what the user wants."""
    from rich.text import Text

    notice(Text.assemble(("Warning:", "yellow"), f" {text}"))


def bold(text: str) -> Text:
    from rich.text import Text

    return Text(text, "bold")


def show(table: Table) -> None:
    """A table, in as many parts as the terminal's width takes."""
    from iresnet_export.reporting.terminal import rich_tables

    console = out()
    for part in rich_tables(table, console.width):
        console.print(part)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr that names the step; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from iresnet_export.reporting.words import one_line

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)

        def update(step: str, share: float) -> None:
            bar.update(task, description=one_line(step), completed=share)

        yield update


def write_report(path: Path | None, report: Report | dict[str, Any]) -> None:
    """Writes a report where one was asked for, and says so."""
    if path is None:
        return
    from iresnet_models.files import json_text

    write_output(path, json_text(report if isinstance(report, dict) else report.to_json()), "Report")


def write_output(path: Path, text: str, what: str) -> None:
    """Writes a report of any form to its file, or to standard output, and says so."""
    from iresnet_models.files import write_text

    if is_standard_output(path):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    write_text(path, text)
    notice(f"{what}: {path}")


def is_standard_output(path: Path) -> bool:
    """Whether a name stands for this process's standard output: - or /dev/stdout."""
    return str(path) in ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@contextmanager
def results_on_stderr(wanted: bool) -> Iterator[None]:
    """While it is open, and wanted, stdout is left to a report."""
    global _on_stderr
    before, _on_stderr = _on_stderr, wanted
    try:
        yield
    finally:
        _on_stderr = before
