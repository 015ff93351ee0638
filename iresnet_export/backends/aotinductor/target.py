"""What an AOTInductor package is compiled for: a version of torch, a kind of processor, and a kind of GPU if it runs on one."""

from __future__ import annotations

from typing import Any

import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import PackageDetails
from iresnet_export.errors import UnavailableError
from iresnet_export.system import nvidia
from iresnet_models.archives import opened

_AGAIN = "iresnet-export pt2 --compile"


def processor() -> dict[str, Any]:
    """What a package is tied to here: torch's version without its build, its name for the instruction set, and each extension."""
    # Not every version of torch tells of the extensions.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "torch": torch.__version__.partition("+")[0],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu_extensions": tuple(sorted(name for name, has in capabilities.items() if has is True)),
    }


def gpu_at(device: torch.device) -> nvidia.Gpu:
    """The GPU of a CUDA device; UnavailableError, with the remedy, where there is none."""
    return nvidia.require_gpu(device.index or 0, "AOTInductor packages for GPUs need one")


def target(device: torch.device) -> dict[str, Any]:
    """What a package that is compiled here for a device is tied to, for its manifest."""
    if device.type == "cpu":
        return {"device": "cpu", **processor()}
    gpu = gpu_at(device)
    capability = nvidia.capability_text(gpu.capability)
    return {"device": "cuda", "compute_capability": capability, "gpu": gpu.name, "cuda": torch.version.cuda, **processor()}


def target_in_words(made: PackageDetails) -> str:
    """A target as people read it: `CPUs with AVX512`, `NVIDIA GPUs of compute capability 9.0`."""
    if made.device == "cpu":
        return f"CPUs with {made.cpu_capability}"
    return f"NVIDIA GPUs of compute capability {made.compute_capability or '(unknown)'}"


def require_same_machine(artifact: Artifact, device: torch.device) -> None:
    """UnavailableError where a package was compiled for another device, GPU, torch or processor than what is here."""
    made = package_details(artifact)
    if made.device != device.type:
        own, other = ("cpu", "CPUs") if device.type == "cuda" else ("cuda", target_in_words(made))
        command = _AGAIN + (" --device cuda" if device.type == "cuda" else "")
        raise UnavailableError(
            f"{artifact.path} is compiled for {other};", f"run it with --device {own}, or make another: {command}"
        )
    wrong = []
    if device.type == "cuda":
        gpu, built = gpu_at(device), made.compute_capability
        if built is not None and built != nvidia.capability_text(gpu.capability):
            wrong.append(f"{target_in_words(made)}, and {gpu.name} here has {nvidia.capability_text(gpu.capability)}")
        if made.cuda is not None and made.cuda != torch.version.cuda:
            wrong.append(f"torch with CUDA {made.cuda}, and here it is {torch.version.cuda}")
    here = processor()
    wrong += [
        f"{what} {needed}, and here is {here[key]}"
        for key, what, needed in (("torch", "torch", made.torch), ("cpu_capability", "CPUs with", made.cpu_capability))
        if needed is not None and needed != here[key]
    ]
    missing = sorted(set(made.cpu_extensions) - set(here["cpu_extensions"])) if here["cpu_extensions"] else []
    wrong += [f"CPUs with {', '.join(missing)}, which this one has not"] if missing else []
    if wrong:
        command = f" ({_AGAIN} --device cuda)" if device.type == "cuda" else ""
        raise UnavailableError(f"{artifact.path} is compiled for {'; '.join(wrong)}.", f"Export it again here{command}.")


def package_details(artifact: Artifact) -> PackageDetails:
    """From the manifest; of a foreign package, what torch wrote into it about the device and the compute capability."""
    if artifact.manifest is not None:
        details = artifact.manifest.details
        return details if isinstance(details, PackageDetails) else PackageDetails()
    with opened(artifact.path) as archive:
        for name in archive.names:
            if "/data/aotinductor/" in f"/{name}" and name.endswith("_metadata.json"):
                told = archive.parsed(name)
                if isinstance(told, dict) and told.get("AOTI_DEVICE_KEY") == "cuda":
                    capability = str(told.get("AOTI_COMPUTE_CAPABILITY", ""))  # 9.0 is `90`; anything else is not relied on
                    known = capability.isdigit() and len(capability) > 1
                    return PackageDetails(
                        device="cuda", compute_capability=f"{capability[:-1]}.{capability[-1]}" if known else None
                    )
    return PackageDetails()
