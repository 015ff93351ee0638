"""AOTInductor: shared libraries that are compiled from torch.export programs, for processors like this machine's."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram as Program

from iresnet_export.artifact import Artifact, Format
from iresnet_export.backends.base import Backend, ExportJob, ExportOptions, Session, require_trusted
from iresnet_export.backends.eager import torch_threads
from iresnet_export.backends.exported import layers_of_program, load_program, precisions_of_layers, quiet
from iresnet_export.backends.torchscript import METADATA_FILE
from iresnet_export.errors import ArtifactError, ExportError, UnavailableError
from iresnet_models.deployed import Precision

_CONFIGURATION = {
    "cpp.dynamic_threads": True,  # else the number of threads of the export is compiled in
    "compile_threads": 1,  # else a pool of processes outlives the compilation
}


class AOTInductor(Backend):
    name: ClassVar[str] = "aotinductor"
    format: ClassVar[Format] = "aoti"
    native: ClassVar[bool] = True
    parent_format: ClassVar[Format | None] = "pt2"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "fp16", "bf16")

    def settings(self, options: ExportOptions) -> dict[str, Any]:
        cpp_compiler()  # says what is missing before any work is done
        return {}

    def batch_range(self, options: ExportOptions) -> tuple[int, int] | None:
        return None if options.dynamic_batch else (options.batch, options.batch)

    def export(self, job: ExportJob) -> dict[str, Any]:
        if job.parent is None:
            raise ExportError("A package is compiled from a torch.export program, and none was given.")
        compiler, program = cpp_compiler(), load_program(job.parent.path)
        job.progress("Compiling", 0.1)
        with tempfile.TemporaryDirectory(prefix="iresnet-export-") as name:
            folder = Path(name).resolve()
            package = _compiled(program, compiler, folder)
            job.progress("Writing", 0.9)
            _copy_without_sources(package, job.path, job.identity)
        job.progress("Writing", 1.0)
        return {**_processor(), "compiler": Path(compiler[0]).name, "layer_precisions": _layer_precisions(program)}

    def load(self, artifact: Artifact, device: torch.device, *, threads: int | None = None, trust: bool = False) -> PackageSession:
        require_trusted(artifact, trust)
        if device.type != "cpu":
            raise UnavailableError(f"{artifact.path} is compiled for CPUs; run it with --device cpu.")
        _require_same_machine(artifact)
        return PackageSession(artifact, threads)


class PackageSession(Session):
    """A compiled library. It reads its inputs' memory without asking for their shape, so that is checked here."""

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        from torch._C._aoti import AOTIModelPackageLoader
        from torch.export.pt2_archive._package import AOTICompiledModel

        self.device, self._threads, descent = torch.device("cpu"), threads, artifact.descent
        self._image: tuple[int, ...] | None = None
        if descent is not None:
            self.batch, self.takes_pixels, self.computed_precision = descent.batch, descent.takes_pixels, descent.precision
            size = descent.spec.image_size
            self._image = (size, size, 3) if self.takes_pixels else (3, size, size)
        try:
            # torch._inductor.aoti_load_package does the same, but before that compiles small programs for many seconds, only to
            # compare the instruction set with the package's; that is done in `load`, and needs no compiler.
            self._package = AOTICompiledModel(AOTIModelPackageLoader(str(artifact.path), "model", False, 1, -1))
        except RuntimeError as error:
            first = str(error).strip().splitlines()[0]
            raise ArtifactError(
                f"torch {torch.__version__} cannot load {artifact.path} ({first}). Packages are tied to a version of torch and a "
                "kind of processor; export it again here."
            ) from error

    def run(self, batch: Tensor) -> Tensor:
        smallest, largest = self.batch or (1, len(batch))
        if not smallest <= len(batch) <= largest or tuple(batch.shape[1:]) != (self._image or tuple(batch.shape[1:])):
            images = "any number" if self.batch is None else f"{smallest} to {largest}"
            raise ArtifactError(f"The package takes {images} of images of shape {self._image}, not {tuple(batch.shape)}.")
        with torch.inference_mode(), torch_threads(self._threads):
            found: Tensor | tuple[Tensor, Tensor] = self._package(batch.contiguous())
        return found if isinstance(found, Tensor) else found[0]

    def close(self) -> None:
        del self._package  # and with it the temporary folder that its library was unpacked to


