"""`doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iresnet_export.cli.console import notice, progress_bar, show, write_report
from iresnet_export.cli.options import JsonFile


def doctor(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Also say what each engine in this folder would do here.", show_default=False),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Say what this machine can export, run and train, and of the rest why not, with the remedy.

    Everything is tried with a small network, in a temporary folder. Exit status: 0 if anything can be both exported and run,
    else 3.
    """
    from iresnet_export.doctor import diagnose
    from iresnet_export.reporting.tables import doctor_tables

    with progress_bar() as progress:
        report = diagnose(folder, progress)
    for made in doctor_tables(report):
        show(made)
    write_report(json, report)
    if not report.usable:
        notice("Nothing can be both exported and run here; the table says what is missing.")
        raise typer.Exit(3)
