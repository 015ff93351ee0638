"""Engines by TensorRT-RTX, whose builder needs no GPU; and what happens where engines cannot run."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from conftest import Outcome

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.manifest import manifest_path
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.backends.tensorrt import flavours as tensorrt_flavours
from iresnet_export.backends.tensorrt.builder import engine_from_onnx
from iresnet_export.backends.tensorrt.flavours import Flavour, flavour_for_building, flavour_named
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.backends.tensorrt.plan import engine_details
from iresnet_export.backends.tensorrt.tensorrt import TensorRT
from iresnet_export.errors import ExportError, InputError, MissingPackageError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.verify import VerifyOptions, verify

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'iresnet-export[tensorrt-rtx]'")
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@pytest.fixture(scope="module")
def flavour() -> Flavour:
    return flavour_named("tensorrt_rtx")


@pytest.fixture(scope="module")
def model(small_source: Source) -> bytes:
    return onnx_from_network(small_source.network).SerializeToString()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Artifact:
    path = tmp_path_factory.mktemp("engine") / "small.engine"
    return export_artifact("engine", small_source, EngineOptions(max_batch=8, flavour="tensorrt_rtx"), output=path)


def test_an_engine_its_parent_and_their_manifests(engine: Artifact) -> None:
    manifest = engine.require_intact()
    parent = engine.parent()
    assert manifest.parent is not None
    assert manifest.parent.file == "small.onnx"
    assert parent.require_intact().weights == manifest.weights
    assert manifest.batch == (1, 8)
    assert engine_details(engine).flavour == "tensorrt_rtx"
    assert engine_details(engine).gpus == "NVIDIA RTX GPUs from Ampere on"
    assert manifest.size_bytes > 40_000_000
    assert "/" not in json.dumps(json.loads(manifest_path(engine.path).read_text())["parent"])


def test_the_plan_is_raw(engine: Artifact) -> None:
    """Nothing of ours is glued to it: it begins as TensorRT wrote it."""
    assert b"iresnet-export/" not in engine.path.read_bytes()[:4096]


def test_tf32_is_off_and_the_profile_is_as_asked_for(flavour: Flavour, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = flavour.module
    seen: dict[str, Any] = {}
    build = trt.Builder.build_serialized_network

    def spy(builder: Any, network: Any, config: Any) -> Any:
        seen["tf32"] = config.get_flag(trt.BuilderFlag.TF32)
        seen["profiles"] = config.num_optimization_profiles
        return build(builder, network, config)

    monkeypatch.setattr(trt.Builder, "build_serialized_network", spy)
    engine_from_onnx(flavour, model, EngineOptions(), no_progress)
    assert seen == {"tf32": False, "profiles": 1}


@pytest.mark.parametrize("capabilities", [("8.6",), ("8.9", "12.0")])
def test_compute_capabilities(capabilities: tuple[str, ...], flavour: Flavour, model: bytes) -> None:
    plan, details = engine_from_onnx(flavour, model, EngineOptions(compute_capabilities=capabilities), no_progress)
    assert len(plan) > 40_000_000
    assert details["gpus"] == f"GPUs of compute capability {', '.join(capabilities)}"


def test_compute_capabilities_that_there_are_not(flavour: Flavour, model: bytes) -> None:
    with pytest.raises(InputError, match=r"cannot build for compute capability 9\.0; it can for 7\.5, 8\.0"):
        engine_from_onnx(flavour, model, EngineOptions(compute_capabilities=("9.0",)), no_progress)


def test_a_build_that_tensorrt_refuses_is_told_in_its_own_words(flavour: Flavour, model: bytes) -> None:
    with pytest.raises(ExportError, match=r"built no engine: .*FP32 GEMM is not supported"):
        engine_from_onnx(flavour, model, EngineOptions(compute_capabilities=("7.5",)), no_progress)


@pytest.mark.parametrize("spoil", [lambda data: b"not onnx", lambda data: b"", lambda data: data[: len(data) // 2]])
def test_malformed_onnx(spoil: Callable[[bytes], bytes], flavour: Flavour, model: bytes) -> None:
    with pytest.raises(ExportError, match="ONNX file"):
        engine_from_onnx(flavour, spoil(model), EngineOptions(), no_progress)


def test_an_operator_that_tensorrt_does_not_know_is_named(flavour: Flavour, model: bytes) -> None:
    changed = onnx.load_from_string(model)
    changed.graph.node[3].op_type = "Nonsense"
    with pytest.raises(ExportError, match="Nonsense"):
        engine_from_onnx(flavour, changed.SerializeToString(), EngineOptions(), no_progress)


def test_progress_is_told_and_can_cancel(flavour: Flavour, model: bytes) -> None:
    told: list[tuple[str, float]] = []
    engine_from_onnx(flavour, model, EngineOptions(), lambda step, share: told.append((step, share)))
    assert len({step for step, _ in told}) > 3
    assert all(0 <= share <= 1 for _, share in told)

    def cancel(step: str, _share: float) -> None:
        if step != "Parsing ONNX":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(flavour, model, EngineOptions(), cancel)
    engine_from_onnx(flavour, model, EngineOptions(), no_progress)  # and the next one is built again


def test_a_cancelled_export_leaves_no_engine(small_source: Source, tmp_path: Path) -> None:
    def cancel(step: str, _share: float) -> None:
        if step == "Building engine":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_artifact(
            "engine", small_source, EngineOptions(flavour="tensorrt_rtx"), output=tmp_path / "x.engine", progress=cancel
        )
    assert {path.name for path in tmp_path.iterdir()} == {"x.onnx", "x.onnx.json"}


def test_the_parent_is_built_once(small_source: Source, tmp_path: Path) -> None:
    options = EngineOptions(flavour="tensorrt_rtx")
    export_artifact("onnx", small_source, ExportOptions(), output=tmp_path / "x.onnx")
    before = (tmp_path / "x.onnx").stat().st_mtime_ns
    export_artifact("engine", small_source, options, output=tmp_path / "x.engine")
    assert (tmp_path / "x.onnx").stat().st_mtime_ns == before


@WITHOUT_GPU
def test_an_engine_that_cannot_run_is_skipped_with_its_weights_checked(engine: Artifact) -> None:
    verification = verify([engine.path], VerifyOptions())
    (candidate,) = verification.candidates
    assert candidate.status == "skipped"
    assert "NVIDIA GPU" in str(candidate.reason)
    assert candidate.weights is not None
    assert candidate.weights.passed
    assert not verification.passed


@pytest.mark.slow
def test_an_engine_whose_onnx_was_changed_fails(small_source: Source, tmp_path: Path) -> None:
    output = tmp_path / "x.engine"
    export_artifact("engine", small_source, EngineOptions(flavour="tensorrt_rtx"), output=output)
    onnx_file = tmp_path / "x.onnx"
    onnx_file.write_bytes(onnx_file.read_bytes() + b"\0")
    (candidate,) = verify([output], VerifyOptions()).candidates
    assert candidate.status == "fail"
    assert "built from another x.onnx" in str(candidate.reason)
    onnx_file.unlink()
    (candidate,) = verify([output], VerifyOptions()).candidates
    assert candidate.status == "fail"
    assert "no longer beside it" in str(candidate.reason)


@WITHOUT_GPU
def test_running_without_a_gpu_is_exit_3_and_one_paragraph(engine: Artifact, run: Callable[..., Outcome]) -> None:
    with pytest.raises(UnavailableError):
        TensorRT().load(engine, torch.device("cpu"))
    brief = ("--seconds", "0.05", "--no-limits", "--no-memory")
    for command, options in (("verify", ()), ("bench", brief), ("eval", ("--data", "digits"))):
        outcome = run(command, engine.path, *options)
        assert outcome.status == 3, command
        assert "Traceback" not in outcome.err
        assert "NVIDIA GPU" in outcome.out


@WITHOUT_GPU
def test_full_tensorrt_without_a_gpu_or_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flavour_for_building(None).name == "tensorrt_rtx"
    if find_spec("tensorrt") is None:
        with pytest.raises(MissingPackageError, match="the package tensorrt"):
            flavour_for_building("tensorrt")
    else:
        with pytest.raises(UnavailableError, match="only where there is an NVIDIA GPU"):
            flavour_for_building("tensorrt")
    with pytest.raises(InputError, match="tensorrt and tensorrt_rtx"):
        flavour_for_building("tensorflow")
    monkeypatch.setattr(tensorrt_flavours, "_loaded", {})
    monkeypatch.setattr(tensorrt_flavours, "import_module", lambda name: __import__("no_such_package"))
    with pytest.raises(MissingPackageError, match=r"pip install 'iresnet-export\[tensorrt-rtx\]'"):
        flavour_named("tensorrt_rtx")


def test_every_name_of_tensorrt_that_the_code_uses_exists(flavour: Flavour) -> None:
    folder = Path(tensorrt_flavours.__file__).parent
    used: set[str] = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                text = ast.unparse(node)
                if text.startswith(("trt.", "module.", "flavour.module.")):
                    used.add(text.removeprefix("flavour.").partition(".")[2])
    assert {"Builder", "OnnxParser", "BuilderFlag.TF32", "Runtime"} <= used
    for name in used:
        found: Any = flavour.module
        for part in name.split("."):
            assert hasattr(found, part), f"tensorrt_rtx has no {name}"
            found = getattr(found, part)


OWNERS = {
    "builder": ("Builder",),
    "network": ("INetworkDefinition",),
    "parser": ("OnnxParser",),
    "profile": ("IOptimizationProfile",),
    "monitor": (),  # our own
    "config": ("IBuilderConfig", "IRuntimeConfig"),
    "engine": ("ICudaEngine",),
    "self._engine": ("ICudaEngine",),
    "self._runtime": ("Runtime",),
    "context": ("IExecutionContext",),
    "self._contexts": (),
    "inspector": ("EngineInspector",),
    "layer": ("ILayer",),
    "tensor": ("ITensor",),
    "error": ("ParserError",),
}
"""What the variables of these names hold, in the files that build and run engines."""


def test_every_method_that_the_code_calls_exists(flavour: Flavour) -> None:
    """The path that runs engines cannot be run here; at least nothing in it is misspelt."""
    folder, seen = Path(tensorrt_flavours.__file__).parent, set[str]()
    for file in ("builder.py", "network.py", "session.py", "timing.py"):
        for node in ast.walk(ast.parse((folder / file).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Attribute) or not (owners := OWNERS.get(ast.unparse(node.value))):
                continue
            if file == "builder.py" and ast.unparse(node.value) == "engine":
                continue  # EngineOptions there
            known = [owner for owner in owners if hasattr(getattr(flavour.module, owner), node.attr)]
            assert known, f"{file}: {ast.unparse(node)} is in none of {owners}"
            seen.add(node.attr)
    wanted = {"execute_async_v3", "set_tensor_address", "set_optimization_profile_async", "create_runtime_config", "mark_output"}
    assert wanted | {"get_engine_information", "engine_host_code_allowed", "create_timing_cache"} <= seen


@pytest.mark.slow
def test_static_batch(flavour: Flavour, small_source: Source, tmp_path: Path) -> None:
    options = EngineOptions(dynamic_batch=False, batch=4, flavour="tensorrt_rtx")
    artifact = export_artifact("engine", small_source, options, output=tmp_path / "four.engine")
    assert artifact.require_intact().batch == (4, 4)
    assert open_artifact(tmp_path / "four.onnx").require_intact().batch == (4, 4)


@pytest.mark.gpu
def test_an_engine_runs_on_a_gpu(small_source: Source, tmp_path: Path) -> None:
    artifact = export_artifact("engine", small_source, ExportOptions(), output=tmp_path / "x.engine")
    verification = verify([artifact.path], VerifyOptions(device=torch.device("cuda")))
    assert verification.passed
