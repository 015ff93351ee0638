"""Only what passed, is stable and is deployed from here is recommended, and the fastest of that."""

from __future__ import annotations

import dataclasses

import numpy as np

from iresnet_export.benchmark.clock import Samples
from iresnet_export.benchmark.recommendation import recommendation
from iresnet_export.benchmark.statistics import latency_of
from iresnet_export.reporting.schemas import BenchResult, Parity, Speedup, Subject

PASSED = Parity("pass", None, 31.5, None, 0.25)


def result(name: str, milliseconds: float, batch: int = 1, parity: Parity | None = PASSED, noise: float = 0.001) -> BenchResult:
    generator = np.random.default_rng(len(name))
    times = milliseconds * (1 + noise * generator.standard_normal((20, 5)))
    samples = Samples(name, tuple(map(tuple, times)))
    subject = Subject(name, "openvino", "int8", "cpu", 2, "iresnet", 50, 224, baseline="base", parity=parity)
    figures = {"samples": samples.rounds, "latency_ms": latency_of(samples), "throughput": 1e3 * batch / milliseconds}
    return subject.result("latency", batch, "ok", speedup=Speedup(30 / milliseconds, (2.0, 9.0)), stable=True, **figures)


def test_the_fastest_that_passes() -> None:
    slow, fast = result("slow.onnx", 10.0), result("fast.onnx", 5.0)
    failed = dataclasses.replace(result("wrong.onnx", 1.0, parity=Parity("fail", 9.0, None, "differs")), status="failed_parity")
    unstable = dataclasses.replace(result("unstable.onnx", 1.0), status="unstable")
    unverified = result("unverified.onnx", 1.0, parity=None)
    peer, large = result("peer", 1.0), result("large.onnx", 2.0, batch=8)
    peer = dataclasses.replace(peer, peer=True)
    base = dataclasses.replace(result("base", 1.0), baseline=None)
    found = recommendation([slow, fast, failed, unstable, unverified, peer, large, base], 1.0)
    assert found is not None
    assert (found.artifact, found.backend, found.precision, found.batch, found.threads) == ("fast.onnx", "openvino", "int8", 1, 2)
    assert found.speedup == 6.0
    assert found.accuracy_drop_points == 0.25
    said = ("fast.onnx by openvino (int8, 2 threads)", "5.00 ms an image", "6.00 times", "31.5 dB", "0.25 points (1 are allowed)")
    assert all(text in found.sentence for text in said), found.sentence
    assert "within the noise" not in found.sentence


def test_what_is_as_fast_within_the_noise_is_named() -> None:
    found = recommendation([result("one.onnx", 5.0, noise=0.05), result("other.onnx", 5.01, noise=0.05)], None)
    assert found is not None
    assert "as fast within the noise" in found.sentence


def test_throughput_alone_recommends_the_most_images_a_second() -> None:
    sweep = [dataclasses.replace(result("a.onnx", time, batch), mode="throughput") for batch, time in ((1, 5.0), (8, 20.0))]
    found = recommendation(sweep, None)
    assert found is not None
    assert found.batch == 8
    assert "400 images a second at batch 8" in found.sentence


def test_nothing_fits() -> None:
    assert recommendation([dataclasses.replace(result("a.onnx", 5.0), status="skipped")], None) is None
    assert recommendation([], None) is None
