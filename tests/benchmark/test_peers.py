"""What others offer is the same network, or says why it is not here."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.benchmark import peers
from iresnet_export.benchmark.entrants import Entrant, Origin, Origins
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.recipe import host_to_host, noise_inputs
from iresnet_export.errors import InputError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.reference import reference_of
from iresnet_models.preprocessing import noise_pixels

OPTIONS = BenchOptions(peers=True, threads=(1,))


@pytest.fixture(scope="module")
def opened(benched: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The peers, but for the compiled one, which takes minutes."""
    folder = tmp_path_factory.mktemp("peers")
    origins = Origins(OPTIONS, folder)
    origin = origins.of(benched["onnx"])
    pixels = noise_pixels(origin.source.spec, 32, seed=0)
    reference = reference_of("r", origin.source, pixels, "noise", (1,), no_progress, None)

    def no_compiler(_device: object) -> None:
        raise UnavailableError("no compiler")

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(peers, "_require_compiler", no_compiler)
        yield origin, peers.open_peers(origin, 1, OPTIONS, folder, lambda _origin: reference, no_progress, stack)


def test_plain_exports_are_the_network_at_any_batch_size(opened: tuple[Origin, list[Entrant]]) -> None:
    origin, candidates = opened
    plain = [candidate for candidate in candidates if candidate.subject.artifact.startswith(peers.PLAIN)]
    assert [candidate.subject.backend for candidate in plain] == ["onnxruntime", "openvino"]
    for candidate in plain:
        if candidate.session is None:
            assert "not installed" in (candidate.reason or "")
            continue
        assert candidate.subject.parity is not None
        assert candidate.subject.parity.status == "pass", candidate.subject.parity.reason
        assert candidate.subject.size_bytes == candidate.recipe.path.stat().st_size > 40e6
        assert candidate.subject.baseline == origin.label
        for batch in (1, 3):
            images = noise_inputs(candidate.spec, candidate.session, batch)
            assert host_to_host(candidate.session, images).shape == (batch, 10)


@pytest.fixture(scope="module")
def quantized(benched: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Entrant]]:
    """Beside an int8 artifact."""
    folder = tmp_path_factory.mktemp("quantized")
    origin = Origins(OPTIONS, folder).of(benched["onnx"])
    reference = reference_of("r", origin.source, noise_pixels(origin.source.spec, 32, seed=0), "noise", (1,), no_progress, None)
    options = ExportOptions(precision="int8", calibrator="minmax", calibration_data="digits", calibration_images=20)
    int8 = export_artifact("onnx", origin.source, options, output=folder / "int8.onnx")

    def not_here(*_: object) -> None:
        raise UnavailableError("not here")

    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(peers, "_require_compiler", not_here)
        patch.setitem(sys.modules, "nncf", None)
        found = peers.open_peers(origin, 1, OPTIONS, folder, lambda _: reference, no_progress, stack, int8)
        yield [entrant for entrant in found if entrant.subject.precision == "int8"]


def test_onnx_runtimes_quantizer_is_measured_beside_int8(quantized: list[Entrant]) -> None:
    by = {(entrant.subject.artifact.partition(" ")[0], entrant.subject.backend): entrant for entrant in quantized}
    assert set(by) == {(name, runtime) for name in ("quantize_static", "nncf") for runtime in ("onnxruntime", "openvino")}
    static = by["quantize_static", "onnxruntime"]
    assert static.session is not None, static.reason
    operators = Counter(node.op_type for node in onnx.load(static.recipe.file).graph.node)
    assert operators["QuantizeLinear"] > 20
    parity = static.subject.parity
    assert parity is not None
    assert (parity.status, parity.noise_ratio) == ("pass", None)
    assert parity.sqnr_db is not None
    assert 8 < parity.sqnr_db < 60
    assert host_to_host(static.usable, noise_inputs(static.spec, static.usable, 1)).shape == (1, 10)


def test_a_quantizer_that_is_not_installed_says_so(quantized: list[Entrant]) -> None:
    reasons = [entrant.reason for entrant in quantized if entrant.subject.artifact.startswith("nncf")]
    assert all("NNCF is not installed here; install it with: pip install nncf." in str(reason) for reason in reasons)


def test_without_int8_nothing_is_quantized(opened: tuple[Origin, list[Entrant]]) -> None:
    assert {entrant.subject.precision for entrant in opened[1]} == {"fp32"}


def test_without_its_images_no_peer_is_calibrated(benched: dict[str, Artifact], tmp_path: Path) -> None:
    """Other images, or noise, would be no match for what the artifact was calibrated with."""
    origin, plain = Origins(OPTIONS, tmp_path).of(benched["onnx"]), benched["onnx"].path
    manifest = benched["onnx"].require_intact()
    settings = dataclasses.replace(manifest.details.settings, calibration_data="photos")
    named = dataclasses.replace(manifest, details=dataclasses.replace(manifest.details, settings=settings))
    for given in (None, "digits"):
        with pytest.raises(InputError, match=r"measured with images of photos, .* Name their folder with --data"):
            peers._quantized("quantize_static", origin, Artifact(plain, "onnx", named), given, plain, tmp_path / "q.onnx")


def test_torchvisions_resnet_is_another_network(opened: tuple[Origin, list[Entrant]]) -> None:
    twin = opened[1][-1]
    assert (twin.subject.artifact, twin.subject.arch, twin.subject.depth) == ("torchvision resnet18", "resnet", 18)
    assert twin.session is not None
    assert twin.subject.parity is None
    assert twin.subject.macs == twin.work.macs
    assert twin.work.activations < opened[1][0].work.activations


def test_without_a_compiler_torch_compile_says_so(opened: tuple[Origin, list[Entrant]]) -> None:
    (compiled,) = [candidate for candidate in opened[1] if candidate.subject.backend == "torch.compile"]
    assert compiled.session is None
    assert compiled.reason == compiled.takes(1) == "no compiler"


def test_depths_that_torchvision_lacks_and_exports_that_fail(
    small_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_origin: Origin, _path: Path) -> None:
        raise ValueError("an exporter's own error\nwith details")

    monkeypatch.setattr(peers, "plain_onnx", fails)
    monkeypatch.setattr(peers, "_require_compiler", lambda _device: None)
    monkeypatch.setattr(peers, "TORCHVISION_DEPTHS", (34, 50))
    origin = Origin("deep", small_source, tmp_path / "none.pt")
    with ExitStack() as stack:
        found = peers.open_peers(origin, 1, OPTIONS, tmp_path, lambda _origin: None, no_progress, stack)
    assert all(candidate.session is None for candidate in found)
    reasons = [candidate.reason or "" for candidate in found]
    assert reasons[0] == "it cannot be made here: ValueError: an exporter's own error"
    assert "no ResNet of depth 18; it has 34, 50" in reasons[-1]
    assert found[-1].subject.macs is None
    assert np.isfinite(found[-1].work.macs)
