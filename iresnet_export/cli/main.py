"""The program: its commands, and what an error looks like and exits with."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from typing import Annotated

import typer

from iresnet_export import __version__
from iresnet_export.cli.explaining import explained
from iresnet_export.cli.places import guarded
from iresnet_export.cli.process import READER_GONE, Stopped, be_somebody, ending_by_signals, standard_streams
from iresnet_export.errors import UnavailableError
from iresnet_export.reporting.words import printable

DEBUG = "--debug"

COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": ("quickstart:quickstart", "Start"),
    "train": ("train:train", "Train"),
    "eval": ("evaluate:evaluate", "Train"),
    "torchscript": ("exports:torchscript", "Export"),
    "pt2": ("export_pt2:pt2", "Export"),
    "onnx": ("exports:onnx", "Export"),
    "trt": ("export_trt:trt", "Export"),
    "verify": ("verify:verify", "Check and measure"),
    "bench": ("bench:bench", "Check and measure"),
    "report": ("report:report", "Check and measure"),
    "predict": ("predict:predict", "Use"),
    "doctor": ("doctor:doctor", "Look"),
    "models": ("info:models", "Look"),
    "inspect": ("info:inspect", "Look"),
}
"""Of each command its function, in which module of this package, and its panel in the help."""


def application(only: str | None = None) -> typer.Typer:
    """The command line. Where the command is known, `only` that one is imported and built: all take a tenth of a second."""
    app = typer.Typer(
        name="iresnet-export",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=options,
    )
    for name in (only,) if only in COMMANDS else COMMANDS:
        place, panel = COMMANDS[name]
        module, _, function = place.partition(":")
        command = getattr(import_module(f"iresnet_export.cli.{module}"), function)
        app.command(name, rich_help_panel=panel)(guarded(command))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iresnet-export {__version__}")
        raise typer.Exit


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
    be_somebody()
    with standard_streams() as out, ending_by_signals():
        status = _run(arguments, debug)
        out.flush()
        if out.error is not None and status in (0, 1):
            if out.reader_gone:
                status = READER_GONE  # a failed check would look the same to who reads `verify ... | head`
            else:
                status = _refused(UnavailableError(f"Standard output cannot be written ({out.error})."))
    sys.exit(status)


def _run(arguments: list[str], debug: bool) -> int:
    """The exit status of a command, whose error, if it has one, has been shown."""
    try:
        application(*arguments[:1])(args=arguments, prog_name="iresnet-export")
    except Stopped as stopped:
        print(f"iresnet-export: stopped by {stopped.name}; nothing half-written is left.", file=sys.stderr)  # noqa: T201
        return int(stopped.code or 0)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _refused(error)
    return 0


def _refused(error: Exception) -> int:
    message, status = explained(error, DEBUG)
    if status != READER_GONE:
        print(f"iresnet-export: {printable(message)}", file=sys.stderr)  # noqa: T201 - the one place where errors are shown
    return status


def _spin_shortly() -> None:
    """Has threads spin at OpenMP's barriers for a fraction of a millisecond and then sleep, unless the user has said how to wait.

    As it comes, PyTorch's library lets them spin for long: where other programs hold the cores, they keep the one that they wait
    for from running (training took twice to five times as long). Sleeping at once (OMP_WAIT_POLICY=PASSIVE) makes small networks
    half as fast. This is as fast as the former on an idle machine, and nearly as fast as the latter on a busy one.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


if __name__ == "__main__":
    main()
