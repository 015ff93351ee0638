"""torch.export programs and the packages that AOTInductor compiles from them."""

from __future__ import annotations

import copy
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome
from support import mostly_slow

from iresnet_export.artifacts.artifact import Artifact, open_artifact, record
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.aotinductor.package import AOTInductor, Package, cpp_compiler
from iresnet_export.backends.base import ExportJob, ExportOptions
from iresnet_export.backends.pt2.format import Program
from iresnet_export.backends.pt2.reading import graph_of_program, load_program
from iresnet_export.backends.pt2.runtime import TorchExport
from iresnet_export.backends.registry import runtimes_for
from iresnet_export.errors import ArtifactError, ExportError, InputError, UnavailableError
from iresnet_export.exporting import default_output, export_artifact
from iresnet_export.graph.compare import compare
from iresnet_export.graph.network import graph_of_network
from iresnet_export.inspection import inspect_file
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.verify import VerifyOptions, verify

pytestmark = pytest.mark.usefixtures("shared_references")

CPU = torch.device("cpu")
SIZES = (1, 2, 7, 32)
Run = Callable[..., Outcome]
Vouch = Callable[[Path], Artifact]

WAYS = [
    pytest.param(ExportOptions(fold=False), id="nofold"),
    pytest.param(ExportOptions(), id="fold"),
    pytest.param(ExportOptions(precision="bf16"), id="bf16"),
    pytest.param(ExportOptions(precision="fp16"), id="fp16"),
    pytest.param(ExportOptions(with_preprocessing=True), id="fold-pre"),
    pytest.param(ExportOptions(fold=False, with_preprocessing=True), id="nofold-pre"),
    pytest.param(ExportOptions(precision="bf16", with_preprocessing=True), id="bf16-pre"),
]


def verdict(path: Path, **options: object) -> tuple[str, str | None, float | None]:
    """Status, reason, and how far the weights are off."""
    found = verify([path], VerifyOptions(images=32, batch_sizes=(7,), **options)).candidates[0]  # type: ignore[arg-type]
    return found.status, found.reason, found.weights.worst_ulp if found.weights else None


