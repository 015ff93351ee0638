"""The main job in one call: train on the embedded digits, export, verify, evaluate, benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from iresnet_export.backends.base import ExportOptions
from iresnet_export.benchmark.bench import BenchOptions, Result, bench
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.progress import Progress
from iresnet_export.reporting.documents import bench_document, verify_document
from iresnet_export.source import source_from_checkpoint
from iresnet_export.verification.accuracy import Accuracy, EvalOptions, accuracies
from iresnet_export.verification.verify import Candidate, Verification, VerifyOptions, verify
from iresnet_models.files import write_json
from iresnet_train import Progress as TrainingProgress
from iresnet_train import TrainingResult, config_for, train

MARKER = "quickstart.json"
BACKENDS = ("torchscript", "onnxruntime", "tensorrt")


@dataclass(frozen=True)
class Row:
    """One line of the summary: the checkpoint in eager PyTorch, or an artifact."""

    path: Path
    backend: str
    size_bytes: int
    candidate: Candidate | None
    accuracy: Accuracy
    result: Result | None


@dataclass(frozen=True)
class Summary:
    """`missing` says which exports could not be made here, and why."""

    folder: Path
    training: TrainingResult
    verification: Verification
    rows: list[Row]
    missing: dict[str, str]


def train_digits(folder: Path, epochs: int | None, progress: Callable[[TrainingProgress], None] | None = None) -> TrainingResult:
    """Trains iResNet-18 on the embedded digits, in `folder`/run.

    Raises InputError if `folder` holds something that an earlier quickstart did not put there.
    """
    _claim(folder)
    return train(config_for("digits", result_path=folder / "run", overwrite=True, epochs=epochs), progress)


def deploy(folder: Path, training: TrainingResult, seconds: float, progress: Progress, say: Callable[[str], None]) -> Summary:
    """Exports the trained network to every format that can be had here, and verifies, evaluates and measures them all."""
    say("2. Exporting to TorchScript, ONNX and TensorRT; every weight is read back")
    paths, missing = _export_all(folder, training.best, progress)
    say("3. Verifying each against the float64 network, on held-out digits")
    verify_options = VerifyOptions()
    verification = verify(paths, verify_options, progress)
    write_json(folder / "verify.json", verify_document(verification, verify_options))
    say("4. Counting what each gets right, and measuring how fast it is")
    scores = accuracies([training.best, *paths], EvalOptions(), progress)
    bench_options = BenchOptions(seconds=seconds)
    results = bench(paths, bench_options, progress)
    write_json(folder / "bench.json", bench_document(results, bench_options))
    rows = _rows(training.best, paths, verification, scores, results)
    return Summary(folder, training, verification, rows, missing)


def _claim(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder with --output.")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise InputError(f"{folder} holds files that no quickstart put there. Name another folder with --output.")
    write_json(folder / MARKER, {"about": "made by iresnet-export quickstart, which may replace what is in this folder"})


def _export_all(folder: Path, checkpoint: Path, progress: Progress) -> tuple[list[Path], dict[str, str]]:
    source = source_from_checkpoint(checkpoint)
    paths, missing = [], {}
    for name, suffix in zip(BACKENDS, (".ts", ".onnx", ".engine"), strict=True):
        output = folder / "artifacts" / f"{source.spec.name}{suffix}"
        try:
            paths.append(export_artifact(name, source, ExportOptions(), output=output, force=True, progress=progress).path)
        except UnavailableError as error:
            missing[name] = str(error)
    return paths, missing


def _rows(
    checkpoint: Path, paths: list[Path], verification: Verification, scores: list[Accuracy], results: list[Result]
) -> list[Row]:
    verdicts = {candidate.artifact: candidate for candidate in verification.candidates}
    speeds = {result.artifact: result for result in results}
    eager = next((result for result in results if result.backend == "eager"), None)
    return [
        Row(
            path,
            score.backend,
            path.stat().st_size,
            verdicts.get(path),
            score,
            eager if path == checkpoint else speeds.get(path.name),
        )
        for path, score in zip([checkpoint, *paths], scores, strict=True)
    ]
