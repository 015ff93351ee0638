"""Tables and texts as a terminal shows them: in its width, and with nothing in them that acts on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from iresnet_export.reporting.tables import Cell, Table, Tone
from iresnet_export.reporting.words import printable

_STYLES: dict[Tone, str] = {"good": "green", "bad": "bold red", "warn": "yellow", "quiet": ""}
_LEAST = (24, 16, 12)
"""Columns of text are folded to no fewer characters than this; the first one at which something fits."""


def safe(text: str | Text) -> str | Text:
    """Text with what would act on a terminal written out."""
    plain = text.plain if isinstance(text, Text) else text
    shown = printable(plain)
    return text if shown == plain else Text(shown, text.style) if isinstance(text, Text) else shown


def rich_tables(made: Table, width: int) -> list[RichTable]:
    """The table in as many parts as it takes to fit so many characters."""
    return [_rich(part, widths) for part, widths in fitted(made, width)]


def _rich(made: Table, widths: Sequence[int | None]) -> RichTable:
    shown = RichTable(
        title=made.caption or None, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False,
        collapse_padding=True, show_header=any(column.name for column in made.columns),
    )  # fmt: skip
    for column, width in zip(made.columns, widths, strict=True):
        shown.add_column(column.name, justify="right" if column.right else "left", overflow="fold", width=width)
    for row in made.rows:
        shown.add_row(*map(_text, row))
    return shown


def _text(cell: Cell) -> str | Text:
    style = _STYLES[cell.tone] if cell.tone else "bold" if cell.strong else ""
    return Text(cell.text, style) if style else cell.text


def fitted(made: Table, width: int) -> list[tuple[Table, list[int]]]:
    """The table in as many parts, one below the other, as it takes to fit so many characters, with the widths of its columns.

    Each part says what its rows are of. Figures are never folded, text is to no fewer than a dozen characters. A row that says
    nothing in a part is left out there.
    """
    count, keys = len(made.columns), list(range(made.keys))
    natural = [max(cell_len(line) for text in _texts(made, index) for line in text.split("\n")) for index in range(count)]
    for least in _LEAST:
        needed = [_needed(made, index, least) for index in range(count)]
        if _framed([needed[index] for index in keys] + [max(needed[made.keys :], default=0)]) <= width:
            break
    parts: list[list[int]] = [[]]
    for index in range(made.keys, count):
        if parts[-1] and _framed([needed[place] for place in (*keys, *parts[-1], index)]) > width:
            parts.append([])
        parts[-1].append(index)
    shown = []
    for part in parts:
        columns = [*keys, *part]
        widths = _widths([needed[index] for index in columns], [natural[index] for index in columns], width)
        shown.append((made if len(parts) == 1 else _part(made, columns, first=part is parts[0]), widths))
    return shown


def _widths(needed: Sequence[int], natural: Sequence[int], width: int) -> list[int]:
    """What each column gets: what it needs, and of the rest what brings the narrowest nearest to their longest line."""
    widths = list(needed)
    while _framed(widths) < width and widths != list(natural):
        index = max(range(len(widths)), key=lambda place: natural[place] - widths[place])
        widths[index] += 1
    return widths


def _texts(made: Table, index: int) -> list[str]:
    return [made.columns[index].name, *(row[index].text for row in made.rows)]


def _needed(made: Table, index: int, least: int) -> int:
    """The fewest characters that a column takes: figures whole, text at least so many, each word of the head whole."""
    head, *cells = _texts(made, index)
    longest = max((cell_len(line) for text in cells for line in text.split("\n")), default=0)
    words = max(map(cell_len, head.split()), default=0)
    return max(words, longest if made.columns[index].right else min(longest, least))


def _framed(widths: Sequence[int]) -> int:
    """What columns take with what stands between and beside them."""
    return sum(widths) + 2 * len(widths)


def _part(made: Table, columns: Sequence[int], first: bool) -> Table:
    rows = (row for row in made.rows if first or any(row[index].text for index in columns[made.keys :]))
    return dataclasses.replace(
        made,
        caption=made.caption if first else "",
        columns=tuple(made.columns[index] for index in columns),
        rows=tuple(tuple(row[index] for index in columns) for row in rows),
    )
