"""AOTInductor on GPUs, as far as a CPU goes: what is compiled and how, who may load it, and sessions with pretended CUDA graphs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from pretended_tensorrt import Graph, pretend_cuda
from torch import Tensor
from torch.utils import cpp_extension

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.manifest import PackageDetails, PackageSettings
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.aotinductor import session as aotinductor_session
from iresnet_export.backends.aotinductor.cuda import cuda_build, cuda_home, linker_options
from iresnet_export.backends.aotinductor.package import AOTInductor, Package, PackageOptions, cpp_compiler
from iresnet_export.backends.aotinductor.session import CudaPackageSession, PackageSession
from iresnet_export.backends.aotinductor.target import processor, require_same_machine, target_in_words
from iresnet_export.errors import ArtifactError, InputError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.inspection import inspect_file
from iresnet_export.system import nvidia

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
Run = Callable[..., Outcome]


def pretend_gpu(patch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0), name: str = "Pretended H200") -> None:
    patch.setattr(nvidia, "absence", lambda: None)
    patch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu(name, capability, 2**33) if index == 0 else None)


def expected(batch: Tensor) -> Tensor:
    return batch.flatten(1).mean(1)[:, None] * torch.arange(1, 6)


class PretendedPackage:
    """A compiled library: it cannot be captured at its first run, and what is captured writes to the outputs of its capture."""

    def __init__(self) -> None:
        self.runs, self.capture_fails = 0, False
        self.read: list[int] = []

    def __call__(self, batch: Tensor) -> Tensor:
        self.read.append(batch.data_ptr())
        assert batch.is_contiguous()
        assert not torch.backends.cudnn.allow_tf32, "cuDNN would take TF32"
        if Graph.recording is None:
            self.runs += 1
            return expected(batch)
        if self.capture_fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        assert self.runs, "kernels are loaded at the first run, which cannot be captured"
        logits = torch.empty(len(batch), 5)

        def replay() -> None:
            logits.copy_(expected(batch))

        Graph.recording.calls.append(replay)
        return logits


@pytest.fixture
def described(artifacts: dict[str, Artifact]) -> Artifact:
    """An artifact whose manifest is that of a package for 32 pixels and one to twelve images."""
    found = artifacts["torchscript"]
    assert found.manifest is not None
    return Artifact(found.path, "aotinductor", dataclasses.replace(found.manifest, format="aotinductor", batch=(1, 12)))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> PretendedPackage:
    pretend_cuda(monkeypatch)
    made = PretendedPackage()
    monkeypatch.setattr(aotinductor_session, "open_package", lambda _path, _device: made)
    return made


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("said", "kind", "shown"),
    [
        ("", ArtifactError, r"cannot load .* \(RuntimeError\)"),
        ("\nno such symbol\nmore", ArtifactError, r"cannot load .* \(no such symbol\)"),
        ("CUDA out of memory.", UnavailableError, "memory is full"),
    ],
)
def test_packages_that_do_not_load(
    said: str, kind: type[Exception], shown: str, described: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(aotinductor_session, "open_package", fail)
    with pytest.raises(kind, match=shown):
        PackageSession(described, CPU)


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_runs_with_and_without_graphs(cuda_graphs: bool, package: PretendedPackage, described: Artifact) -> None:
    with CudaPackageSession(described, CPU, cuda_graphs=cuda_graphs) as session:
        kept = []
        for seed in range(5):
            for count in (1, 4, 12):
                batch = images(count, seed)
                found = session.run(batch)
                torch.testing.assert_close(found, expected(batch))
                kept.append((found, batch))
        for found, batch in kept:
            torch.testing.assert_close(found, expected(batch))
        assert set(session._slots) == ({1, 4, 12} if cuda_graphs else set())
        assert [slot.graph.replays for slot in session._slots.values()] == ([4, 4, 4] if cuda_graphs else [])  # type: ignore[attr-defined]
        # One plain run, and one before each capture; replays do not come through the library.
        assert package.runs == (6 if cuda_graphs else 15)
        assert session.notices == []


def test_a_capture_that_fails_is_told_once_and_done_without(
    package: PretendedPackage, described: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    package.capture_fails = True
    with CudaPackageSession(described, CPU) as session:
        for seed in range(4):
            for count in (2, 3):
                batch = images(count, seed)
                torch.testing.assert_close(session.run(batch), expected(batch))
        (notice,) = session.notices
    assert notice.startswith("small.ts runs without CUDA graphs, since capturing one failed: CUDA error: operation not permitted")
    assert "more" not in notice
    assert caplog.text.count("runs without CUDA graphs") == 1


def test_at_most_eight_graphs(package: PretendedPackage, described: Artifact) -> None:
    with CudaPackageSession(described, CPU) as session:
        for _ in range(3):
            for count in range(1, 13):
                batch = images(count, count)
                torch.testing.assert_close(session.run(batch), expected(batch))
        assert sorted(session._slots) == list(range(1, 9))


def test_what_is_not_in_order_or_not_aligned_is_copied_first(package: PretendedPackage, described: Artifact) -> None:
    batch = images(2)
    shifted = torch.empty(batch.numel() + 1)[1:].view(batch.shape).copy_(batch)
    other = batch.contiguous(memory_format=torch.channels_last)
    with CudaPackageSession(described, CPU, cuda_graphs=False) as session:
        for odd in (shifted, other):
            torch.testing.assert_close(session.run(odd), expected(batch))
            assert package.read[-1] != odd.data_ptr()


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (torch.zeros(13, 3, 32, 32), "takes 1 to 12 images"),
        (torch.zeros(2, 3, 32, 31), r"not \(2, 3, 32, 31\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.float16), r"torch\.float32; not .* torch\.float16"),
        (torch.zeros(2, 3, 32, 32, device="meta"), "runs on cpu, and the batch lies on meta"),
    ],
)
def test_batches_that_the_library_would_read_wrongly(
    batch: Tensor, says: str, package: PretendedPackage, described: Artifact
) -> None:
    with CudaPackageSession(described, CPU) as session, pytest.raises(ArtifactError, match=says):
        session.run(batch)
    assert package.read == []


def test_a_package_that_does_not_fit_into_memory(described: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch)

    def full(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr(aotinductor_session, "open_package", full)
    with pytest.raises(UnavailableError, match="memory is full") as caught:
        CudaPackageSession(described, CPU)
    assert caught.value.exit_status == 3


def made_for(described: Artifact, **details: Any) -> Artifact:
    assert described.manifest is not None
    return dataclasses.replace(described, manifest=dataclasses.replace(described.manifest, details=PackageDetails(**details)))


GPU_90 = {"device": "cuda", "compute_capability": "9.0", "cuda": torch.version.cuda}


@pytest.mark.parametrize(
    ("details", "device", "says"),
    [
        ({}, CUDA, r"compiled for CPUs; run it with --device cpu, or make another: iresnet-export pt2 --compile --device cuda$"),
        ({"device": "cpu"}, CUDA, r"compiled for CPUs; run it with --device cpu"),
        (
            GPU_90,
            CPU,
            r"GPUs of compute capability 9\.0; run it with --device cuda, or .*: iresnet-export pt2 --compile$",
        ),
        (
            GPU_90 | {"compute_capability": "8.9"},
            CUDA,
            r"capability 8\.9, and Pretended H200 here has 9\.0\. Export it again",
        ),
        (GPU_90 | {"cuda": "11.8"}, CUDA, r"torch with CUDA 11\.8, and here it is"),
        (GPU_90 | {"torch": "2.11.0"}, CUDA, r"compiled for torch 2\.11\.0, and here is .*--device cuda"),
        (GPU_90 | {"cpu_capability": "AVX1024"}, CUDA, "AVX1024"),
        (GPU_90, torch.device("cuda:3"), "no GPU number 3"),
    ],
)
def test_packages_for_another_place_are_refused_unloaded(
    details: dict[str, Any], device: torch.device, says: str, described: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(aotinductor_session, "open_package", None)
    with pytest.raises(UnavailableError, match=says) as caught:
        AOTInductor().load(made_for(described, **details), device)
    assert caught.value.exit_status == 3
    assert "\n" not in str(caught.value)


def test_packages_for_this_place_are_not(described: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    require_same_machine(made_for(described, **GPU_90, **processor()), CUDA)
    require_same_machine(made_for(described, device="cpu", **processor()), CPU)


@WITHOUT_GPU
def test_a_package_for_gpus_where_there_is_none(described: Artifact) -> None:
    with pytest.raises(UnavailableError, match=r"AOTInductor packages for GPUs need one: .* or use --device cpu"):
        require_same_machine(made_for(described, **GPU_90), CUDA)


@pytest.mark.parametrize(
    ("told", "device", "says"),
    [
        ({"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "89"}, CUDA, r"compute capability 8\.9, and Pretended H200"),
        (
            {"AOTI_DEVICE_KEY": "cuda", "AOTI_COMPUTE_CAPABILITY": "sm_89"},
            CPU,
            r"capability \(unknown\); run it with --dev",
        ),
        ({"AOTI_DEVICE_KEY": "cpu"}, CUDA, "compiled for CPUs"),
    ],
)
def test_what_a_foreign_package_says_of_itself(
    told: dict[str, str], device: torch.device, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    path = tmp_path / "x.aoti.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/archive_format", "pt2")
        archive.writestr("x/data/aotinductor/model/x.wrapper_metadata.json", json.dumps(told))
    with pytest.raises(UnavailableError, match=says):
        AOTInductor().load(open_artifact(path), device, trust=True)


@WITHOUT_GPU
def test_without_a_gpu_nothing_is_compiled_for_one(run: Run, small_checkpoint: Path) -> None:
    outcome = run("pt2", "--checkpoint", small_checkpoint, "--compile", "--device", "cuda")
    assert outcome.status == 3
    assert "No NVIDIA GPU can be used here" in outcome.err
    absent = nvidia.absence()
    assert absent is not None
    assert absent.remedy.partition(" ")[2] in " ".join(outcome.err.split()), "it says what to do"
    outcome = run("pt2", "--checkpoint", small_checkpoint, "--device", "cuda")
    assert outcome.status == 2
    assert "add --compile" in outcome.err
    assert not Path("artifacts").exists()
    with pytest.raises(UnavailableError, match="or use --device cpu"):
        Package().settings(PackageOptions(device="cuda"))


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """A GPU, and a compiler for it that writes down what it was given."""
    pretend_gpu(monkeypatch)
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    monkeypatch.setattr("iresnet_export.backends.aotinductor.package.cpp_compiler", lambda: ["c++"])
    monkeypatch.setattr("iresnet_export.backends.aotinductor.package.cuda_home", lambda: tmp_path)

    def moved(program: Any, device: torch.device) -> Any:
        seen.append({"device": device, "weights": dict(program.state_dict)})
        return program

    def compile_(_program: Any, *, package_path: str, inductor_configs: dict[str, Any]) -> None:
        from torch.export.pt2_archive import PT2ArchiveWriter

        seen[-1] |= {
            "configuration": inductor_configs,
            "tf32": torch.backends.cudnn.allow_tf32,
            "home": cpp_extension.CUDA_HOME,
            "line info": os.environ.get("TRITON_DISABLE_LINE_INFO"),
        }
        with PT2ArchiveWriter(package_path) as writer:
            writer.write_string("data/aotinductor/model/x.wrapper.so", "code")
            writer.write_string("data/aotinductor/model/x.wrapper.cpp", "source")

    monkeypatch.setattr("torch.export.passes.move_to_device_pass", moved)
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", compile_)
    return seen


@pytest.mark.parametrize("precision", ["fp32", "bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_what_is_compiled_for_a_gpu(precision: str, compiling: list[dict[str, Any]], small_source: Source, tmp_path: Path) -> None:
    home, allowed = cpp_extension.CUDA_HOME, torch.backends.cudnn.allow_tf32
    options = PackageOptions(precision=precision, device="cuda")  # type: ignore[arg-type]
    path = tmp_path / "small.aoti.pt2"
    artifact = export_artifact("aotinductor", small_source, options, output=path)
    details = artifact.require_intact().details
    assert isinstance(details, PackageDetails)
    assert (details.device, details.compute_capability, details.gpu) == ("cuda", "9.0", "Pretended H200")
    assert (details.cuda, details.torch) == (torch.version.cuda, torch.__version__.partition("+")[0])
    assert details.settings == PackageSettings(device="cuda", compute_capability="9.0")
    assert details.multiply_accumulates == {precision: 1.0}
    assert inspect_file(path).notes["for"] == target_in_words(details) == "NVIDIA GPUs of compute capability 9.0"
    (seen,) = compiling
    assert seen["device"] == CUDA
    assert (seen["tf32"], seen["home"], seen["line info"]) == (False, str(tmp_path), "1")
    assert seen["configuration"]["aot_inductor.embed_kernel_binary"] is True
    half = precision != "fp32"
    assert seen["configuration"]["force_layout_optimization"] is half
    kernels = [values for values in seen["weights"].values() if values.dim() == 4 and values.shape[1] > 1 and values.shape[2] > 1]
    assert len(kernels) >= 17
    assert {values.is_contiguous(memory_format=torch.channels_last) for values in kernels} == {half}
    assert (cpp_extension.CUDA_HOME, torch.backends.cudnn.allow_tf32) == (home, allowed)
    assert "TRITON_DISABLE_LINE_INFO" not in os.environ
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".cpp")]


def test_a_package_is_renewed_by_its_like_alone(
    compiling: list[dict[str, Any]], small_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for CPUs, or for another GPU, is of another recipe."""
    options, path = PackageOptions(fold=False, device="cuda"), tmp_path / "small.aoti.pt2"
    artifact = export_artifact("aotinductor", small_source, options, output=path)
    export_artifact("aotinductor", small_source, options, output=path)
    pretend_gpu(monkeypatch, (8, 9))
    for other in (options, dataclasses.replace(options, device="cpu")):
        with pytest.raises(InputError, match="artifact of another recipe"):
            export_artifact("aotinductor", small_source, other, output=path)
    with pytest.raises(UnavailableError, match=r"compute capability 9\.0, and Pretended H200 here has 8\.9"):
        AOTInductor().load(artifact, CUDA)


