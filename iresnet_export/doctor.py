"""What this machine can export, run and train: tried out with a small network, or why not and the remedy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.manifest import FormatName
from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.base import ExportOptions, Runtime
from iresnet_export.backends.registry import NAMES, format_named, runtime_named
from iresnet_export.errors import InputError, IResNetError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.reporting.schemas import Component, DoctorReport, EngineFile, Finding, environment_here
from iresnet_export.system import nvidia
from iresnet_export.system.progress import Progress, no_progress
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.errors import named_line
from iresnet_models.temporary import temporary_folder

_SPEC = ModelSpec("iresnet", 18, num_classes=4, image_size=32, resize=32)
_STEP: dict[str, Any] = {"epochs": 1, "batch_size": 8, "train_crop_size": 32, "val_resize": 32, "val_crop_size": 32, "workers": 0}
_TOLERANCE = 1e-3
_NEVER = {("openvino", "cuda"), *((name, "cpu") for name in ("tensorrt", "compiled", "channels-last"))}
"""Backends and devices that are not for each other."""

_FAULT = "report it, with the output of: iresnet-export doctor --json doctor.json"


def is_usable(findings: Sequence[Finding]) -> bool:
    """Whether at least one format can be both exported and run here."""
    able = {
        direction: {runtime_named(one.backend).format for one in findings if (one.direction, one.answer) == (direction, "yes")}
        for direction in ("export", "run")
    }
    return bool((able["export"] & able["run"]) - {"checkpoint"})


def diagnose(folder: Path | None = None, progress: Progress = no_progress) -> DoctorReport:
    """Tries everything with an untrained iResNet-18 of 32 pixels, in a temporary folder; reads the plans in `folder`."""
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder} is no folder;", "name one that engines lie in.")
    source = untrained_source(_SPEC, seed=0)
    findings: list[Finding] = []
    with temporary_folder() as temporary:
        made: dict[FormatName, Artifact] = {}
        for step, runtime in enumerate(NAMES):
            progress(f"Trying {runtime}", step / (len(NAMES) + 1))
            findings += _tried(runtime_named(runtime), source, temporary, made)
    progress("Trying to train", len(NAMES) / (len(NAMES) + 1))
    findings += [_trained("cpu"), _trained("cuda")]
    progress("Looking at libraries", 1.0)
    parts, engines = tuple(_components()), tuple(_engines(folder))
    return DoctorReport(environment_here(), is_usable(findings), tuple(findings), parts, engines)


def _tried(runtime: Runtime, source: Source, folder: Path, made: dict[FormatName, Artifact]) -> list[Finding]:
    """Exports to the runtime's format, unless one before it has done so, then runs what was exported on each device."""
    findings, format = [], runtime.format
    if format == "checkpoint":
        path = folder / "checkpoint.pt"
        save_checkpoint(path, source.own)
        made[format] = open_artifact(path)
    elif runtime.name == next(name for name in NAMES if runtime_named(name).format == format):
        device = "cuda" if format == "engine" and torch.cuda.is_available() else "cpu"
        finding = Finding(runtime.name, "export", "cpu", "yes")
        findings.append(replace(_attempt(finding, lambda: _export(format, source, folder, made)), device=device))
    for device in ("cpu", "cuda"):
        if (runtime.name, device) in _NEVER:
            continue  # what it never does
        run = Finding(runtime.name, "run", device, "yes")
        findings.append(_run_finding(run, runtime, source, made, findings))
    return findings


def _run_finding(
    run: Finding, runtime: Runtime, source: Source, made: dict[FormatName, Artifact], before: list[Finding]
) -> Finding:
    missing = nvidia.absence() if run.device == "cuda" else None
    if missing is not None:
        return replace(run, answer="no", reason=missing.reason, remedy=missing.remedy)
    artifact = made.get(runtime.format)
    if artifact is None:
        cause = next((finding for finding in before if finding.direction == "export"), None)
        if cause is not None and cause.answer == "untried":
            more = " --device cuda" if run.device == "cuda" else ""
            return replace(run, answer="untried", reason="no package was made to try it with", remedy=f"{cause.remedy}{more}")
        reason = "no file could be made to try it with" if cause is None else cause.reason
        return replace(run, answer="no", reason=reason, remedy=None if cause is None else cause.remedy)
    return _attempt(run, lambda: _run(runtime, artifact, source, torch.device(run.device)))


def _attempt(finding: Finding, attempt: Callable[[], Finding | None]) -> Finding:
    """What came of trying: the finding itself if nothing was raised."""
    try:
        return attempt() or finding
    except IResNetError as error:
        return replace(finding, answer="no", reason=error.reason, remedy=error.remedy or None)
    except Exception as error:  # whatever a library raises, the doctor goes on to the next
        return replace(finding, answer="no", reason=named_line(error), remedy=_FAULT)


