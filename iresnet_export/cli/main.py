"""The program: its commands, and what an error looks like and exits with."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from iresnet_export import __version__
from iresnet_export.cli.bench import bench
from iresnet_export.cli.doctor import doctor
from iresnet_export.cli.evaluate import evaluate
from iresnet_export.cli.export_pt2 import pt2
from iresnet_export.cli.export_trt import trt
from iresnet_export.cli.exports import onnx, torchscript
from iresnet_export.cli.info import inspect, models
from iresnet_export.cli.predict import predict
from iresnet_export.cli.quickstart import quickstart
from iresnet_export.cli.report import report
from iresnet_export.cli.train import train
from iresnet_export.cli.verify import verify
from iresnet_export.errors import IResNetError
from iresnet_export.reporting.words import printable

DEBUG = "--debug"

app = typer.Typer(
    name="iresnet-export",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command, name, panel in (
    (quickstart, "quickstart", "Start"),
    (train, "train", "Train"),
    (evaluate, "eval", "Train"),
    (torchscript, "torchscript", "Export"),
    (pt2, "pt2", "Export"),
    (onnx, "onnx", "Export"),
    (trt, "trt", "Export"),
    (verify, "verify", "Check and measure"),
    (bench, "bench", "Check and measure"),
    (report, "report", "Check and measure"),
    (predict, "predict", "Use"),
    (doctor, "doctor", "Look"),
    (models, "models", "Look"),
    (inspect, "inspect", "Look"),
):
    app.command(name, rich_help_panel=panel)(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iresnet-export {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True, show_default=False)
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error (works after a command too).")] = False,
) -> None:
    """Train iResNet and ResNet, export them to TorchScript, ONNX and TensorRT, and prove that what runs is what was trained."""


def main() -> None:
    """Runs the command line. Exit statuses: docs/command-line.md."""
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    debug = len(arguments) < len(sys.argv) - 1
    if "bench" not in arguments[:1]:
        _spin_shortly()  # what measures latency leaves PyTorch as it comes
    try:
        app(args=arguments, prog_name="iresnet-export")
    except Exception as error:
        if debug:
            raise
        message, status = _explained(error)
        print(f"iresnet-export: {printable(message)}", file=sys.stderr)  # noqa: T201 - the one place where errors are shown
        sys.exit(status)
    except KeyboardInterrupt:
        sys.exit(130)


def _spin_shortly() -> None:
    """Has threads spin at OpenMP's barriers for a fraction of a millisecond and then sleep, unless the user has said how to wait.

    As it comes, PyTorch's library lets them spin for long: where other programs hold the cores, they keep the one that they wait
    for from running (training took twice to five times as long). Sleeping at once (OMP_WAIT_POLICY=PASSIVE) makes small networks
    half as fast. This is as fast as the former on an idle machine, and nearly as fast as the latter on a busy one.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _explained(error: Exception) -> tuple[str, int]:
    """One paragraph for the user, and the exit status."""
    if isinstance(error, IResNetError):
        return str(error), error.exit_status
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full ({error}). Free some space and run the command again.", 3
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"There is not enough memory ({error}). Use a smaller --batch, fewer --images or another device.", 3
    name = os.path.basename(sys.argv[0])
    return (
        f"This is a fault of {name}, not of yours: {type(error).__name__}: {error}. Please report it with the output of the "
        "same command "
        f"and {DEBUG}, which shows where it happened.",
        4,
    )


if __name__ == "__main__":
    main()
