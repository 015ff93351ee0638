"""Markdown's own vocabulary: text, lists, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from iresnet_export.reporting.words import printable


def text(words: str) -> str:
    """On one line, nothing in it read as markup or as the end of a cell, nothing that turns or hides what follows."""
    return re.sub(r"([\\`*_{}\[\]<>|#~@])", r"\\\1", printable(" ".join(words.split())))


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """`columns`: names, and whether they are aligned right. Names and cells are Markdown already."""
    rule = ["---:" if right else "---" for _, right in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([name for name, _ in columns], rule, *rows))
