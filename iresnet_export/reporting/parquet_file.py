"""What `predict` found as a Parquet file, made of its lines of JSON.

A Parquet file can be read only when its end is written, so a run that was killed could not go on with one. Lines can be gone on
with; they are brought into row groups when all of them are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from iresnet_export.errors import InputError, MissingPackageError
from iresnet_models.files import replacing, require_place

ROWS, _BYTES = 65_536, 32 * 2**20
"""Of a row group at most, and of the lines that it is made of: what is in memory at a time."""


def require_parquet(file: Path) -> None:
    """Before any work: UnavailableError without pyarrow, InputError where `file` is there already."""
    if find_spec("pyarrow") is None:
        raise MissingPackageError("pyarrow", "Writing Parquet", "iresnet-export[parquet]")
    require_place(file)
    if file.exists():
        raise InputError(f"{file} is there already, and a Parquet file is only ever written whole.", "Name another, or remove it.")


def lines_of(file: Path) -> Path:
    """Where the lines of a Parquet file are until it is made, and they are removed: nothing that a user would call a file."""
    return file.with_name(f"{file.name}.lines.jsonl")


def parquet_from_lines(lines: Path, file: Path) -> None:
    """Writes the lines of `predict --jsonl` as a table of the same columns, row group after row group; whole or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    top = pa.struct([("class", pa.int64()), ("label", pa.string()), ("probability", pa.float64())])
    texts = [(name, pa.string()) for name in ("artifact", "sha256", "options")]
    schema = pa.schema([("file", pa.string()), ("status", pa.string()), ("reason", pa.string()), ("top", pa.list_(top)), *texts])
    with replacing(file) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows in _groups(lines):
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _groups(lines: Path) -> Iterator[list[dict[str, Any]]]:
    rows, size = list[dict[str, Any]](), 0
    with lines.open("rb") as file:
        for line in file:
            found = json.loads(line)
            rows.append(found | {"options": json.dumps(found["options"])})  # their names differ from run to run
            size += len(line)
            if len(rows) == ROWS or size >= _BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows
