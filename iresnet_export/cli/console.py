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

    from iresnet_export.progress import Progress
    from iresnet_export.reporting.tables import ResultTable

_PIPED_WIDTH = 200


def out() -> Console:
    """Stdout; plain and wide where it is not a terminal, so that no column is cut. Brackets are brackets: no markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def say(text: str | Text) -> None:
    """A line of the result; here as below, nothing in it acts on the terminal."""
    from iresnet_export.reporting.tables import safe

    out().print(safe(text), soft_wrap=True)


def notice(text: str | Text) -> None:
    """A line that is not part of the result."""
    from rich.console import Console

    from iresnet_export.reporting.tables import safe

    Console(stderr=True, highlight=False, markup=False).print(safe(text), soft_wrap=True)


def warn(text: str) -> None:
    """A notice of what may not be what the user wants."""
    from rich.text import Text

    notice(Text.assemble(("Warning:", "yellow"), f" {text}"))


def bold(text: str) -> Text:
    from rich.text import Text

    return Text(text, "bold")


def show(table: ResultTable) -> None:
    """A table, in as many parts as the terminal's width takes."""
    from iresnet_export.reporting.tables import fitted

    console = out()
    for part in fitted(table, console.width):
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


def write_report(path: Path | None, document: dict[str, Any]) -> None:
    """Writes a report where one was asked for, and says so."""
    if path is None:
        return
    from iresnet_models.files import write_json

    write_json(path, document)
    notice(f"Report: {path}")
