"""Whether a plan can run here, told before it is loaded: another TensorRT, another GPU, no driver, half a file."""

from __future__ import annotations

import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.tensorrt.flavours import Flavour, flavour_named
from iresnet_export.backends.tensorrt.plan import RTX_CAPABILITIES, Plan, engine_details, read_plan
from iresnet_export.errors import ArtifactError, UnavailableError
from iresnet_export.system import nvidia

_AMPERE = (8, 0)


def require_runnable(artifact: Artifact, device: torch.device) -> Flavour:
    """The TensorRT that runs a plan on this device.

    Raises ArtifactError for a file that is no whole plan, MissingPackageError where its TensorRT is not installed, and
    UnavailableError where it is for another version, or another GPU, or where no GPU can be used.
    """
    plan = read_plan(artifact)
    flavour = flavour_named(plan.flavour)
    _require_version(artifact, plan, flavour)
    if device.type != "cuda" and nvidia.absence() is None:
        raise UnavailableError(f"{artifact.path} runs on an NVIDIA GPU alone;", "add --device cuda.")
    here = nvidia.require_gpu(device.index or 0, "A TensorRT engine runs on an NVIDIA GPU, and none can be used here", "")
    _require_gpu(artifact, plan, here)
    return flavour


def explained_validity(flavour: Flavour, runtime: object, plan: bytes, artifact: Artifact) -> None:
    """Asks TensorRT-RTX itself, which can tell from the header; TensorRT has no such question. Raises as `require_runnable`."""
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        return
    trt = flavour.module
    validity, bits = ask(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    reasons = {
        trt.EngineInvalidityDiagnostics.VERSION_MISMATCH: "it was built by another version",
        trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC: "it is for GPUs of another compute capability",
        trt.EngineInvalidityDiagnostics.OLD_CUDA_DRIVER: "the NVIDIA driver is older than it needs",
        trt.EngineInvalidityDiagnostics.OLD_CUDA_RUNTIME: "the CUDA runtime is older than it needs",
        trt.EngineInvalidityDiagnostics.INSUFFICIENT_GPU_MEMORY: "the GPU has too little memory free",
        trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE: "the file is damaged",
        trt.EngineInvalidityDiagnostics.CUDA_ERROR: "CUDA reports an error",
    }
    found = [words for bit, words in reasons.items() if int(bits) & int(bit)]
    what = "; ".join(found) or f"TensorRT-RTX gives no reason (diagnostics {bits})"
    kind = ArtifactError if int(bits) & int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE) else UnavailableError
    raise kind(f"{artifact.path} cannot run here: {what}. {_mend(flavour.name)}")


def _require_version(artifact: Artifact, plan: Plan, flavour: Flavour) -> None:
    compatible = engine_details(artifact).settings.version_compatible
    if plan.version is None or plan.version == flavour.version:
        return
    if compatible and plan.version.partition(".")[0] == flavour.version.partition(".")[0]:
        return
    package = plan.flavour.replace("_", "-")
    raise UnavailableError(
        f"{artifact.path} was built by {plan.flavour} {plan.version}, and here is {flavour.version}: plans are tied to the "
        f"version.",
        f"Build it again here, or run: pip install '{package}=={plan.version}'",
    )


def _require_gpu(artifact: Artifact, plan: Plan, here: nvidia.Gpu) -> None:
    if plan.capabilities is None:
        return  # nothing says which GPU it is for; TensorRT will
    own = here.capability
    able = own in plan.capabilities
    if plan.flavour == "tensorrt" and plan.hardware_compatibility == "ampere-plus":
        able = own >= _AMPERE
    if able:
        return
    raise UnavailableError(
        f"{artifact.path} is for GPUs of compute capability {nvidia.capability_text(*plan.capabilities)}, and {here.name} has "
        f"{own[0]}.{own[1]}.",
        f"{_mend(plan.flavour, own)}",
    )


def _mend(flavour: str, own: tuple[int, int] | None = None) -> str:
    if flavour == "tensorrt_rtx" and own is not None and own not in RTX_CAPABILITIES:
        return (
            "TensorRT-RTX builds none for it: pip install 'iresnet-export[tensorrt]', then: iresnet-export trt --flavour tensorrt"
        )
    return f"Build it on this machine: iresnet-export trt --flavour {flavour}"