def images_for(with_preprocessing: bool, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    if with_preprocessing:
        return torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return torch.randn(count, 3, 32, 32, generator=generator)


def assert_computes(artifact: Artifact, source: Source, *, tolerance: float) -> None:
    """The artifact's logits are those of the same network in eager PyTorch, at every batch size."""
    assert artifact.manifest is not None
    network, with_preprocessing = Deployment(source, artifact.manifest).network, artifact.manifest.with_preprocessing
    with runtimes_for(artifact.format)[0].load(artifact, CPU) as session, torch.inference_mode():
        assert (session.with_preprocessing, session.batch) == (with_preprocessing, None)
        assert session.computed_precision == artifact.manifest.precision
        for size in SIZES:
            images = images_for(with_preprocessing, size)
            expected = network(images)
            expected = expected[0] if with_preprocessing else expected
            logits = session.run(images)
            assert (logits.shape, logits.dtype) == ((size, 10), torch.float32)
            assert float((logits - expected).abs().max() / expected.abs().max()) < tolerance


def absolute_paths(path: Path) -> list[str]:
    """The records of an archive that hold a path of this machine."""
    places = (Path(__file__).parents[2], Path(torch.__file__).parent, Path.home(), Path(tempfile.gettempdir()))
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    traces = [b"site-packages", *(f"{place}{os.sep}".encode() for place in places)]
    return [name for name, data in records.items() if any(trace in data for trace in traces)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Artifact:
    path = tmp_path_factory.mktemp("pt2") / "small.pt2"
    return export_artifact("pt2", small_source, ExportOptions(), output=path)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Artifact:
    """The one package of all these tests, since compiling takes half a minute: bf16 and pixels, the farthest from a plain one."""
    options = ExportOptions(precision="bf16", with_preprocessing=True)
    output = default_output(Package(), small_source, options, tmp_path_factory.mktemp("aotinductor"))
    own = tmp_path_factory.mktemp("temporary")  # other test processes may compile at the same time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(own))
        artifact = export_artifact("aotinductor", small_source, options, output=output)
    assert not [path.name for path in own.iterdir() if path.name.startswith("iresnet-export-")]
    return artifact


@pytest.fixture
def package(compiled: Artifact, small_checkpoint: Path, tmp_path: Path) -> Artifact:
    """A copy of it, with what it was made from, that a test may spoil."""
    for path in compiled.path.parent.iterdir():
        shutil.copy(path, tmp_path)
    shutil.copy(small_checkpoint, tmp_path)
    for path in tmp_path.glob("*.pt2"):
        manifest = open_artifact(path).require_intact()
        record(path, dataclasses.replace(manifest, weights=dataclasses.replace(manifest.weights, checkpoint=small_checkpoint.name)))
    return open_artifact(tmp_path / compiled.path.name)


@pytest.mark.parametrize("options", mostly_slow(WAYS, 6))
def test_programs_are_the_network(options: ExportOptions, small_source: Source, tmp_path: Path) -> None:
    path = tmp_path / "small.pt2"
    artifact = export_artifact("pt2", small_source, options, output=path)
    assert verdict(path) == ("pass", None, 0)
    assert_computes(artifact, small_source, tolerance={"fp32": 1e-5, "fp16": 2e-2, "bf16": 1e-1}[options.precision])
    assert absolute_paths(path) == []
    assert artifact.require_intact().details.multiply_accumulates == {options.precision: 1.0}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.slow
def test_decomposed_programs_are_read_back_too(fold: bool, small_source: Source) -> None:
    """Foreign programs come as torch's core operators: convolution, addmm with a permuted weight, BatchNorm without training."""
    network = small_source.network
    if fold:
        from iresnet_models.folding import fold_by_plan
        from iresnet_models.folding_decisions import plan_fold

        network = fold_by_plan(network, plan_fold(network, sample=images_for(False, 32)))  # type: ignore[assignment]
    program = torch.export.export(network.eval(), (images_for(False, 2),)).run_decompositions()
    assert "addmm" in str(program.graph)
    found = compare(graph_of_network(network), graph_of_program(program))
    assert (found.weights.passed, found.first_difference) == (True, None)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(program: Artifact, small_checkpoint: Path, tmp_path: Path) -> None:
    command = ["pt2", "--checkpoint", str(small_checkpoint), "--output", str(tmp_path / "other name.pt2")]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "iresnet_export", *command], check=True, capture_output=True, env=environment)
    assert (tmp_path / "other name.pt2").read_bytes() == program.path.read_bytes()


def test_static_batch(small_source: Source, tmp_path: Path) -> None:
    options = ExportOptions(dynamic_batch=False, batch=3)
    artifact = export_artifact("pt2", small_source, options, output=tmp_path / "three.pt2")
    assert artifact.require_intact().batch == (3, 3)
    with TorchExport().load(artifact, CPU) as session:
        assert session.batch == (3, 3)
        assert session.run(images_for(False, 3)).shape == (3, 10)
        with pytest.raises(Exception, match="3"):
            session.run(images_for(False, 4))


def test_threads_are_obeyed_and_given_back(program: Artifact) -> None:
    before = torch.get_num_threads()
    with TorchExport().load(program, CPU, threads=1) as session:
        session.run(images_for(False, 1))
    assert torch.get_num_threads() == before


