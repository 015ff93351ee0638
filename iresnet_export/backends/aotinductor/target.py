"""What an AOTInductor package is compiled for: a version of torch, a kind of processor, and a kind of GPU if it runs on one."""

from __future__ import annotations

from typing import Any

import torch

from iresnet_export.artifacts.artifact import Artifact
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
        "cpu_extensions": sorted(name for name, has in capabilities.items() if has is True),
    }


def gpu_at(device: torch.device) -> nvidia.Gpu:
    """The GPU of a CUDA device; UnavailableError, with the remedy, where there is none."""
    return nvidia.require_gpu(device.index or 0, "AOTInductor packages for GPUs need one")


def target(device: torch.device) -> dict[str, Any]:
    """What a package that is compiled here for a device is tied to, for its manifest."""
    if device.type == "cpu":
        return {"device": "cpu", **processor()}
    gpu = gpu_at(device)
    return {"device": "cuda", **settings_of(gpu), "gpu": gpu.name, "cuda": torch.version.cuda, **processor()}


def settings_of(gpu: nvidia.Gpu) -> dict[str, Any]:
    return {"compute_capability": nvidia.capability_text(gpu.capability)}


def target_in_words(made: dict[str, Any]) -> str:
    """A target as people read it: `CPUs with AVX512`, `NVIDIA GPUs of compute capability 9.0`."""
    if made.get("device", "cpu") == "cpu":
        return f"CPUs with {made.get('cpu_capability')}"
    return f"NVIDIA GPUs of compute capability {made.get('compute_capability') or '(unknown)'}"


def require_same_machine(artifact: Artifact, device: torch.device) -> None:
    """UnavailableError where a package was compiled for another device, GPU, torch or processor than what is here."""
    made = _target_of(artifact)
    if made.get("device", "cpu") != device.type:
        own, other = ("cpu", "CPUs") if device.type == "cuda" else ("cuda", target_in_words(made))
        command = _AGAIN + (" --device cuda" if device.type == "cuda" else "")
        raise UnavailableError(
            f"{artifact.path} is compiled for {other};", f"run it with --device {own}, or make another: {command}"
        )
    wrong = []
    if device.type == "cuda":
        gpu, built = gpu_at(device), made.get("compute_capability")
        if built is not None and built != nvidia.capability_text(gpu.capability):
            wrong.append(f"{target_in_words(made)}, and {gpu.name} here has {nvidia.capability_text(gpu.capability)}")
        if "cuda" in made and made["cuda"] != torch.version.cuda:
            wrong.append(f"torch with CUDA {made['cuda']}, and here it is {torch.version.cuda}")
    here = processor()
    wrong += [
        f"{what} {made[key]}, and here is {here[key]}"
        for key, what in (("torch", "torch"), ("cpu_capability", "CPUs with"))
        if key in made and made[key] != here[key]
    ]
    missing = sorted(set(made.get("cpu_extensions", ())) - set(here["cpu_extensions"])) if here["cpu_extensions"] else []
    wrong += [f"CPUs with {', '.join(missing)}, which this one has not"] if missing else []
    if wrong:
        command = f" ({_AGAIN} --device cuda)" if device.type == "cuda" else ""
        raise UnavailableError(f"{artifact.path} is compiled for {'; '.join(wrong)}.", f"Export it again here{command}.")


def _target_of(artifact: Artifact) -> dict[str, Any]:
    """From the manifest; of a foreign package, what torch wrote into it about the device and the compute capability."""
    if artifact.manifest is not None:
        return artifact.manifest.details
    made: dict[str, Any] = {"device": "cpu"}
    with opened(artifact.path) as archive:
        for name in archive.names:
            if "/data/aotinductor/" in f"/{name}" and name.endswith("_metadata.json"):
                told = archive.parsed(name)
                if isinstance(told, dict) and told.get("AOTI_DEVICE_KEY") == "cuda":
                    made = {"device": "cuda", **_capability(str(told.get("AOTI_COMPUTE_CAPABILITY", "")))}
    return made


def _capability(told: str) -> dict[str, str]:
    """torch writes 9.0 as `90`; anything else is not relied on."""
    return {"compute_capability": f"{told[:-1]}.{told[-1]}"} if told.isdigit() and len(told) > 1 else {}
