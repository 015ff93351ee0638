"""What was made of every image, a line each, written while it is found: CSV or JSON lines."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from iresnet_export.errors import InputError
from iresnet_export.evaluation import Keep, PredictedImage
from iresnet_export.reporting.csv_report import cell
from iresnet_models.files import json_line, replacing
from iresnet_models.image_files import printable

COLUMNS = tuple(entry.name for entry in fields(PredictedImage))
SUFFIXES = (".csv", ".jsonl")


@contextmanager
def predictions_file(path: Path | None) -> Iterator[Keep | None]:
    """Takes images and writes them to `path`, whole or not at all; nothing where no file was named.

    InputError for a name that ends in neither .csv nor .jsonl.
    """
    if path is None:
        yield None
        return
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--predictions {path} ends in neither {' nor '.join(SUFFIXES)};", "name a file that does.")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="") as file:
        table = path.suffix.lower() == ".csv"
        yield _csv_lines(csv.writer(file, lineterminator="\n").writerow) if table else _json_lines(file.write)


def _csv_lines(write: Callable[[tuple[object, ...]], object]) -> Keep:
    write(COLUMNS)

    def keep(images: Iterator[PredictedImage]) -> None:
        for one in images:
            write(tuple("" if value is None else cell(_shown(value)) for value in asdict(one).values()))

    return keep


def _shown(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def _json_lines(write: Callable[[str], object]) -> Keep:
    def keep(images: Iterator[PredictedImage]) -> None:
        for one in images:
            write(json_line(asdict(one)).decode())

    return keep
