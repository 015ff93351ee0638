"""`bench`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from iresnet_export.cli.console import bold, is_standard_output, notice, say, show, write_report
from iresnet_export.cli.options import (
    MOST_BATCH,
    MOST_IMAGES,
    MOST_RATE,
    MOST_REPEATS,
    MOST_SECONDS,
    MOST_SEED,
    MOST_THREADS,
    BackendNames,
    Device,
    JsonFile,
    NetworkFile,
    OrtCuda,
    Trust,
    WhichOfFile,
    device_from_option,
    digits_or_folder,
    finite,
    integers,
    offering,
    runtimes_from_options,
)
from iresnet_export.errors import InputError

if TYPE_CHECKING:
    from iresnet_export.benchmark.clock import Samples
    from iresnet_export.benchmark.options import Mode
    from iresnet_export.reporting.schemas import BenchReport, BenchResult
    from iresnet_export.reporting.tables import Table
    from iresnet_export.system.progress import Progress

WHAT, PARITY, SERVER = "What is measured", "Parity and recommendation", "Mode server"


def bench(
    artifacts: Annotated[
        list[Path] | None, typer.Argument(help="Artifacts. Default: all in artifacts/.", show_default=False)
    ] = None,
    mode: Annotated[
        str, typer.Option(
            "--mode",
            help="latency, throughput, server, cold, or several: latency,cold.",
            rich_help_panel=WHAT,
            autocompletion=offering("latency", "throughput", "server", "cold"),
        ),
    ] = "latency",
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes of mode latency, such as 1,8,32.", rich_help_panel=WHAT)] = "1",
    threads: Annotated[
        str | None,
        typer.Option(
            "--threads",
            help="CPU threads of each backend, such as 2 or 1,2,4. Default: one for each usable core.",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            help="Measured time for each candidate and batch size.",
            rich_help_panel=WHAT,
            max=MOST_SECONDS,
            callback=finite,
        ),
    ] = 3.0,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats",
            help="Fresh processes for each candidate in mode cold.",
            rich_help_panel=WHAT,
            min=1,
            max=MOST_REPEATS,
        ),
    ] = 5,
    peers: Annotated[
        bool,
        typer.Option("--peers", help="Also plain ONNX, other quantizers, torch.compile, torchvision.", rich_help_panel=WHAT),
    ] = False,
    memory: Annotated[
        bool,
        typer.Option("--memory/--no-memory", help="Peak memory, in a process of its own each.", rich_help_panel=WHAT),
    ] = True,
    limits: Annotated[
        bool, typer.Option("--limits/--no-limits", help="Measure what the machine can do at most.", rich_help_panel=WHAT)
    ] = True,
    rate: Annotated[
        str | None, typer.Option("--rate", help="Requests a second, such as 20,40.", rich_help_panel=SERVER, show_default=False)
    ] = None,
    p99_limit: Annotated[
        float | None,
        typer.Option(
            "--p99-limit",
            help="Look for the highest rate whose p99 stays within these milliseconds.",
            rich_help_panel=SERVER,
            show_default=False,
            max=1e3 * MOST_SECONDS,
            callback=finite,
        ),
    ] = None,
    skip_verify: Annotated[
        bool, typer.Option("--skip-verify", help="Measure without verifying; the table says so.", rich_help_panel=PARITY)
    ] = False,
    images: Annotated[
        int | None,
        typer.Option(
            "--images", help="To verify over. Default: 32, or 500 with --max-accuracy-drop.", rich_help_panel=PARITY, min=1,
            max=MOST_IMAGES, show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="`digits` or a folder. Default: as `verify`.",
            rich_help_panel=PARITY,
            show_default=False,
            autocompletion=digits_or_folder,
        ),
    ] = None,
    recommend: Annotated[
        bool, typer.Option("--recommend", help="Say which artifact and backend to take on this machine.", rich_help_panel=PARITY)
    ] = False,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(
            "--max-accuracy-drop",
            help="Recommend only what is shown to lose at most so many percentage points.",
            rich_help_panel=PARITY,
            show_default=False,
            min=0,
            max=100,
            callback=finite,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="SEED", help="Of the order of turns, of arrivals and of the images.", min=0, max=MOST_SEED
        ),
    ] = 0,
    checkpoint: NetworkFile = None,
    which: WhichOfFile = None,
    device: Device = "auto",
    backend: BackendNames = None,
    ort_cuda: OrtCuda = None,
    trust: Trust = False,
    json: JsonFile = None,
) -> None:  # fmt: skip
    """Measure latency, throughput, a server's response times or cold starts: artifacts in turn with eager PyTorch, host to host.

    Each artifact is verified first. Candidates take turns in random order, round after round, so that a drift of the machine hits
    all alike; speed-ups are paired round by round.
    """
    from iresnet_export.benchmark.bench import bench as bench_artifacts
    from iresnet_export.benchmark.options import BenchOptions
    from iresnet_models.files import write_json

    options = BenchOptions(
        modes=_modes(mode),
        batch_sizes=integers(batch, "--batch", MOST_BATCH),
        device=device_from_option(device),
        threads=() if threads is None else integers(threads, "--threads", MOST_THREADS),
        seconds=seconds,
        seed=seed,
        rates=() if rate is None else _numbers(rate, "--rate"),
        p99_limit_ms=p99_limit,
        repeats=repeats,
        checkpoint=checkpoint,
        which=which,
        trust=trust,
        backends=runtimes_from_options(backend, ort_cuda),
        peers=peers,
        verify=not skip_verify,
        images=images,
        data=data,
        recommend=recommend,
        max_accuracy_drop=max_accuracy_drop,
        memory=memory,
        limits=limits,
    )

    kept = False

    def keep(unfinished: BenchReport) -> None:
        nonlocal kept
        if json is not None and (json.is_file() or not json.exists()) and not is_standard_output(json):
            write_json(json, unfinished.to_json())
            kept = True

    try:
        with _live() as (progress, watch):
            chosen = artifacts or _artifacts_here()
            report = bench_artifacts(chosen, options, progress, watch=watch, keep=None if json is None else keep)
    except KeyboardInterrupt:
        if kept:
            notice(f"What was measured until then is in {json}.")
        raise
    write_report(json, report)
    counts = " and ".join(map(str, options.thread_counts))
    say(f"On {options.device.type}, with {counts} threads, from images in host memory to logits in host memory.")
    for made in _tables(report.results):
        show(made)
    _explain(report, recommend)
    if not report.measured:
        notice("None of the artifacts could be run here.")
        raise typer.Exit(3)
    if any(result.status == "failed_parity" and not result.peer for result in report.results):
        notice("What failed verification has no verdict on its speed; `iresnet-export verify` says more.")
        raise typer.Exit(1)
    if recommend and report.recommendation is None:
        raise typer.Exit(1)


def _explain(report: BenchReport, recommend: bool) -> None:
    from iresnet_export.benchmark.recommendation import unsteady_baseline
    from iresnet_export.reporting.remarks import bench_remarks, limits_in_words
    from iresnet_export.system.machine import under_load

    for line in (*limits_in_words(report.limits or ()), *bench_remarks(report)):
        say(line)
    if report.recommendation is not None:
        sentence = report.recommendation.sentence
        say(sentence if under_load(report.environment.warnings) else bold(sentence))
    elif recommend:
        whys = dict.fromkeys(why for result in report.results if (why := unsteady_baseline(result)))
        why = "; ".join(whys) or "no artifact passed verification with a stable measurement"
        say(f"Nothing can be recommended: {why}.")


def _tables(results: Sequence[BenchResult]) -> list[Table]:
    from iresnet_export.reporting.collection import Measured
    from iresnet_export.reporting.tables import measurement_tables

    return measurement_tables([Measured(result, parity=result.parity) for result in results])


def _so_far(samples: Sequence[Samples]) -> Table:
    """What is being measured, and its median so far."""
    from statistics import median

    from iresnet_export.reporting.tables import table

    def middle(sample: Samples) -> str:
        return f"{median(sample.all):.2f}" if sample.rounds else "failed" if sample.failure else ""

    rows = [[sample.name, middle(sample), str(len(sample.rounds))] for sample in samples]
    return table("so-far", "", ("measuring in turns", ">median ms so far", ">turns"), rows)


@contextmanager
def _live() -> Iterator[tuple[Progress, Callable[[Sequence[BenchResult], Sequence[Samples]], None]]]:
    """On a terminal: a bar, and tables that grow while they are measured, on stderr. Nothing where stderr is not one."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from iresnet_export.reporting.terminal import rich_tables
    from iresnet_export.reporting.words import one_line

    console = Console(stderr=True, markup=False)
    bar = Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), console=console
    )
    task = bar.add_task("", total=1.0)
    if not console.is_terminal:
        yield lambda _step, _share: None, lambda _results, _samples: None
        return
    # Nothing is drawn but where the benchmark says so, between turns: a thread that draws would take time from what is measured.
    with Live(bar, console=console, transient=True, auto_refresh=False) as live:
        tables: list[Any] = []

        def update(step: str, share: float) -> None:
            bar.update(task, description=one_line(step), completed=share)
            live.update(Group(*tables, bar), refresh=True)

        def watch(results: Sequence[BenchResult], samples: Sequence[Samples]) -> None:
            made = [*_tables(results), *([_so_far(samples)] if samples else [])]
            tables[:] = [part for whole in made for part in rich_tables(whole, console.width)]

        yield update, watch


def _modes(text: str) -> tuple[Mode, ...]:
    """Names as they are: BenchOptions knows which there are."""
    return cast("tuple[Mode, ...]", tuple(dict.fromkeys(part.strip() for part in text.split(","))))


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        numbers = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError as error:
        raise InputError(f"{option} takes numbers separated by commas, such as 20,40; not {text!r}.") from error
    if max(numbers) > MOST_RATE:
        raise InputError(f"{option} takes numbers up to {MOST_RATE:,.0f}, not {max(numbers):g}.")
    return numbers


def _artifacts_here() -> list[Path]:
    from iresnet_export.artifacts.artifact import SUFFIXES

    found = sorted(path for path in Path("artifacts").glob("*") if path.suffix in SUFFIXES)
    if not found:
        raise InputError(
            "No artifact was named, and there is none in artifacts/.",
            "Export one first, such as with: iresnet-export onnx --depth 50",
        )
    return found