def cpp_compiler() -> list[str]:
    """The command of a C++ compiler that works: `CXX`, or g++ or clang++; UnavailableError where there is none."""
    if sys.platform == "win32":
        raise UnavailableError("AOTInductor packages are made on Linux and macOS; on Windows leave out --compile.")
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
        f"AOTInductor needs a C++ compiler ({'; '.join(reasons)}). Install g++ or clang++ (on Debian and Ubuntu: apt install g++; "
        "on macOS: xcode-select --install), or name one in the environment variable CXX; or leave out --compile."
    )


def _compiled(program: Program, compiler: list[str], folder: Path) -> Path:
    """The package that Inductor makes of a program. All that it writes on its way lies in `folder`."""
    from torch._inductor import config, utils

    package = folder / "package.pt2"
    script = _pathless(compiler, folder)
    try:
        with (
            # What they log to stderr is about CUDA, which is not compiled for, and about caches, which are temporary.
            quiet("torch._inductor", "torch.utils.cpp_extension"),
            config.patch({"cpp.cxx": (None, str(script))}),
            utils.fresh_cache(dir=str(folder)),
        ):
            torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=dict(_CONFIGURATION))
    except Exception as error:
        last = "; ".join(line.strip() for line in str(error).strip().splitlines()[-3:])
        raise ExportError(f"AOTInductor could not compile the program: {type(error).__name__}: {last}") from error
    return package


def _pathless(compiler: list[str], folder: Path) -> Path:
    """A script that calls the compiler so that the library holds no path of this machine: messages name sources relatively."""
    script = folder / Path(compiler[0]).name
    maps = [f"-ffile-prefix-map={place}=." for place in (folder, Path(torch.__file__).parent.parent)]
    script.write_text(f'#!/bin/sh\nexec {shlex.join(compiler)} "$@" {shlex.join(maps)} -g0\n', encoding="utf-8")
    script.chmod(0o700)
    return script


def _copy_without_sources(package: Path, path: Path, identity: dict[str, Any]) -> None:
    """Copies a package without its C++ sources, which hold this machine's paths and which nothing needs."""
    from torch.export.pt2_archive import PT2ArchiveReader, PT2ArchiveWriter

    with PT2ArchiveReader(str(package)) as reader, path.open("w+b") as file, PT2ArchiveWriter(file) as writer:
        for name in reader.get_file_names():
            if name.startswith("data/") and not name.endswith(".cpp"):
                writer.write_bytes(name, reader.read_bytes(name))
        writer.write_string(f"extra/{METADATA_FILE}", json.dumps(identity))


def _layer_precisions(program: Program) -> list[str]:
    return precisions_of_layers(layers_of_program(program))


def _processor() -> dict[str, Any]:
    """What a package is tied to: torch's version without its build, its name for the instruction set, and each extension."""
    # Not every version of torch tells of the extensions.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "torch": torch.__version__.partition("+")[0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_extensions": sorted(name for name, has in capabilities.items() if has is True),
    }


def _require_same_machine(artifact: Artifact) -> None:
    """UnavailableError where the package was compiled for another version of torch or for instructions that are not here."""
    made, here = {} if artifact.descent is None else artifact.descent.details, _processor()
    missing = sorted(set(made.get("cpu_extensions", ())) - set(here["cpu_extensions"])) if here["cpu_extensions"] else []
    wrong = [
        f"{what} {made[key]}, and here is {here[key]}"
        for key, what in (("torch", "torch"), ("cpu_capability", "CPUs with"))
        if key in made and made[key] != here[key]
    ]
    wrong += [f"CPUs with {', '.join(missing)}, which this one has not"] if missing else []
    if wrong:
        raise UnavailableError(f"{artifact.path} is compiled for {'; '.join(wrong)}. Export it again here.")