def _export(format: FormatName, source: Source, folder: Path, made: dict[FormatName, Artifact]) -> Finding | None:
    if format == "aotinductor":
        from iresnet_export.backends.aotinductor.package import cpp_compiler

        compiler = " ".join(cpp_compiler())
        reason = f"{compiler} compiles; a package takes it half a minute or more"
        return Finding("aotinductor", "export", "cpu", "untried", reason, "try it: iresnet-export pt2 --compile --depth 18")
    path = folder / f"network{format_named(format).suffix}"
    made[format] = export_artifact(format, source, ExportOptions(fold=False, max_batch=4), output=path)
    return None


def _run(runtime: Runtime, artifact: Artifact, source: Source, device: torch.device) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = source.network(images)
    with runtime.load(artifact, device, trust=True) as session:
        found = session.run(images.to(session.device)).cpu()
    error = float((found - expected).abs().max())
    if not error <= _TOLERANCE * float(expected.abs().max()):
        raise UnavailableError(f"it computes something else: its logits are off by {error:.2g};", _FAULT)


def _trained(device: Literal["cpu", "cuda"]) -> Finding:
    finding = Finding("training", "train", device, "yes")
    missing = nvidia.absence() if device == "cuda" else None
    if missing is not None:
        return replace(finding, answer="no", reason=missing.reason, remedy=missing.remedy)

    def step() -> None:
        from iresnet_train import TrainConfig, train

        # The way that `train` itself goes, from joining to the checkpoint: what it would meet, this meets.
        with temporary_folder() as folder, _in_one_process():
            train(TrainConfig("synthetic:8", depth=18, result_path=Path(folder) / "run", device=device, **_STEP))

    return _attempt(finding, step)


@contextmanager
def _in_one_process() -> Iterator[None]:
    """Without torchrun's variables, should it have started this: there is nobody to join."""
    kept = {name: os.environ.pop(name) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _components() -> Sequence[Component]:
    here = nvidia.driver()
    runtime = torch.version.cuda
    components = [
        Component("NVIDIA driver", here.version or "unknown", f"serves CUDA {here.cuda[0]}.{here.cuda[1]}")
        if here
        else Component("NVIDIA driver", None),
        Component("CUDA runtime", runtime, "torch's" if runtime else "torch is built without CUDA"),
        Component("cuDNN", _cudnn(), "torch's"),
    ]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = nvidia.gpu(index)
        assert found is not None
        major, minor = found.capability
        note = f"compute capability {major}.{minor}, {found.memory_bytes / 2**30:.0f} GiB" + (", fp8" if found.has_fp8 else "")
        components.append(Component(f"GPU {index}", found.name, note))
    return [*components, *(_flavour(name) for name in ("tensorrt", "tensorrt_rtx")), _onnxruntime(), _compiler()]


def _cudnn() -> str | None:
    try:
        number = torch.backends.cudnn.version() if torch.version.cuda else None  # type: ignore[no-untyped-call]
    except RuntimeError:  # another cuDNN than torch was built with is found first
        return None
    return None if number is None else f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _flavour(name: str) -> Component:
    from iresnet_export.backends.tensorrt.flavours import flavour_named

    title = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[name]
    try:
        found = flavour_named(name)
    except IResNetError as error:
        return Component(title, None, error.remedy or None)
    return Component(title, found.version, "builds without a GPU" if found.builds_without_gpu else "builds for the GPU at hand")


def _onnxruntime() -> Component:
    try:
        import onnxruntime as ort
    except ImportError:
        return Component("ONNX Runtime", None, "pip install onnxruntime")
    built = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    return Component("ONNX Runtime", str(ort.__version__), f"built with {', '.join(built)}; whether they work is said above")


def _compiler() -> Component:
    from iresnet_export.backends.aotinductor.package import cpp_compiler

    try:
        command = cpp_compiler()
    except UnavailableError as error:
        return Component("C++ compiler", None, error.remedy or None)
    return Component("C++ compiler", " ".join(command), "for AOTInductor")


def _engines(folder: Path | None) -> Sequence[EngineFile]:
    if folder is None:
        return []
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".engine", ".plan"))
    return [_engine(path) for path in paths]


def _engine(path: Path) -> EngineFile:
    from iresnet_export.backends.base import require_trusted
    from iresnet_export.backends.tensorrt.checks import require_runnable
    from iresnet_export.backends.tensorrt.plan import read_plan

    try:
        artifact = open_artifact(path)
        plan = read_plan(artifact)
        require_runnable(artifact, torch.device("cuda"))
        require_trusted(artifact, trust=False)
    except IResNetError as error:
        return EngineFile(path.name, "no", str(error).replace(str(path), path.name))
    made = f"{plan.flavour} {plan.version or '(version unknown)'}"
    targets = "" if plan.capabilities is None else f", compute capability {nvidia.capability_text(*plan.capabilities)}"
    return EngineFile(path.name, "untried", f"made by {made}{targets}: version and GPU fit, so it should run here")
