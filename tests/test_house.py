"""The rules of the house, as docs/architecture.md states them."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from iresnet_export.backends.registry import FORMATS, NAMES, format_named, runtime_named
from iresnet_export.reporting.plots.marks import SHAPES
from iresnet_export.reporting.words import BACKENDS

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for folder in ("iresnet_export", "models", "train") for path in (ROOT / folder).rglob("*.py"))

ROOMS = [
    "iresnet_models",
    "iresnet_data",
    "iresnet_train",
    "iresnet_export",  # `__version__`, and the names of the API, imported when they are first used
    "iresnet_export.errors",
    "iresnet_export.system",
    "iresnet_export.reporting.schemas",  # what is found is found as reports hold it
    "iresnet_export.graph",
    "iresnet_export.verification.decisions",  # what a drop in accuracy is, for exports too
    "iresnet_export.quantization",
    "iresnet_export.artifacts",
    "iresnet_export.backends.base",
    "iresnet_export.backends.registry",
    "iresnet_export.backends.eager",
    "iresnet_export.backends.torchscript",
    "iresnet_export.backends.pt2",
    "iresnet_export.backends.aotinductor",
    "iresnet_export.backends.onnx",
    "iresnet_export.backends.onnxruntime",
    "iresnet_export.backends.openvino",
    "iresnet_export.backends.tensorrt",
    "iresnet_export.backends",
    "iresnet_export.verification",
    "iresnet_export.benchmark.isolation",
    "iresnet_export.benchmark.stability",
    "iresnet_export.benchmark.clock",  # the only one, for exports too
    "iresnet_export.exporting",
    "iresnet_export.evaluation",
    "iresnet_export.prediction",
    "iresnet_export.inspection",
    "iresnet_export.benchmark",
    "iresnet_export.doctor",
    "iresnet_export.reporting",
    "iresnet_export.quickstart",
    "iresnet_export.api",
    "iresnet_export.cli",
    "iresnet_export.__main__",
]
"""From the ground up: each room imports from itself and from those below it, never from one above."""

ROOT_MODULES = 10
"""Modules that the package's own folder may hold."""


def room(module: str) -> str:
    return max((name for name in ROOMS if module == name or module.startswith(name + ".")), key=len)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] in ("models", "train") else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """The modules of ours that a file imports; those that it imports inside functions, or for types alone, if `lazy`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ("iresnet_models", "iresnet_data", "iresnet_train", "iresnet_export")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = room(module_name(path))
    # The API names what stands above it, and imports that when it is first used.
    above = {name for name in imports(path, lazy=own != "iresnet_export") if ROOMS.index(room(name)) > ROOMS.index(own)}
    assert not above, f"{own} stands below"


def test_no_imports_run_in_a_circle() -> None:
    """Nor within a room: a module that is imported while it imports is half there."""
    modules = {module_name(path): path for path in SOURCES}
    graph = {
        name: {found for found in imports(path, lazy=False) if found in modules and found != name} for name, path in modules.items()
    }
    for name in graph:
        graph[name] -= {parent for parent in graph if name.startswith(parent + ".")}  # a package comes before what is in it
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a module begins with what it is"


def test_the_front_hall_is_small() -> None:
    assert len(list((ROOT / "iresnet_export").glob("*.py"))) <= ROOT_MODULES
    registered = [type(made).__module__ for made in (*map(format_named, FORMATS), *map(runtime_named, NAMES))]
    of_one_file = {module.rpartition(".")[2] for module in registered if module.count(".") == 2}
    assert {path.stem for path in (ROOT / "iresnet_export" / "backends").glob("*.py")} == {
        "__init__",
        "base",
        "registry",
    } | of_one_file


def test_every_runtime_has_a_name_for_people_and_a_shape() -> None:
    assert set(NAMES) <= set(BACKENDS)
    assert set(NAMES) <= set(SHAPES)


def clocks_and_prints(source: str) -> set[str]:
    """What of a module's text reads a clock or prints, however it is imported."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in ("time", "timeit")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("time", "timeit"):
            found.add(str(node.module))
        elif isinstance(node, ast.Name) and node.id in ("print", "pprint"):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "perf_counter", "elapsed_time"):
            found.add(node.attr)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import timeit as t",
        "from time import perf_counter",
        "def f():\n    import time",
        "print(1)",
        "sys.stdout.write('')",
    ],
)
def test_clocks_and_prints_are_seen(source: str) -> None:
    assert clocks_and_prints(source)


@pytest.mark.parametrize("path", sorted((ROOT / "iresnet_export" / "backends").rglob("*.py")), ids=lambda path: path.stem)
def test_backends_neither_time_nor_print(path: Path) -> None:
    allowed = {"stdout", "stderr"} if path.stem == "package" else set[str]()  # what a compiler said, as subprocess gives it
    assert clocks_and_prints(path.read_text(encoding="utf-8")) <= allowed
