"""`models` and `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iresnet_export.cli.console import say, show, write_report
from iresnet_export.cli.options import ArchName, JsonFile, WhichOfFile


def models() -> None:
    """List the networks: 33 of seven families, with their size, work and published accuracy."""
    from iresnet_export.reporting.tables import table
    from iresnet_models.operations import multiply_accumulates, parameter_count
    from iresnet_models.spec import IMAGENET_TOP1, OFFICIAL_WEIGHTS, ModelSpec, list_models

    columns = ("arch", ">depth", ">parameters", ">multiply-accumulates", ">ImageNet top-1, published", "official weights")
    rows = []
    for arch, depth in list_models():
        spec = ModelSpec(arch, depth)
        sizes = f"{parameter_count(spec) / 1e6:.1f} M", f"{multiply_accumulates(spec) / 1e9:.2f} G"
        top1 = IMAGENET_TOP1.get((arch, depth))
        official = "yes" if (arch, depth) in OFFICIAL_WEIGHTS else ""
        rows.append([arch, str(depth), *sizes, "" if top1 is None else f"{top1:.2f} %", official])
    show(table("models", "", columns, rows, keys=2))
    say("Multiply-accumulates are for one image of 224 × 224 pixels. Official weights: --weights official.")


def inspect(
    artifact: Annotated[Path, typer.Argument(help="An artifact or a checkpoint.", show_default=False)],
    arch: Annotated[ArchName | None, typer.Option("--arch", help="Of a checkpoint that could be two.", show_default=False)] = None,
    which: WhichOfFile = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", help="Save a checkpoint's weights and network to this new file, .safetensors or .pt.", show_default=False
        ),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Say what a file is: its network and manifest, inputs and outputs, operators, and the precision of its weights.

    Of a checkpoint, also how it holds its weights, and which of them are taken.
    """
    from iresnet_export.inspection import inspect_file
    from iresnet_export.reporting.tables import Cell, table
    from iresnet_export.reporting.words import one_line

    found = inspect_file(artifact, arch=arch, which=which, save=save)
    show(table("file", "", ("", ""), [[Cell(key, strong=True), one_line(value)] for key, value in found.rows()]))
    if save is not None:
        say(f"{save}: the network, and the weights that were taken.")
    write_report(json, found.to_json())
