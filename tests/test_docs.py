"""What the docs name is there: runtimes by their names, and fields of reports."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from iresnet_export.backends.registry import NAMES
from iresnet_export.reporting.schemas import (
    Calibration,
    CalibrationBin,
    ClassChange,
    ClassChanges,
    ClassResult,
    Component,
    Confusion,
    Confusions,
    DoctorReport,
    EngineFile,
    Evaluated,
    Finding,
    Mistake,
)

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
TABLES = {"BACKEND", "NAME"}
"""What stands for a value in descriptions of options."""


def backends(text: str) -> set[str]:
    """What stands after `--backend`, and what the lists of the runtimes of `.pt2` programs hold."""
    named = set(re.findall(r"--backend[ =]([\w-]+)", text)) - TABLES
    for line in text.splitlines():
        if line.startswith("| `.pt2` |") or "`.pt2` program" in line:
            named |= set(re.findall(r"`([a-z_-]+)`", line))
    return named


def test_runtimes_go_by_their_names() -> None:
    named = {page.name: backends(page.read_text(encoding="utf-8")) for page in PAGES}
    assert {page for page, found in named.items() if found} >= {"command-line.md", "benchmarking.md", "gpu.md"}
    assert {page: found - set(NAMES) for page, found in named.items() if found - set(NAMES)} == {}


def test_the_doctors_report_is_described_by_its_fields() -> None:
    text = (DOCS / "reports.md").read_text(encoding="utf-8")
    section = text[text.index("`iresnet-export/doctor/1`") :].partition("\n## ")[0]
    fields = {field.name for kind in (Finding, Component, EngineFile) for field in dataclasses.fields(kind)}
    keys = {field.name for field in dataclasses.fields(DoctorReport)} - {"environment"}  # which every report has
    values = {"iresnet-export/doctor/1", "export", "run", "train", "yes", "untried", "no"}
    assert set(re.findall(r"`([\w/-]+)`", section)) - values == fields | keys


def test_files_that_the_docs_name_are_there() -> None:
    made = {"studies/results/gpu.json", "studies/results/gpu.md"}  # by whoever has a GPU
    for page in sorted(DOCS.glob("*.md")):
        named = set(
            re.findall(r"\b(?:studies|benchmarks|tests|iresnet_export|models|train)/[\w/.]+\.\w+", page.read_text(encoding="utf-8"))
        )
        assert {name for name in named - made if not (DOCS.parent / name).exists()} == set(), page.name


def test_the_report_of_eval_is_described_by_its_fields() -> None:
    text = (DOCS / "reports.md").read_text(encoding="utf-8")
    section = text[text.index("`iresnet-export/eval/1`") :].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", section))
    kinds = (Evaluated, ClassResult, Confusions, Confusion, Calibration, CalibrationBin, Mistake, ClassChanges, ClassChange)
    fields = {field.name for kind in kinds for field in dataclasses.fields(kind)} - {"number", "null_reasons"}  # which all have
    assert fields | {"class"} == named - {"results", "settings", "ok", "skipped"}
