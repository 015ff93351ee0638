"""`bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iresnet_export.cli.console import notice, progress_bar, say, show, write_report
from iresnet_export.cli.options import BackendNames, Device, JsonFile, Trust, device_from_option, integers
from iresnet_export.errors import InputError


def bench(
    artifacts: Annotated[
        list[Path] | None, typer.Argument(help="Artifacts. Default: all in artifacts/.", show_default=False)
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, such as 1,8,32.")] = "1",
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads of each backend. Default: one for each usable core.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Measured time for each candidate and batch size.")] = 3.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of turns, and of the images.")] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="The network of artifacts that have no descent.", show_default=False)
    ] = None,
    device: Device = "auto",
    backend: BackendNames = None,
    trust: Trust = False,
    json: JsonFile = None,
) -> None:
    """Measure latency: artifacts in turn with eager PyTorch, host to host.

    Candidates take turns in random order, round after round, so that a drift of the machine hits all alike; speed-ups are paired
    round by round.
    """
    from iresnet_export.benchmark.bench import BenchOptions
    from iresnet_export.benchmark.bench import bench as bench_artifacts
    from iresnet_export.reporting.documents import bench_document
    from iresnet_export.reporting.tables import bench_table

    options = BenchOptions(
        batch_sizes=integers(batch, "--batch"),
        device=device_from_option(device),
        threads=threads,
        seconds=seconds,
        seed=seed,
        checkpoint=checkpoint,
        trust=trust,
        backends=tuple(backend or ()),
    )
    with progress_bar() as progress:
        results = bench_artifacts(artifacts or _artifacts_here(), options, progress)
    say(f"Latency on {options.device.type}, {options.thread_count} threads, from images in host memory to logits in host memory.")
    show(bench_table(results))
    for reason in dict.fromkeys(f"{result.artifact}: skipped: {result.reason}" for result in results if result.reason):
        say(reason)
    write_report(json, bench_document(results, options))
    if not any(result.status == "ok" and result.backend != "eager" for result in results):
        notice("None of the artifacts could be run here.")
        raise typer.Exit(3)


def _artifacts_here() -> list[Path]:
    from iresnet_export.artifact import SUFFIXES

    found = sorted(path for path in Path("artifacts").glob("*") if path.suffix in SUFFIXES)
    if not found:
        raise InputError(
            "No artifact was named, and there is none in artifacts/. Export one first, such as with: iresnet-export onnx --depth 50"
        )
    return found
