"""The kernels that say what a machine can do compute what they should, and work is counted as published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated_clock import Simulation

from iresnet_export.backends.onnxruntime.runtime import OnnxSession
from iresnet_export.backends.registry import runtime_named
from iresnet_export.benchmark import limits
from iresnet_export.benchmark.limits import Kernel, best_time, convolution_chain, measured_limits
from iresnet_export.benchmark.work import work_of, work_of_torchvision
from iresnet_export.system.progress import no_progress
from iresnet_models import ModelSpec
from iresnet_models.network import Network
from iresnet_models.operations import multiply_accumulates

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SIZE", {"cpu": 128})
    monkeypatch.setattr(limits, "_STREAM", {"cpu": 2**16})
    monkeypatch.setattr(limits, "CHANNELS", 16)
    monkeypatch.setattr(limits, "PIXELS", 8)
    monkeypatch.setattr(limits, "SECONDS", 0.0)
    monkeypatch.setattr(limits, "LEAST_RUNS", 1)


@pytest.mark.usefixtures("small")
def test_every_precision_has_a_limit(tmp_path: Path) -> None:
    found = measured_limits(["fp32", "int8"], 1, CPU, tmp_path, no_progress)
    assert [(limit.precision, limit.threads) for limit in found] == [("fp32", 1), ("int8", 1)]
    assert all(limit.gflops > 0 and limit.bandwidth_gb_s > 0 and limit.kernel for limit in found)


@pytest.mark.usefixtures("small")
def test_the_fastest_kernel_is_the_limit_and_a_missing_one_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("not on this processor")

    @contextmanager
    def unopened(*_: object) -> Iterator[Kernel]:
        raise RuntimeError("no such library")
        yield

    def kernel(name: str, operations: float, run: Callable[[], object]) -> Callable[..., AbstractContextManager[Kernel | None]]:
        return lambda *_: nullcontext((name, operations, run))

    monkeypatch.setattr(limits, "_matrix_product", kernel("broken", 1e30, broken))
    monkeypatch.setattr(limits, "_convolution", unopened)
    monkeypatch.setattr(limits, "_onnxruntime_chain", kernel("fast", 1e12, lambda: None))
    monkeypatch.setattr(limits, "_openvino_chain", kernel("slow", 1.0, lambda: None))
    (found,) = measured_limits(["fp32"], 1, CPU, tmp_path, no_progress)
    assert found.kernel == "fast"
    monkeypatch.setattr(limits, "measured_bandwidth", lambda *_: broken())
    assert measured_limits(["fp32"], 1, CPU, tmp_path, no_progress) == []


@pytest.mark.usefixtures("small")
def test_the_chain_of_convolutions_is_what_its_operations_say(tmp_path: Path) -> None:
    path = tmp_path / "chain.onnx"
    path.write_bytes(convolution_chain(int8=False))
    images = torch.rand(limits.BATCH, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with OnnxSession(path, CPU, 1) as session:
        found = session.run(images)
    generator, expected = np.random.default_rng(0), images
    for _ in range(limits.LAYERS):
        weights = torch.from_numpy((generator.integers(-127, 128, (16, 16, 3, 3)) * 0.001).astype(np.float32))
        expected = torch.nn.functional.conv2d(expected, weights, padding=1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert limits._chain_operations(3) == 2 * 3 * expected.numel() * 16 * 9


@pytest.mark.usefixtures("small")
def test_the_int8_chain_runs_in_integers(tmp_path: Path) -> None:
    from iresnet_export.backends.onnxruntime.optimized import optimised_graph

    path = tmp_path / "chain.onnx"
    path.write_bytes(convolution_chain(int8=True))
    kinds = [node.op_type for node in optimised_graph(path, ["CPUExecutionProvider"]).graph.node]
    assert kinds.count("QLinearConv") == limits.LAYERS
    assert "Conv" not in kinds
    if runtime_named("openvino").is_installed():
        from iresnet_export.backends.openvino.runtime import OpenVinoSession

        with OpenVinoSession(path, "int8", 1) as session:
            assert session.computed_precision == "int8"


def test_the_product_in_fp8_is_that_of_its_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(32, 64, generator=generator).to(torch.float8_e4m3fn) for _ in range(2))
    expected = left.double() @ right.double().t()
    torch.testing.assert_close(limits.scaled_product(left, right).double(), expected, atol=1e-3, rtol=2**-8)


@pytest.mark.usefixtures("small")
def test_on_cpus_nothing_has_a_limit_in_fp8(tmp_path: Path) -> None:
    assert measured_limits(["fp8"], 1, CPU, tmp_path, no_progress) == []


def test_the_best_time_is_the_shortest() -> None:
    machine, times = Simulation(), iter([9.0, 5.0, 2.0, 3.0, 4.0, 6.0])

    def run() -> None:
        machine.time += next(times)

    assert best_time(run, machine.clock) == pytest.approx(2.0)


def test_bytes_of_a_network_counted_by_hand() -> None:
    """torchvision's ResNet-18 at 224: 11,678,912 weights of convolutions and classifier."""
    work = work_of_torchvision(ModelSpec("resnet", 18))
    from torchvision.models import resnet18

    network = resnet18(weights=None)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert work.weights == sum(layer.weight.numel() for layer in layers) == 11_678_912
    assert work.macs == pytest.approx(1.814e9, rel=1e-3)
    # Inputs and outputs of the first convolution, of four stages, their shortcuts and of the classifier.
    stem = 3 * 224**2 + 64 * 112**2
    stages = 4 * 2 * 64 * 56**2
    for channels, size in ((128, 28), (256, 14), (512, 7)):
        before, here = channels // 2 * (2 * size) ** 2, channels * size**2
        stages += (before + here) + 3 * 2 * here + (before + here)
    assert work.activations == stem + stages + 512 + 1000
    assert work.moved_bytes(1, "fp32") == 4 * (work.weights + work.activations)
    assert work.moved_bytes(8, "int8") == work.weights + 8 * work.activations
    assert work.moved_bytes(8, "fp8") == work.moved_bytes(8, "int8")
    assert work.moved_bytes(1, "fp4") is None


@pytest.mark.parametrize(("arch", "depth"), [("iresnet", 50), ("resnet", 50), ("iresnet", 101)])
def test_operations_are_those_that_are_published(arch: str, depth: int) -> None:
    spec = ModelSpec(arch, depth)
    with torch.device("meta"):
        network = Network(spec).eval()
    work = work_of(network, spec.sides)
    assert work.macs == multiply_accumulates(spec)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert work.weights == sum(layer.weight.numel() for layer in layers)
