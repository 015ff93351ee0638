"""The machine that figures are measured on, and whether something else uses it meanwhile."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iresnet_export.system.environment import cpu_model
from iresnet_models.cores import usable_cores

BUSY_CORES = 0.25
"""From so many cores' worth of other work on, a machine counts as loaded."""

_FEATURES = re.compile(r"sse4_2|avx\w*|fma|f16c|amx_\w+|asimd(hp|dp)?|i8mm|bf16|sve2?")
"""The instruction sets that decide how fast a network runs."""

_VNNI = re.compile(r"avx512_vnni|avx_vnni(_int8)?|amx_int8")
"""The instructions that add up products of 8-bit numbers in 32 bits."""

_THROTTLE_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
_LOADED = ("The machine was loaded", "While it was measured", "The GPU was throttled")
"""How the warnings begin after which no figure is to be trusted to the last digit."""

_HARMLESS = {"gpu_idle", "applications_clocks_setting"}


def cpu_state() -> dict[str, Any]:
    """The processor: model, instruction sets, cores, those that this process may use, and the frequency governor of the first."""
    import psutil

    affinity = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    return {
        "model": cpu_model(),
        "features": _features(),
        "physical_cores": psutil.cpu_count(logical=False),
        "usable_cores": usable_cores(),
        "affinity": affinity,
        "governor": _governor(affinity[0] if affinity else 0),
    }


def products_of_codes_overflow() -> bool | None:
    """Whether uint8 times int8 is added up in 16 bits on this processor, which two products may exceed: x86 without VNNI.

    None for an x86 that does not tell its instructions here (only Linux is asked).
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "x86", "i386", "i686"):
        return False
    features = _features()
    return not any(_VNNI.fullmatch(name) for name in features) if features else None


def load_now(seconds: float = 0.5) -> float:
    """How many cores' worth of work is done on the machine while this process waits."""
    import psutil

    return float(psutil.cpu_percent(interval=seconds)) / 100 * (psutil.cpu_count() or 1)


class OthersLoad:
    """How many cores' worth of work others do (a hypervisor's stolen time included) between its making and `cores()`."""

    def __init__(self) -> None:
        self._before = _busy_seconds()

    def cores(self) -> float:
        everything, ours, elapsed = (after - before for after, before in zip(_busy_seconds(), self._before, strict=True))
        return max(0.0, everything - ours) / elapsed if elapsed > 0 else 0.0


def gpu_state(index: int = 0) -> dict[str, Any] | None:
    """Name, driver, clocks, power limit and throttle reasons of torch's GPU `index`; None without one.

    What takes NVML is null where the package nvidia-ml-py is not installed.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(index)
    found: dict[str, Any] = {
        "name": properties.name,
        "driver": None,
        "clocks_mhz": None,
        "power_limit_w": None,
        "throttle_reasons": None,
        "memory_mb": properties.total_memory / 1e6,
    }
    return found | _by_nvml(str(getattr(properties, "uuid", "")), index)


def load_warnings(cpu: dict[str, Any], gpu: dict[str, Any] | None, meanwhile: float) -> list[str]:
    """Why figures that were measured like that may be wrong; nothing on a quiet machine."""
    found = []
    longer = "Absolute times are too long, and ratios suffer too: what uses several threads loses most by it."
    for when, cores in (("before", cpu["load_before"]), ("after", cpu["load_after"])):
        if cores is not None and cores > BUSY_CORES:
            found.append(f"{_LOADED[0]}: just {when} the run other work held {cores:.1f} cores. {longer}")
    if meanwhile > BUSY_CORES:
        found.append(f"{_LOADED[1]}, other programs held {meanwhile:.1f} cores on average. {longer}")
    if cpu["governor"] not in (None, "performance"):
        found.append(f"The processor's frequency governor is {cpu['governor']}, not performance: its clock changes meanwhile.")
    throttled = sorted(set((gpu or {}).get("throttle_reasons") or ()) - _HARMLESS)
    if throttled:
        found.append(f"{_LOADED[2]}: {', '.join(throttled)}.")
    return found


def under_load(warnings: Iterable[str]) -> bool:
    """Whether these warnings, of this run or of a report, say that something else held the machine or its GPU back."""
    return any(warning.startswith(_LOADED) for warning in warnings)


def _busy_seconds() -> tuple[float, float, float]:
    """CPU seconds of the whole machine and of this process with its children, and the time."""
    import time

    import psutil

    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    twice = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # Linux counts it as user time too
    return sum(machine) - idle - twice, own.user + own.system + own.children_user + own.children_system, time.monotonic()


def _features() -> list[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return sorted(name for name in set(line.partition(":")[2].split()) if _FEATURES.fullmatch(name))
    except OSError:
        pass
    return []


def _governor(core: int) -> str | None:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _by_nvml(uuid: str, index: int) -> dict[str, Any]:
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        # NVML numbers all GPUs, torch those that CUDA_VISIBLE_DEVICES leaves: the UUID is the same in both.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}") if uuid else pynvml.nvmlDeviceGetHandleByIndex(index)
        mask = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        kinds = {"sm": pynvml.NVML_CLOCK_SM, "memory": pynvml.NVML_CLOCK_MEM}
        return {
            "driver": pynvml.nvmlSystemGetDriverVersion(),
            "clocks_mhz": {name: pynvml.nvmlDeviceGetClockInfo(handle, kind) for name, kind in kinds.items()},
            "power_limit_w": pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3,
            "throttle_reasons": [name for bit, name in _THROTTLE_REASONS.items() if mask & bit],
        }
    except pynvml.NVMLError:
        return {}
    finally:
        pynvml.nvmlShutdown()
