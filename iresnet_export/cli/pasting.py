"""Command lines that are shown to be pasted into a shell."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from iresnet_export.reporting.words import one_line


def command_line(*words: object) -> str:
    """`iresnet-export` with these words, quoted for a shell; a path that begins with a dash is no option."""
    return " ".join(["iresnet-export", *(_quoted(_word(word)) for word in words)])


def export_of(checkpoint: Path, data: str | None, *options: str) -> str:
    """The command that exports a checkpoint; `data`, what it was trained on, is named where a file cannot say where it lies.

    Ranges of int8 and the fold's bounds are measured over training images. Embedded data sets travel with the program.
    """
    from iresnet_data.named_data import is_embedded

    images: tuple[object, ...] = ()
    if data is not None and not is_embedded(data) and Path(data).is_dir():
        images = ("--calibration-data", Path(data))
    return command_line("onnx", "--checkpoint", checkpoint, *options, *images)


def _word(word: object) -> str:
    text = str(word)
    return f".{os.sep}{text}" if isinstance(word, Path) and text.startswith("-") else text


def _quoted(word: str) -> str:
    if one_line(word) == word:
        return shlex.quote(word)
    # What cannot be shown as it is: bash, zsh and ksh read bytes so.
    shown = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(shown)}'"
