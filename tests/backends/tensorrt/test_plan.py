"""What is told of a plan before anything loads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iresnet_export.artifacts.artifact import Artifact, open_artifact, record
from iresnet_export.artifacts.manifest import EngineDetails, EngineSettings, Gpu
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.backends.tensorrt.builder import engine_from_onnx
from iresnet_export.backends.tensorrt.checks import require_runnable
from iresnet_export.backends.tensorrt.flavours import flavour_named
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.backends.tensorrt.plan import Plan, read_plan
from iresnet_export.errors import ArtifactError, MissingPackageError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.system import nvidia
from iresnet_export.system.progress import no_progress
from iresnet_models.deployed import deployed

pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'iresnet-export[tensorrt-rtx]'")
CUDA = torch.device("cuda")
EVERY = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Artifact:
    options = EngineOptions(flavour="tensorrt_rtx", max_batch=4, compute_capabilities=("8.6", "8.9"))
    return export_artifact("engine", small_source, options, output=tmp_path_factory.mktemp("plan") / "small.engine")


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes the checks believe that there is a GPU of this compute capability."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(nvidia, "absence", lambda: None)
        monkeypatch.setattr(
            nvidia, "gpu", lambda index=0: nvidia.Gpu("Pretended GPU", (major, minor), 2**33) if index == 0 else None
        )

    return pretend


@pytest.mark.parametrize("capability", EVERY)
def test_the_header_names_the_version_and_the_gpus(capability: str, small_source: Source, tmp_path: Path) -> None:
    """In half precision, which is what TensorRT-RTX compiles for Turing too."""
    model = onnx_from_network(deployed(small_source.network, None, torch.float16)).SerializeToString()
    options = EngineOptions(precision="fp16", compute_capabilities=(capability,), max_batch=2)
    flavour = flavour_named("tensorrt_rtx")
    plan, _ = engine_from_onnx(flavour, model, options, no_progress)
    path = tmp_path / "one.plan"
    path.write_bytes(plan)
    major, minor = map(int, capability.split("."))
    assert read_plan(open_artifact(path)) == Plan("tensorrt_rtx", flavour.version, ((major, minor),))


def test_several_gpus(engine: Artifact) -> None:
    assert read_plan(engine).capabilities == ((8, 6), (8, 9))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data[:-1], r"not a whole plan: it has [\d,]+ bytes of [\d,]+"),
        (lambda data: data[:40], "not a whole plan"),
        (lambda data: data + b"\0", "not a whole plan"),
        (lambda data: b"\x10\x00\x00\x00" + b'{"task": "none"}' + data, r"16 bytes of JSON .* cut off the first 20 bytes"),
        (lambda data: b"PK\x03\x04" + data, "zip archive"),
        (lambda data: b"\x08\x09\x12\x0eiresnet-export" + data, "an ONNX file"),
        (lambda data: b"tvrt" + data, "begins with 74 76 72 74"),
    ],
)
def test_what_is_no_whole_plan(spoil: Callable[[bytes], bytes], says: str, engine: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "spoilt.engine"
    path.write_bytes(spoil(engine.path.read_bytes()))
    with pytest.raises(ArtifactError, match=says):
        require_runnable(Artifact(path, "engine", None), CUDA)


def test_another_version(engine: Artifact, tmp_path: Path, on_a_gpu: Callable[[int, int], None]) -> None:
    on_a_gpu(8, 6)
    data = bytearray(engine.path.read_bytes())
    data[25] += 1
    path = tmp_path / "other.engine"
    path.write_bytes(data)
    with pytest.raises(UnavailableError, match=r"built by tensorrt_rtx 1\.\d+.* pip install 'tensorrt-rtx==1\.") as caught:
        require_runnable(Artifact(path, "engine", None), CUDA)
    assert caught.value.exit_status == 3


def test_another_gpu_and_the_right_one(engine: Artifact, on_a_gpu: Callable[[int, int], None]) -> None:
    on_a_gpu(8, 9)
    assert require_runnable(engine, CUDA).name == "tensorrt_rtx"
    on_a_gpu(9, 0)
    with pytest.raises(
        UnavailableError, match=r"compute capability 8\.6, 8\.9, and Pretended GPU has 9\.0\. TensorRT-RTX builds none for it"
    ):
        require_runnable(engine, CUDA)
    on_a_gpu(8, 0)
    with pytest.raises(UnavailableError, match=r"has 8\.0\. Build it on this machine: iresnet-export trt --flavour tensorrt_rtx"):
        require_runnable(engine, CUDA)
    with pytest.raises(UnavailableError, match="no GPU number 3"):
        require_runnable(engine, torch.device("cuda:3"))
    with pytest.raises(UnavailableError, match="add --device cuda"):
        require_runnable(engine, torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_no_gpu(engine: Artifact) -> None:
    with pytest.raises(UnavailableError, match="runs on an NVIDIA GPU, and none can be used here"):
        require_runnable(engine, CUDA)


@pytest.mark.parametrize(
    ("compatibility", "capability", "able"),
    [("none", (8, 6), True), ("none", (8, 9), False), ("ampere-plus", (9, 0), True), ("ampere-plus", (7, 5), False)],
)
def test_plans_of_tensorrt_itself_are_judged_by_their_manifest(
    compatibility: str,
    capability: tuple[int, int],
    able: bool,
    engine: Artifact,
    tmp_path: Path,
    on_a_gpu: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their layout is not known here, but for the magic that TensorRT's own error messages name."""
    from iresnet_export.backends.tensorrt import flavours as tensorrt_flavours

    on_a_gpu(*capability)
    data = b"ftrt" + bytes(96)
    path = tmp_path / "full.engine"
    path.write_bytes(data)
    manifest = engine.manifest
    assert manifest is not None
    details = EngineDetails(
        builder_version="11.4.0.1",
        gpu=Gpu("RTX A5000", "8.6"),
        settings=EngineSettings(hardware_compatibility=compatibility),
    )
    artifact = record(path, dataclasses.replace(manifest, size_bytes=len(data), details=details))
    with pytest.raises(MissingPackageError, match=r"iresnet-export\[tensorrt\]"):
        require_runnable(artifact, CUDA)
    here = dataclasses.replace(flavour_named("tensorrt_rtx"), name="tensorrt", module=type("trt", (), {"__version__": "11.4.0.1"}))
    monkeypatch.setitem(tensorrt_flavours._loaded, "tensorrt", here)
    if able:
        assert require_runnable(artifact, CUDA) is here
    else:
        with pytest.raises(UnavailableError, match=r"compute capability 8\.6"):
            require_runnable(artifact, CUDA)
    newer = dataclasses.replace(here, module=type("trt", (), {"__version__": "11.5.0.1"}))
    monkeypatch.setitem(tensorrt_flavours._loaded, "tensorrt", newer)
    with pytest.raises(UnavailableError, match=r"built by tensorrt 11\.4\.0\.1, and here is 11\.5\.0\.1"):
        require_runnable(artifact, CUDA)
    compatible = dataclasses.replace(
        manifest,
        size_bytes=len(data),
        details=EngineDetails(builder_version="11.4.0.1", settings=EngineSettings(version_compatible=True)),
    )
    assert require_runnable(record(path, compatible), CUDA) is newer
    with pytest.raises(ArtifactError, match="not a whole plan"):
        require_runnable(record(path, dataclasses.replace(compatible, size_bytes=101)), CUDA)
