"""Reports to make pages of: a real, small run's, and made-up ones written to files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import report_samples
from browser import Page, browser
from hostile_reports import hostile_reports
from support import whatever_is_measured_counts

from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.benchmark import clock, limits
from iresnet_export.benchmark.bench import bench
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.evaluation import EvalOptions, accuracies, eval_report
from iresnet_export.exporting import export_artifact
from iresnet_export.reporting.documents import verify_report
from iresnet_export.reporting.report import ReportOptions, make_report
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models.files import write_json

Write = Callable[..., list[Path]]


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> list[Path]:
    """verify.json, bench.json and eval.json of iResNet-18 in two formats, as the commands write them."""
    folder = tmp_path_factory.mktemp("real")
    paths = [
        export_artifact(name, small_source, ExportOptions(), output=folder / file).path
        for name, file in (("onnx", "small.onnx"), ("torchscript", "small.ts"))
    ]
    names = ("onnxruntime", "torchscript")
    checks = VerifyOptions(images=32, batch_sizes=(1,), localise=True, backends=names)
    speed = BenchOptions(seconds=0.02, warmup_seconds=0.0, backends=names, memory=False)
    counts = EvalOptions(data="digits", backends=names)
    verification = verify(paths, checks)
    write_json(folder / "verify.json", verify_report(verification, checks).to_json())
    with pytest.MonkeyPatch.context() as patch:  # what is measured here is not looked at
        patch.setattr(clock, "RUNS_PER_TURN_SECONDS", 0.01)
        whatever_is_measured_counts(patch)
        patch.setattr(limits, "SECONDS", 0.01)
        write_json(folder / "bench.json", bench(paths[:1], speed, verification=verification).to_json())
    write_json(folder / "eval.json", eval_report(accuracies(paths[:1], counts), counts).to_json())
    return [folder / name for name in ("verify.json", "bench.json", "eval.json")]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes documents to `<name>.json`."""

    def to_files(**documents: object) -> list[Path]:
        paths = [tmp_path / f"{name}.json" for name in documents]
        for path, document in zip(paths, documents.values(), strict=True):
            path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return paths

    return to_files


@dataclass(frozen=True)
class Shown:
    """Reports and the page that was made of them, once for all tests that look at it."""

    reports: list[Path]
    page: Path

    @property
    def text(self) -> str:
        return self.page.read_text(encoding="utf-8")


def shown(folder: Path, documents: dict[str, Any]) -> Shown:
    reports = [folder / f"{name}.json" for name in documents]
    for path, document in zip(reports, documents.values(), strict=True):
        path.write_text(json.dumps(document), encoding="utf-8")
    return with_page(folder, reports)


def with_page(folder: Path, reports: list[Path]) -> Shown:
    page = folder / "page.html"
    page.write_text(make_report(reports, ReportOptions()).text, encoding="utf-8")
    return Shown(reports, page)


@pytest.fixture(scope="session")
def real_page(real: list[Path]) -> Shown:
    return with_page(real[0].parent, real)


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Reports that fill every section of a page."""
    documents = {"bench": report_samples.full_bench(), "verify": report_samples.verify()}
    documents |= {"eval": report_samples.evaluation(), "train": report_samples.training()}
    return shown(tmp_path_factory.mktemp("rich"), documents)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """Reports whose every text is an attack."""
    return shown(tmp_path_factory.mktemp("hostile"), hostile_reports())


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    """Chromium."""
    with browser() as opened:
        yield opened
