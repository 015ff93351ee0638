"""TensorRT engines from ONNX. Everything that TensorRT reports by None, -1 or silence becomes an error here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from iresnet_export.artifacts.manifest import Gpu
from iresnet_export.backends.onnx.writing import INPUT
from iresnet_export.backends.tensorrt.flavours import Flavour
from iresnet_export.backends.tensorrt.network import mark_outputs, parsed_network, require_precision, require_sparse
from iresnet_export.backends.tensorrt.options import EngineOptions, Profile
from iresnet_export.backends.tensorrt.timing import TimingCache
from iresnet_export.errors import ExportError, InputError, UnavailableError
from iresnet_export.quantization.placement import floating_layers
from iresnet_export.system import nvidia
from iresnet_export.system.progress import Progress


def engine_from_onnx(
    flavour: Flavour,
    onnx: bytes,
    options: EngineOptions,
    progress: Progress,
    observed: Sequence[str] = (),
    kept: Collection[str] = (),
) -> tuple[bytes, dict[str, Any]]:
    """A serialized engine (a raw plan, as trtexec reads it) and what the manifest should say of it.

    `observed`: values inside, by the names of the ONNX nodes' outputs, that the engine is to give as well; `kept`: the places of a
    quantized network that stay in float32 by choice.
    """
    require_options(flavour, options)
    trt = flavour.module
    flavour.messages.clear()
    progress("Parsing ONNX", 0.0)
    builder = trt.Builder(flavour.logger)
    # The parser owns what the network points to: it must stay until the engine is built.
    network, parser, model = parsed_network(flavour, builder, onnx)
    scheme = options.scheme
    floating = floating_layers(model, scheme, kept) if scheme else []
    precisions = require_precision(flavour, network, options.precision, floating)
    details: dict[str, Any] = {"flavour": flavour.name, "builder_version": flavour.version, "layers": network.num_layers}
    mark_outputs(flavour, network, list(observed))
    config = builder.create_builder_config()
    # TF32 is on by default; it would round every product of a float32 network to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    # Else the engine cannot be asked what its layers are computed in.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profiles = profiles_of(options)
    for profile in profiles:
        _add_profile(flavour, builder, network, config, profile)
    if options.build.sparse:
        details["sparse_layers"] = require_sparse(model)
    cache = _configure(flavour, config, options)
    details |= _set_targets(flavour, config, options)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    with _interrupts_cancel(monitor):
        plan = builder.build_serialized_network(network, config)
    del parser
    if monitor.cancelled is not None:
        raise monitor.cancelled
    if plan is None:
        raise ExportError(f"{flavour.name} {flavour.version} built no engine: {flavour.errors()}.")
    progress("Building engine", 1.0)
    details |= {} if cache is None else cache.keep()
    return bytes(plan), {**details, "profiles": profiles, "layer_precisions": precisions}


def require_options(flavour: Flavour, options: EngineOptions) -> None:
    """InputError for options that this TensorRT has no use for, or cannot follow; UnavailableError where the GPU here cannot."""
    foreign = options.build.for_tensorrt_alone() if flavour.builds_without_gpu else []
    if foreign:
        raise InputError(
            f"{', '.join(foreign)}: TensorRT-RTX has no use for that, since it chooses its kernels where the engine runs.",
            "Leave it out, or build with --flavour tensorrt.",
        )
    if options.compute_capabilities and not flavour.builds_without_gpu:
        raise InputError(
            "--compute-capability is for TensorRT-RTX; TensorRT builds for the GPU at hand.",
            "Leave it out, or add --flavour tensorrt_rtx.",
        )
    if options.build.profiles and not options.dynamic_batch:
        raise InputError("--profile is for a dynamic batch;", "leave it out, or leave out --static-batch.")
    if options.precision == "fp8":
        _require_fp8(flavour, options)


def _require_fp8(flavour: Flavour, options: EngineOptions) -> None:
    """The GPUs that are named, or the one that is built on, must compute in fp8: TensorRT says so only after minutes, or never."""
    least = nvidia.capability_text(nvidia.MINIMUM_FP8)
    older = [name for name in options.compute_capabilities if (0, 0) < _capability(name) < nvidia.MINIMUM_FP8]
    if older:
        able = nvidia.capability_text(*(number for number in _targets(flavour) if number >= nvidia.MINIMUM_FP8))
        raise InputError(
            f"--precision fp8 needs GPUs of compute capability {least} or more, and --compute-capability asks for "
            f"{', '.join(older)}.",
            f"Build for {able}, or take --precision int8, which every GPU from Ampere on computes.",
        )
    here = nvidia.gpu()
    if not flavour.builds_without_gpu and here is not None and not here.has_fp8:
        own = nvidia.capability_text(here.capability)
        raise UnavailableError(
            f"TensorRT builds for the GPU at hand, and {here.name} has compute capability {own}: fp8 needs {least} or more.",
            "Build on such a GPU, or with --flavour tensorrt_rtx for one, or take --precision int8.",
        )


def _targets(flavour: Flavour) -> list[tuple[int, int]]:
    """The compute capabilities that TensorRT-RTX builds for."""
    return [_capability(name[2:]) for name in flavour.module.ComputeCapability.__members__ if name.startswith("SM")]


def _capability(text: str) -> tuple[int, int]:
    """8.6, or 86 as TensorRT names it, as two numbers; zeros for anything else."""
    digits = text.replace(".", "")
    return (int(digits[:-1]), int(digits[-1])) if digits.isdecimal() and len(digits) > 1 else (0, 0)


def profiles_of(options: EngineOptions) -> tuple[Profile, ...]:
    """The ranges of batches that an engine with these options is optimised for; none for a static batch."""
    if not options.dynamic_batch:
        return ()
    return options.build.profiles or ((1, options.batch, options.max_batch),)


def _add_profile(flavour: Flavour, builder: Any, network: Any, config: Any, batches: Profile) -> None:
    image = tuple(network.get_input(0).shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *((batch, *image) for batch in batches))
    if config.add_optimization_profile(profile) < 0:
        smallest, _, largest = batches
        raise ExportError(f"{flavour.name} refused batches of {smallest} to {largest}: {flavour.errors()}.")


def _configure(flavour: Flavour, config: Any, options: EngineOptions) -> TimingCache | None:
    trt, engine = flavour.module, options.build
    if engine.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, engine.workspace_mib * 2**20)
    if engine.builder_level is not None:
        config.builder_optimization_level = engine.builder_level
    if engine.hardware_compatibility != "none":
        level = engine.hardware_compatibility.replace("-", "_").upper()
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.__members__[level]
    if engine.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if engine.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    here = nvidia.gpu()
    if flavour.builds_without_gpu or not engine.timing_cache or here is None:
        return None
    driver = nvidia.driver()
    cache = TimingCache(flavour, here, driver.version if driver else None)
    cache.give(config)
    return cache


def _set_targets(flavour: Flavour, config: Any, options: EngineOptions) -> dict[str, Any]:
    """Sets the GPUs that the engine is for; returns what the manifest says of them, in words and in numbers."""
    if not flavour.builds_without_gpu:
        here, driver = nvidia.gpu(), nvidia.driver()
        if here is None:
            raise ExportError("TensorRT builds on a GPU, and none is here.")
        kind = {
            "none": "GPUs of the same kind",
            "ampere-plus": "GPUs from Ampere on",
            "same-compute-capability": "GPUs of the same compute capability",
        }[options.build.hardware_compatibility]
        built_on = Gpu(here.name, nvidia.capability_text(here.capability), driver.version if driver else None)
        return {"gpus": f"{here.name} and {kind}", "gpu": built_on}
    wanted = options.compute_capabilities
    if not wanted and options.precision == "fp8":
        # Else the plan's header would name GPUs from Ampere on, and TensorRT-RTX refuses to build fp8 for those one by one.
        wanted = tuple(nvidia.capability_text(number) for number in _targets(flavour) if number >= nvidia.MINIMUM_FP8)
    if not wanted:
        return {"gpus": "NVIDIA RTX GPUs from Ampere on"}
    members = flavour.module.ComputeCapability.__members__
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        member = members.get(f"SM{capability.replace('.', '')}")
        if member is None or not config.set_compute_capability(member, index):
            known = nvidia.capability_text(*_targets(flavour))
            raise InputError(f"TensorRT-RTX cannot build for compute capability {capability}; it can for {known}.")
    return {"gpus": f"GPUs of compute capability {', '.join(wanted)}"}


@contextmanager
def _interrupts_cancel(monitor: Any) -> Iterator[None]:
    """Ctrl-C tells the monitor, which ends the build at its next step; raised where it came, it would tear TensorRT's frames."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def noted(_number: int, _frame: FrameType | None) -> None:
        monitor.cancelled = KeyboardInterrupt()

    before = signal.signal(signal.SIGINT, noted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes TensorRT's phases on; what the progress callback raises, Ctrl-C among it, cancels the build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = max(steps, 1)
            self._tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self._tell(phase, step + 1)
            return self.cancelled is None

        def phase_finish(self, phase: str) -> None:
            self._tell(phase, self._steps.get(phase, 1))

        def _tell(self, phase: str, step: int) -> None:
            if self.cancelled is not None:
                return
            try:
                progress(phase, step / self._steps.get(phase, 1))
            except BaseException as error:  # an exception must not pass through TensorRT's own frames
                self.cancelled = error

    return Monitor()