def test_where_cuda_s_headers_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    whole = tmp_path / "toolkit"
    (whole / "include" / "crt").mkdir(parents=True)
    for name in ("cuda.h", "cuda_runtime_api.h"):
        (whole / "include" / name).touch()
    monkeypatch.setenv("CUDA_HOME", str(whole))
    with pytest.raises(UnavailableError, match=r"CUDA_HOME names, has not all of .*crt/host_defines\.h.*pip install") as caught:
        cuda_home()
    assert caught.value.exit_status == 3
    (whole / "include" / "crt" / "host_defines.h").touch()
    assert cuda_home() == whole
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setattr("iresnet_export.backends.aotinductor.cuda._TOOLKIT", str(tmp_path / "none"))
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    with pytest.raises(UnavailableError, match="nor a toolkit of NVIDIA's"):
        cuda_home()
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(whole))
    assert cuda_home() == whole


def test_the_driver_s_library_gets_a_name_that_linkers_look_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so.580.159"
    library.touch()
    maps = f"7f00-7f01 r-xp 0 08:01 7   /lib/libc.so.6\n7f02-7f03 r-xp 0 08:01 8   {library}\n7f04-7f05 rw-p 0 00:00 0\n"
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, **more: maps if str(self) == "/proc/self/maps" else read(self, **more))
    assert linker_options(tmp_path) == [f"-L{tmp_path}"]
    assert (tmp_path / "libcuda.so").resolve() == library
    maps = "7f00-7f01 r-xp 0 08:01 7   /lib/libcudart.so.13\n"
    assert linker_options(tmp_path) == []


@pytest.mark.slow
@pytest.mark.compiler
def test_the_headers_suffice_for_what_torch_compiles() -> None:
    try:
        home = cuda_home()
    except UnavailableError as error:
        pytest.skip(str(error))
    with cuda_build(home):
        from torch._inductor.cpp_builder import CppTorchDeviceOptions

        found = CppTorchDeviceOptions(device_type="cuda", aot_mode=True)
        options = [
            *(f"-I{place}" for place in found.get_include_dirs()),
            *(f"-D{name.strip()}" for name in found.get_definitions()),
        ]
    command = [*cpp_compiler(), "-std=c++20", "-fsyntax-only", *options, "-x", "c++", "-"]
    source = "#include <torch/csrc/inductor/aoti_include/cuda.h>\n"
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
