"""`train` and `eval`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iresnet_export.cli.console import notice, progress_bar, say, show, write_report
from iresnet_export.cli.options import BackendNames, Device, JsonFile, Trust, device_from_option, integers

if TYPE_CHECKING:
    from iresnet_train import Progress as TrainingProgress

RECIPE, NETWORK = "Recipe (each replaces the preset's value)", "Network"
_preset = "Default: the preset's."


def train(
    data: Annotated[
        str, typer.Option("--data", help="`digits`, or a folder with train/ and val/ and in each a folder for every class.")
    ],
    arch: Annotated[
        str | None, typer.Option("--arch", help="Family. Default: iresnet.", show_default=False, rich_help_panel=NETWORK)
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", help="Depth. Default: 50; 18 for digits.", show_default=False, rich_help_panel=NETWORK)
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option("--groups", help="Groups of a group family. Default: 64.", show_default=False, rich_help_panel=NETWORK),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option("--dropout", help="Dropout before the classifier. Default: 0.", show_default=False, rich_help_panel=NETWORK),
    ] = None,
    zero_init_residual: Annotated[
        bool, typer.Option("--zero-init-residual", help="Start every block as its shortcut.", rich_help_panel=NETWORK)
    ] = False,
    pretrained: Annotated[
        Path | None, typer.Option("--pretrained", help="A checkpoint to start from.", show_default=False, rich_help_panel=NETWORK)
    ] = None,
    result_path: Annotated[
        Path | None, typer.Option("--result-path", help="Folder of the run. Default: runs/<arch><depth>.", show_default=False)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    preset: Annotated[
        str | None, typer.Option("--preset", help="`official` or `digits`. Default: what suits the data.", show_default=False)
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help=_preset, show_default=False, rich_help_panel=RECIPE)] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help=_preset, show_default=False, rich_help_panel=RECIPE)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option("--lr", help="Learning rate for the whole batch. " + _preset, show_default=False, rich_help_panel=RECIPE),
    ] = None,
    lr_schedule: Annotated[
        str | None,
        typer.Option("--lr-schedule", help="`steps` or `cosine`. " + _preset, show_default=False, rich_help_panel=RECIPE),
    ] = None,
    lr_steps: Annotated[
        str | None,
        typer.Option(
            "--lr-steps",
            help="Epochs after which the rate falls tenfold, such as 30,60,80.",
            show_default=False,
            rich_help_panel=RECIPE,
        ),
    ] = None,
    warmup_epochs: Annotated[
        int | None, typer.Option("--warmup-epochs", help=_preset, show_default=False, rich_help_panel=RECIPE)
    ] = None,
    momentum: Annotated[float | None, typer.Option("--momentum", help=_preset, show_default=False, rich_help_panel=RECIPE)] = None,
    nesterov: Annotated[
        bool | None, typer.Option("--nesterov/--no-nesterov", help=_preset, show_default=False, rich_help_panel=RECIPE)
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", help=_preset, show_default=False, rich_help_panel=RECIPE)
    ] = None,
    train_crop_size: Annotated[
        int | None, typer.Option("--train-crop-size", help="Pixels. " + _preset, show_default=False, rich_help_panel=RECIPE)
    ] = None,
    val_resize: Annotated[
        int | None, typer.Option("--val-resize", help="Pixels. " + _preset, show_default=False, rich_help_panel=RECIPE)
    ] = None,
    val_crop_size: Annotated[
        int | None, typer.Option("--val-crop-size", help="Pixels. " + _preset, show_default=False, rich_help_panel=RECIPE)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Default: 0.", show_default=False)] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", help="Processes that load images. Default: one a core, up to 8; none for digits.", show_default=False
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Train a network; leaves log.csv, last.pt and best.pt in the run's folder.

    Image folders are trained by the official recipe (90 epochs, SGD, learning rate 0.1 for batches of 256), the embedded digits
    by a short one.
    """
    from iresnet_train import config_for
    from iresnet_train import train as train_network

    config = config_for(
        data,
        preset,
        arch=arch,
        depth=depth,
        groups=groups,
        dropout=dropout,
        zero_init_residual=zero_init_residual or None,
        pretrained=pretrained,
        result_path=result_path,
        overwrite=force,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        lr_schedule=lr_schedule,
        lr_steps=None if lr_steps is None else integers(lr_steps, "--lr-steps"),
        warmup_epochs=warmup_epochs,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        train_crop_size=train_crop_size,
        val_resize=val_resize,
        val_crop_size=val_crop_size,
        seed=seed,
        workers=workers,
        device=device,
    )
    with training_bar() as progress:
        result = train_network(config, progress)
    say(
        f"Best: {result.val_acc1:.2f} % top-1 on the held-out images, after epoch {result.best_epoch} of {result.epochs}; "
        f"{result.seconds:.0f} s, {result.images_per_second:.0f} images/s."
    )
    say(f"{result.best}: the best network; {result.last}: the last; {result.log}: a line an epoch.")
    say(f"Next: iresnet-export onnx --checkpoint {result.best}")


@contextmanager
def training_bar() -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar over all steps on a terminal; elsewhere a line when an epoch begins, so that a log stays readable."""
    if not sys.stderr.isatty():
        yield _line_per_epoch
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Training", total=None)

        def update(now: TrainingProgress) -> None:
            bar.update(
                task, total=now.epochs * now.steps, completed=(now.epoch - 1) * now.steps + now.step, description=_described(now)
            )

        yield update


def _described(now: TrainingProgress) -> str:
    accuracy = "" if now.val_acc1 is None else f", held-out {now.val_acc1:.1f} %"
    return f"Epoch {now.epoch}/{now.epochs}, loss {now.loss:.3f}, lr {now.lr:.3g}, {now.images_per_second:.0f} images/s{accuracy}"


def _line_per_epoch(now: TrainingProgress) -> None:
    if now.step == now.steps:
        notice(_described(now))


def evaluate(
    files: Annotated[
        list[Path], typer.Argument(metavar="MODEL_OR_ARTIFACT...", help="Checkpoints and artifacts.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", help="`digits` or a folder. Default: what the network was trained on.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images run at a time.", min=1)] = 32,
    workers: Annotated[int, typer.Option("--workers", help="Processes that load images.", min=0)] = 0,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="The network of artifacts that have no descent.", show_default=False)
    ] = None,
    device: Device = "auto",
    backend: BackendNames = None,
    trust: Trust = False,
    json: JsonFile = None,
) -> None:
    """Count top-1 and top-5 accuracy on held-out images, of checkpoints and artifacts alike."""
    from iresnet_export.reporting.documents import eval_document
    from iresnet_export.reporting.tables import eval_table
    from iresnet_export.verification.accuracy import EvalOptions, accuracies

    options = EvalOptions(data, batch_size, workers, device_from_option(device), checkpoint, trust, tuple(backend or ()))
    with progress_bar() as progress:
        found = accuracies(files, options, progress)
    show(eval_table(found))
    for accuracy in found:
        if accuracy.reason is not None:
            say(f"{accuracy.artifact}: skipped: {accuracy.reason}")
    write_report(json, eval_document(found, options))
    if not any(accuracy.status == "ok" for accuracy in found):
        raise typer.Exit(3)