def spoil(path: Path, record_name: str, at: int) -> None:
    """Changes one bit of a record, where the archive stores it uncompressed, and makes its checksum fit."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in records if name.endswith(record_name))
    changed = bytearray(records[name])
    changed[at] ^= 1
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, data in {**records, name: bytes(changed)}.items():
            archive.writestr(key, data)


def test_a_changed_weight_is_named(program: Artifact, small_source: Source, vouch: Vouch, tmp_path: Path) -> None:
    for name in (program.path.name, f"{program.path.name}.json"):
        shutil.copy(program.path.parent / name, tmp_path)
    path = tmp_path / program.path.name
    assert program.manifest is not None
    record(path, dataclasses.replace(program.manifest, weights=small_source.weights_seen_from(tmp_path)))
    spoil(path, "data/weights/weight_2", 4 * 100)  # the lowest bit of the 101st number of the third tensor
    status, reason, _ = verdict(vouch(path).path)
    assert status == "fail"
    assert "weights: layer1.0.conv1.weight[0, 11, 0, 1] is" in str(reason)


def test_other_attributes_are_seen(small_source: Source, tmp_path: Path) -> None:
    other = copy.deepcopy(small_source.network)
    other.layer2[0].conv1.padding = (2, 2)
    other.layer2[0].conv1.dilation = (2, 2)
    Program().write(ExportJob(other, other.spec, tmp_path / "other.pt2", ExportOptions()))
    report = compare(graph_of_network(small_source.network), graph_of_program(load_program(tmp_path / "other.pt2")))
    assert "layer2.0.conv1: padding is (2, 2)" in str(report.first_difference)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.97])
def test_truncated_files(keep: float, program: Artifact, tmp_path: Path) -> None:
    whole = program.path.read_bytes()
    path = tmp_path / "cut.pt2"
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(InputError, match="cut off"):
        open_artifact(path)


def test_foreign_and_damaged_archives(program: Artifact, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "photos.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/archive_format", "jpeg")
    with pytest.raises(ArtifactError, match="not an artifact that this project knows"):
        open_artifact(path)
    with zipfile.ZipFile(program.path) as whole, zipfile.ZipFile(path, "w") as archive:
        for name in whole.namelist():
            if "weights_config" not in name:
                archive.writestr(name, whole.read(name))
    assert open_artifact(path).format == "pt2"
    with pytest.raises(ArtifactError, match=r"not a whole torch\.export program"):
        TorchExport().load(open_artifact(path), CPU, trust=True)
    outcome = run("inspect", path)
    assert (outcome.status, "not a whole archive of torch" in outcome.err) == (2, True)


def test_programs_are_loaded_only_when_vouched_for(program: Artifact, tmp_path: Path) -> None:
    path = Path(shutil.copy(program.path, tmp_path / "stranger.pt2"))
    with pytest.raises(ArtifactError, match="--trust"):
        TorchExport().load(open_artifact(path), CPU)
    TorchExport().load(open_artifact(path), CPU, trust=True).close()


def test_inspect_reads_a_program_without_loading_it(program: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export, "load", None)
    found = inspect_file(program.path)
    assert found.identity is not None
    assert found.identity["spec"]["depth"] == 18
    assert found.inputs == ["x float32 (batch, 3, 32, 32)"]
    assert found.outputs == ["linear float32 (batch, 10)"]
    assert (found.operators["conv2d"], found.operators["linear"]) == (20, 1)
    assert found.weights == {"float32": 11_176_842}


def test_names_and_parents(small_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iresnet_export.backends.aotinductor.package.cpp_compiler", lambda: ["c++"])
    assert default_output(Program(), small_source, ExportOptions()) == Path("artifacts/iresnet18.pt2")
    assert default_output(Package(), small_source, ExportOptions()) == Path("artifacts/iresnet18.aoti.pt2")
    with pytest.raises(InputError, match=r"let its name end in \.aoti\.pt2"):
        export_artifact("aotinductor", small_source, ExportOptions(), output=tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []


def test_without_a_compiler_nothing_is_done(run: Run, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    outcome = run("pt2", "--checkpoint", small_checkpoint, "--compile")
    assert outcome.status == 3
    assert "needs a C++ compiler (/nonexistent/c++ is not here)" in outcome.err
    assert not Path("artifacts").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no compiler is looked for on Windows")
def test_compilers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'fatal error: vector: no such file' >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", f"{broken} -O2")
    with pytest.raises(UnavailableError, match=r"broken -O2 fails: fatal error: vector"):
        cpp_compiler()
    broken.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
    assert cpp_compiler() == [str(broken), "-O2"]


def test_a_failing_compilation_is_told_and_leaves_nothing(
    program: Artifact, small_source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("C++ compile error\n\nOutput:\nkernel.cpp:3: error: too hot")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    monkeypatch.setattr("iresnet_export.backends.aotinductor.package.cpp_compiler", lambda: ["c++"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ExportError, match=r"could not compile the program: RuntimeError: .*Output:; kernel\.cpp:3: error: too hot"):
        Package().write(ExportJob(small_source.network, small_source.spec, tmp_path / "x", ExportOptions(), parent=program))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.compiler
def test_packages_are_the_network(package: Artifact, small_source: Source, run: Run) -> None:
    assert package.format == "aotinductor"
    assert package.path.name == "iresnet18-bf16-pre.aoti.pt2"
    manifest = package.require_intact()
    assert package.parent().path.name == "iresnet18-bf16-pre.pt2"
    assert manifest.details.multiply_accumulates == {"bf16": 1.0}
    assert verdict(package.path) == ("pass", None, 0)
    assert_computes(package, small_source, tolerance=1e-1)
    assert absolute_paths(package.path) == []
    found = inspect_file(package.path)
    assert found.identity is not None
    assert found.notes["for"] == f"CPUs with {torch.backends.cpu.get_cpu_capability()}"
    for command in (("bench", "--seconds", "0.05"), ("inspect",)):
        assert run(command[0], package.path, *command[1:]).status == 0


@pytest.mark.slow
@pytest.mark.compiler
def test_packages_of_strangers_are_refused(package: Artifact, tmp_path: Path) -> None:
    path = Path(shutil.copy(package.path, tmp_path / "stranger.aoti.pt2"))
    with pytest.raises(ArtifactError, match="--trust"):
        AOTInductor().load(open_artifact(path), CPU)
    AOTInductor().load(open_artifact(path), CPU, trust=True).close()


@pytest.mark.slow
@pytest.mark.compiler
def test_wrong_shapes_are_refused(package: Artifact) -> None:
    """The library itself would read beyond the end of such a batch."""
    with AOTInductor().load(package, CPU) as session, pytest.raises(ArtifactError, match="not \\(2, 16, 16, 3\\)"):
        session.run(torch.zeros(2, 16, 16, 3, dtype=torch.uint8))


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"cpu_capability": "AVX1024"}, "compiled for CPUs with AVX1024, and here is"),
        ({"torch": "2.11.0"}, "compiled for torch 2.11.0, and here is"),
        ({"cpu_extensions": ("avx99",)}, "compiled for CPUs with avx99, which this one has not"),
    ],
    ids=["capability", "torch", "extension"],
)
def test_packages_for_other_machines_are_refused(details: dict[str, Any], message: str, package: Artifact) -> None:
    manifest = package.require_intact()
    other = record(package.path, dataclasses.replace(manifest, details=dataclasses.replace(manifest.details, **details)))
    if "cpu_extensions" in details and not hasattr(torch.cpu, "get_capabilities"):
        pytest.skip("this torch has no list of extensions")
    with pytest.raises(UnavailableError, match=message):
        AOTInductor().load(other, CPU)
    status, reason, _ = verdict(package.path)
    assert (status, message in str(reason)) == ("skipped", True)


@pytest.mark.slow
@pytest.mark.compiler
def test_the_weights_of_a_package_are_those_of_its_program(package: Artifact, vouch: Vouch) -> None:
    spoil(package.parent().path, "data/weights/weight_2", 0)
    status, reason, _ = verdict(package.path)
    assert (status, "was built from another" in str(reason)) == ("fail", True)


@pytest.mark.slow
@pytest.mark.compiler
def test_damaged_packages_do_not_load(package: Artifact, vouch: Vouch) -> None:
    with zipfile.ZipFile(package.path) as archive:
        records = {name: archive.read(name) for name in archive.namelist() if not name.endswith(".so")}
    with zipfile.ZipFile(package.path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    with pytest.raises(ArtifactError, match=r"cannot load .*export it again here"):
        AOTInductor().load(vouch(package.path), CPU)
