"""AOTInductor: shared libraries that are compiled from torch.export programs, for processors or GPUs like this machine's."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.export import ExportedProgram

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import FormatName, PackageSettings
from iresnet_export.artifacts.metadata import METADATA_FILE
from iresnet_export.backends.aotinductor.cuda import configuration, cuda_build, cuda_home, linker_options, on_gpu
from iresnet_export.backends.aotinductor.session import CudaPackageSession, PackageSession
from iresnet_export.backends.aotinductor.target import gpu_at, require_same_machine, target
from iresnet_export.backends.base import ExportJob, ExportOptions, Format, Runtime, require_trusted
from iresnet_export.backends.pt2.reading import layer_precisions, load_program, quiet
from iresnet_export.errors import ExportError, UnavailableError
from iresnet_export.system import nvidia
from iresnet_export.system.torch_settings import without_tf32
from iresnet_models.precisions import Precision
from iresnet_models.temporary import temporary_folder

_CONFIGURATION = {
    "cpp.dynamic_threads": True,  # else the number of threads of the export is compiled in
    "compile_threads": 1,  # else a pool of processes outlives the compilation
}
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PackageOptions(ExportOptions):
    """`device`: what a package is compiled for: `cpu`, or the GPU at hand, `cuda` or `cuda:1`."""

    device: str = "cpu"


class Package(Format):
    name: ClassVar[FormatName] = "aotinductor"
    suffix: ClassVar[str] = ".aoti.pt2"
    native: ClassVar[bool] = True
    parent: ClassVar[FormatName | None] = "pt2"
    options_type: ClassVar[type[ExportOptions]] = PackageOptions
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")

    def settings(self, options: ExportOptions) -> PackageSettings:
        cpp_compiler()
        device = torch.device(PackageOptions.of(options).device)
        if device.type == "cpu":
            return PackageSettings()
        gpu = gpu_at(device)
        cuda_home()
        return PackageSettings(device="cuda", compute_capability=nvidia.capability_text(gpu.capability))

    def name_parts(self, options: ExportOptions) -> list[str]:
        device = PackageOptions.of(options).device
        return [] if device == "cpu" else [device]

    def write(self, job: ExportJob) -> dict[str, Any]:
        if job.parent is None:
            raise ExportError("A package is compiled from a torch.export program, and none was given.")
        compiler, program, options = cpp_compiler(), load_program(job.parent.path), PackageOptions.of(job.options)
        device = torch.device(options.device)
        device = device if device.type == "cpu" else torch.device(device.type, device.index or 0)
        made = {**target(device), "compiler": Path(compiler[0]).name, "layer_precisions": layer_precisions(program)}
        job.progress("Compiling", 0.1)
        with temporary_folder() as folder:
            package = _compiled(program, compiler, folder.resolve(), device, options.precision)
            job.progress("Writing", 0.9)
            _copy_without_sources(package, job.path, job.identity)
        job.progress("Writing", 1.0)
        return made


class AOTInductor(Runtime):
    name: ClassVar[str] = "aotinductor"
    format: ClassVar[FormatName] = "aotinductor"

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> PackageSession:
        require_trusted(artifact, trust)
        require_same_machine(artifact, device)
        return PackageSession(artifact, device, threads) if device.type == "cpu" else CudaPackageSession(artifact, device)


def cpp_compiler() -> list[str]:
    """The command of a C++ compiler that works: `CXX`, or g++ or clang++; UnavailableError where there is none."""
    if sys.platform == "win32":
        raise UnavailableError("AOTInductor packages are made on Linux and macOS;", "on Windows leave out --compile.")
    own = shlex.split(os.environ.get("CXX", ""))
    candidates = [own] if own else [["g++"], ["clang++"]]
    reasons = []
    for command in candidates:
        if shutil.which(command[0]) is None:
            reasons.append(f"{command[0]} is not here")
            continue
        check = [*command, "-x", "c++", "-fsyntax-only", "-"]
        done = subprocess.run(check, input="#include <vector>\n", capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return command
        reasons.append(f"{shlex.join(command)} fails: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    raise UnavailableError(
        f"AOTInductor needs a C++ compiler ({'; '.join(reasons)}).",
        "Install g++ or clang++ (on Debian and Ubuntu: apt install g++; "
        "on macOS: xcode-select --install), or name one in the environment variable CXX; or leave out --compile.",
    )


def _compiled(
    program: ExportedProgram, compiler: list[str], folder: Path, device: torch.device = _CPU, precision: Precision = "fp32"
) -> io.BytesIO:
    """The package that Inductor makes of a program. All that it writes on its way lies in `folder`.

    The package itself is in memory: torch's own writer of files ends the process where a disk is full.
    """
    from torch._inductor import config, utils

    package, settings, more = io.BytesIO(), dict(_CONFIGURATION), list[str]()
    needed: list[AbstractContextManager[Any]] = []
    places = [folder, Path(torch.__file__).parent.parent]
    if device.type == "cuda":
        home = cuda_home()
        settings |= configuration(precision)
        more, places = linker_options(folder), [*places, home]
        needed = [cuda_build(home), torch.cuda.device(device), without_tf32()]  # float32 that is no TF32
    script = _pathless(compiler, folder, places, more)
    try:
        with ExitStack() as stack:
            # What they log to stderr is about CUDA where there is none, and about caches, which are temporary.
            stack.enter_context(quiet("torch._inductor", "torch.utils.cpp_extension"))
            stack.enter_context(config.patch({"cpp.cxx": (None, str(script))}))
            stack.enter_context(utils.fresh_cache(dir=str(folder)))
            for context in needed:
                stack.enter_context(context)
            if device.type == "cuda":
                program = on_gpu(program, device, precision)
            torch._inductor.aoti_compile_and_package(program, package_path=package, inductor_configs=settings)
    except Exception as error:
        last = "; ".join(line.strip() for line in str(error).strip().splitlines()[-3:])
        raise ExportError(f"AOTInductor could not compile the program: {type(error).__name__}: {last}") from error
    return package


def _pathless(compiler: list[str], folder: Path, places: list[Path], more: list[str]) -> Path:
    """A script that calls the compiler so that the library holds no path of this machine: messages name sources relatively."""
    script = folder / Path(compiler[0]).name
    options = [*(f"-ffile-prefix-map={place}=." for place in places), "-g0", *more]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(compiler)} "$@" {shlex.join(options)}\n', encoding="utf-8")
    script.chmod(0o700)
    return script


def _copy_without_sources(package: io.BytesIO, path: Path, identity: dict[str, Any]) -> None:
    """Writes a package without its C++ sources, which hold this machine's paths and which nothing needs."""
    from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

    slim = io.BytesIO()
    package.seek(0)
    with PT2ArchiveReader(package) as reader, PT2ArchiveWriter(slim) as writer:
        for name in reader.get_file_names():
            if name.startswith("data/") and not name.endswith(".cpp"):
                writer.write_bytes(name, reader.read_bytes(name))
        writer.write_string(f"extra/{METADATA_FILE}", json.dumps(identity))
    path.write_bytes(slim.getbuffer())
