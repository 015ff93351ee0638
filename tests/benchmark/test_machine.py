"""What is told of the machine, and when it is a warning."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from iresnet_export.system import machine
from iresnet_export.system.machine import OthersLoad, cpu_state, gpu_state, load_now, load_warnings

QUIET = {"load_before": 0.0, "load_after": 0.1, "governor": "performance"}


def test_the_processor() -> None:
    found = cpu_state()
    assert set(found) == {"model", "features", "physical_cores", "usable_cores", "affinity", "governor"}
    assert found["usable_cores"] >= 1
    if sys.platform == "linux":
        assert len(found["affinity"]) == found["usable_cores"]
        assert found["features"] == sorted(set(found["features"]))
    assert load_now(0.05) >= 0


def test_a_quiet_machine_has_no_warnings_and_others_have_one_each() -> None:
    assert load_warnings(QUIET, None, 0.0) == []
    assert "just before the run" in load_warnings(QUIET | {"load_before": 1.5}, None, 0.0)[0]
    assert "held 1.5 cores" in load_warnings(QUIET | {"load_after": 1.5}, None, 0.0)[0]
    assert "other programs held 0.8 cores" in load_warnings(QUIET, None, 0.8)[0]
    assert "powersave" in load_warnings(QUIET | {"governor": "powersave"}, None, 0.0)[0]
    assert load_warnings(QUIET | {"governor": None}, None, 0.0) == []
    assert load_warnings(QUIET, {"throttle_reasons": ["gpu_idle"]}, 0.0) == []
    assert "hw_slowdown" in load_warnings(QUIET, {"throttle_reasons": ["gpu_idle", "hw_slowdown"]}, 0.0)[0]


def test_our_own_work_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([(100.0, 10.0, 0.0), (118.0, 18.0, 10.0)])
    monkeypatch.setattr(machine, "_busy_seconds", lambda: next(moments))
    assert OthersLoad().cores() == pytest.approx(1.0)


def fake_nvml(mask: int) -> Any:
    module = types.ModuleType("pynvml")
    values = {
        "NVMLError": type("NVMLError", (Exception,), {}),
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _handle: mask,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1980, 2: 3201}[kind] if handle == "GPU-abc" else 0,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _handle: 700_000,
    }
    for name, value in values.items():
        setattr(module, name, value)
    return module


def test_a_gpu_by_nvml_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = types.SimpleNamespace(name="H200", total_memory=150e9, uuid="abc")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml(0x1 | 0x40))
    found = gpu_state()
    assert found == {
        "name": "H200",
        "driver": "580.1",
        "clocks_mhz": {"sm": 1980, "memory": 3201},
        "power_limit_w": 700.0,
        "throttle_reasons": ["gpu_idle", "hw_thermal_slowdown"],
        "memory_mb": 150e3,
    }
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = gpu_state()
    assert found is not None
    assert (found["name"], found["driver"], found["throttle_reasons"]) == ("H200", None, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_no_gpu_is_none() -> None:
    assert gpu_state() is None


@pytest.mark.parametrize(
    ("kind", "features", "overflow"),
    [
        ("x86_64", ["avx2", "fma"], True),
        ("x86_64", ["avx2", "avx512f", "avx512bw"], True),
        ("x86_64", ["avx512_vnni", "avx512f"], False),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("AMD64", [], None),
        ("AMD64", ["avx2"], True),
        ("aarch64", ["asimd"], False),
    ],
)
def test_where_products_of_codes_overflow(
    kind: str, features: list[str], overflow: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: kind)
    monkeypatch.setattr(machine, "_features", lambda: features)
    assert machine.products_of_codes_overflow() is overflow
