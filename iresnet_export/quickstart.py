"""The main job in one call: train on the embedded digits, export, verify, evaluate, benchmark, and show it on one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.source import source_from_checkpoint
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.registry import format_named
from iresnet_export.benchmark.bench import bench
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.errors import InputError, PreemptedError, UnavailableError
from iresnet_export.evaluation import EvalOptions, accuracies, eval_report
from iresnet_export.exporting import default_output, export_artifact
from iresnet_export.reporting.documents import verify_report
from iresnet_export.reporting.report import ReportOptions, make_report
from iresnet_export.reporting.schemas import BenchResult, Evaluated, VerifyCandidate, VerifyReport
from iresnet_export.system.environment import environment
from iresnet_export.system.progress import Progress
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models.files import write_json, write_text
from iresnet_models.precisions import Precision
from iresnet_train import Progress as TrainingProgress
from iresnet_train import TrainingResult, config_for, train

MARKER = "quickstart.json"
EXPORTS: tuple[tuple[FormatName, Precision], ...] = (
    ("torchscript", "fp32"),
    ("onnx", "fp32"),
    ("onnx", "bf16"),
    ("onnx", "int8"),
    ("engine", "fp32"),
)


@dataclass(frozen=True)
class Row:
    """One line of the summary: the checkpoint in eager PyTorch, or an artifact as a backend runs it."""

    path: Path
    backend: str
    precision: str
    size_bytes: int
    candidate: VerifyCandidate | None
    accuracy: Evaluated
    result: BenchResult | None

    @property
    def latency(self) -> float | None:
        """Median in milliseconds."""
        return self.result.latency_ms.p50 if self.result is not None and self.result.latency_ms is not None else None

    @property
    def is_steady(self) -> bool:
        return self.latency is not None and self.result is not None and self.result.status == "ok"


@dataclass(frozen=True)
class Summary:
    """`missing` says which exports could not be made here, and why; `page` shows all of it."""

    folder: Path
    training: TrainingResult
    verification: VerifyReport
    rows: list[Row]
    missing: dict[str, str]
    page: Path
    warnings: tuple[str, ...] = ()
    """What the machine did to the figures."""

    @property
    def fastest(self) -> Row | None:
        """The fastest of those that passed, with a measurement that is one figure."""
        passed = [row for row in self.rows if row.candidate is not None and row.candidate.status == "pass" and row.is_steady]
        return min(passed, key=lambda row: row.latency or 0.0, default=None)


def train_digits(folder: Path, epochs: int | None, progress: Callable[[TrainingProgress], None] | None = None) -> TrainingResult:
    """Trains iResNet-18 on the embedded digits, in `folder`/run.

    Raises InputError if `folder` holds something that an earlier quickstart did not put there, and PreemptedError when stopped.
    """
    _claim(folder)
    config = config_for("digits", result_path=folder / "run", overwrite=True, epochs=epochs)
    try:
        return train(config, progress, environment=environment())
    except PreemptedError as error:
        raise type(error)("The quickstart was stopped while it trained. Run it again: it begins anew.") from error


def deploy(folder: Path, training: TrainingResult, seconds: float, progress: Progress, say: Callable[[str], None]) -> Summary:
    """Exports the trained network to every format that can be had here, and verifies, evaluates and measures them all."""
    say("2. Exporting to TorchScript, ONNX (fp32, bf16, int8) and TensorRT; every weight is read back")
    paths, missing = _export_all(folder, training.best, progress)
    say("3. Verifying each against the float64 network, on held-out digits")
    verify_options = VerifyOptions()
    verification = verify(paths, verify_options, progress)
    verified = verify_report(verification, verify_options)
    write_json(folder / "verify.json", verified.to_json())
    say("4. Counting what each gets right, and measuring how fast it is")
    eval_options = EvalOptions()
    evaluated = eval_report(accuracies([training.best, *paths], eval_options, progress), eval_options)
    write_json(folder / "eval.json", evaluated.to_json())
    bench_options = BenchOptions(seconds=seconds, memory=False)
    report = bench(paths, bench_options, progress, verification=verification)
    write_json(folder / "bench.json", report.to_json())
    page = _page(folder)
    rows = _rows([training.best, *paths], verified, evaluated.results, report.results)
    return Summary(folder, training, verified, rows, missing, page, report.environment.warnings)


def _claim(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file;", "name a folder with --output.")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise InputError(f"{folder} holds files that no quickstart put there.", "Name another folder with --output.")
    write_json(folder / MARKER, {"about": "made by iresnet-export quickstart, which may replace what is in this folder"})


def _export_all(folder: Path, checkpoint: Path, progress: Progress) -> tuple[list[Path], dict[str, str]]:
    source = source_from_checkpoint(checkpoint)
    paths, missing = [], {}
    for name, precision in EXPORTS:
        options = ExportOptions(precision=precision)
        output = default_output(format_named(name), source, options, folder / "artifacts")
        try:
            paths.append(export_artifact(name, source, options, output=output, force=True, progress=progress).path)
        except UnavailableError as error:
            missing[output.name] = str(error)
    return paths, missing


def _page(folder: Path) -> Path:
    """Writes the page of all reports that are there; training leaves one of its own."""
    reports = [folder / "verify.json", folder / "eval.json", folder / "bench.json", folder / "run" / "train.json"]
    made = make_report([path for path in reports if path.exists()], ReportOptions())
    write_text(folder / "report.html", made.text)
    return folder / "report.html"


def _rows(paths: Sequence[Path], verified: VerifyReport, scores: Sequence[Evaluated], results: Sequence[BenchResult]) -> list[Row]:
    """One for each file and each backend that runs it."""
    files = {path.name: path for path in paths}
    verdicts = {(one.artifact, one.backend): one for one in verified.candidates}
    speeds = {(one.artifact, one.backend): one for one in results}
    eager = next((one for one in results if one.is_baseline), None)
    rows = []
    for score in scores:
        path, key = files[score.artifact], (score.artifact, score.backend)
        candidate = verdicts.get(key)
        result = eager if path == paths[0] else speeds.get(key)
        precision = "fp32" if candidate is None else candidate.precision
        rows.append(Row(path, score.backend, precision, path.stat().st_size, candidate, score, result))
    return rows
