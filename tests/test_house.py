"""The rules of the house, as docs/architecture.md states them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("iresnet_export", "models", "train") for path in (ROOT / folder).rglob("*.py"))

ORDER = [
    ("iresnet_models", 0),
    ("iresnet_train.__main__", 11),
    ("iresnet_train", 1),
    ("iresnet_export.errors", 2),
    ("iresnet_export.archives", 2),
    ("iresnet_export.environment", 2),
    ("iresnet_export.nvidia", 2),
    ("iresnet_export.machine", 2),
    ("iresnet_export.artifact", 4),
    ("iresnet_export.manifest_schema", 4),
    ("iresnet_export.progress", 2),
    ("iresnet_export.layers", 3),
    ("iresnet_export.precision", 4),
    ("iresnet_export.observing", 4),
    ("iresnet_export.onnx_evaluation", 4),
    ("iresnet_export.quantization", 4),
    ("iresnet_export.data_choice", 4),
    ("iresnet_export.source", 4),
    ("iresnet_export.backends", 5),
    ("iresnet_export.calibrating", 6),
    ("iresnet_export.identity", 5),
    ("iresnet_export.verification", 6),
    ("iresnet_export.benchmark", 7),
    ("iresnet_export.exporting", 7),
    ("iresnet_export.doctor", 7),
    ("iresnet_export.inspection", 7),
    ("iresnet_export.prediction", 7),
    ("iresnet_export.reporting", 8),
    ("iresnet_export.quickstart", 9),
    ("iresnet_export.cli", 10),
    ("iresnet_export.__main__", 11),
    ("iresnet_export", 2),
]
"""Where each part stands: it imports only from its own level and below."""


def level(module: str) -> int:
    return next(rank for prefix, rank in ORDER if module == prefix or module.startswith(prefix + "."))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in ("models", "train") else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ("iresnet_models", "iresnet_train", "iresnet_export")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = level(module_name(path))
    wrong = {name for name in imports(path) if level(name) > own}
    assert not wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "a module begins with what it is"


def test_backends_neither_time_nor_print() -> None:
    for path in (ROOT / "iresnet_export" / "backends").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "print" not in names
        assert not modules & {"time", "timeit"}
