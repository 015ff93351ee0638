"""fp8 artifacts: what they say of themselves, what is wrong with spoiled ones, and which GPUs and runtimes they are for."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Outcome
from onnx import numpy_helper
from support import mostly_slow

from iresnet_export.artifacts.artifact import Artifact, record
from iresnet_export.artifacts.metadata import layers_in_float
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.tensorrt.builder import engine_from_onnx, require_options
from iresnet_export.backends.tensorrt.flavours import Flavour, flavour_named
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.backends.tensorrt.plan import engine_details, read_plan
from iresnet_export.errors import ArtifactError, ExportError, InputError, UnavailableError
from iresnet_export.exporting import export_artifact
from iresnet_export.graph.precision import computed
from iresnet_export.quantization.codes import Quantization
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.system import nvidia
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.localisation import localise
from iresnet_export.verification.reference import reference_of
from iresnet_export.verification.verify import Verification, VerifyOptions, verify
from iresnet_models.operations import multiply_accumulates
from iresnet_models.preprocessing import noise_pixels


@pytest.fixture(scope="module")
def fp8(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Artifact:
    return export_artifact("onnx", small_source, options_for(), output=tmp_path_factory.mktemp("fp8") / "small.onnx")


@pytest.fixture(scope="module")
def engine(fp8: Artifact, small_source: Source) -> Artifact:
    """An engine for two GPUs, built from that file."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'iresnet-export[tensorrt-rtx]'")
    options = options_for(compute_capabilities=("8.9", "12.0"))
    return export_artifact("engine", small_source, options, output=fp8.path.with_suffix(".engine"))


def options_for(**others: Any) -> ExportOptions:
    few: dict[str, Any] = {"calibration_data": "digits", "calibration_images": 64, **others}
    return EngineOptions(precision="fp8", target="tensorrt", flavour="tensorrt_rtx", **few)


def verified(path: Path, checkpoint: Path | None = None, backends: tuple[str, ...] = ()) -> Verification:
    return verify([path], VerifyOptions(images=32, batch_sizes=(1, 8), data="digits", checkpoint=checkpoint, backends=backends))


def test_an_fp8_export_says_what_it_is(fp8: Artifact, small_source: Source) -> None:
    manifest = fp8.require_intact()
    assert manifest.precision == "fp8"
    shares = manifest.details.multiply_accumulates
    assert list(shares) == ["fp8", "fp32"]
    assert shares["fp32"] == pytest.approx(64 * 3 * 49 * 16**2 / multiply_accumulates(manifest.spec)), "the first convolution"
    assert {key: getattr(manifest.details.settings, key) for key in ("target", "calibrator")} == {
        "target": "tensorrt",
        "calibrator": "auto",
    }
    quantization = manifest.details.quantization
    assert quantization is not None
    assert Quantization.from_json(quantization.to_json()) == quantization == Deployment(small_source, manifest).quantization
    assert (quantization.precision, quantization.floating) == ("fp8", ("conv1",))
    assert manifest.size_bytes < 13_000_000
    with pytest.raises(ArtifactError, match="in int8, and that it is quantized to fp8"):
        _ = Deployment(small_source, dataclasses.replace(manifest, precision="int8")).quantization


def test_on_a_cpu_nothing_is_said_of_it(fp8: Artifact) -> None:
    """ONNX Runtime and OpenVINO compute its codes in float32."""
    verification = verified(fp8.path)
    assert not verification.passed
    for candidate in verification.candidates:
        assert candidate.status == "skipped", candidate.reason
        assert candidate.computed_precision == "fp32"
        assert f"it stores fp8, and {candidate.backend} would compute it in fp32 here" in str(candidate.reason)
        assert candidate.weights is not None
        assert candidate.weights.passed
        assert candidate.weights.compared > 11_000_000


def edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], object]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def next_code(index: tuple[int, ...]) -> Callable[[np.ndarray], object]:
    return lambda codes: codes.view(np.uint8).__setitem__(index, codes.view(np.uint8)[index] ^ 1)


def next_float(index: tuple[int, ...]) -> Callable[[np.ndarray], object]:
    return lambda values: values.__setitem__(index, np.nextafter(values[index], np.float32(1e9)))


def other_bits(index: tuple[int, ...]) -> Callable[[np.ndarray], object]:
    return lambda codes: codes.__setitem__(index, 1)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    mostly_slow(
        [
            ("layer3.1.conv2.weight", next_code((7, 3, 1, 1)), r"layer3\.1\.conv2\.weight\[7, 3, 1, 1\]"),
            ("fc.weight", next_code((9, 511)), r"fc\.weight\[9, 511\]"),
            ("layer4.0.conv1.weight.scale", next_float((0,)), r"layer4\.0\.conv1\.weight_scale\[0\]"),
            ("layer2.0.relu.scale", next_float(()), r"layer2\.0\.relu\.scale"),
            ("layer2.0.relu.zero_point", other_bits(()), r"layer2\.0\.relu\.zero_point"),
            ("fc.weight.zero_point", other_bits((3,)), r"fc\.weight_zero_point\[3\]"),
            ("conv1.weight", next_float((0, 1, 2, 3)), r"conv1\.weight\[0, 1, 2, 3\]"),
            ("layer2.0.conv1.bias", next_float((5,)), r"layer2\.0\.conv1\.bias\[5\]"),
        ],
        4,
    ),
    ids=lambda value: value if isinstance(value, str) and "\\" not in value else "",
)
def test_one_wrong_code_or_scale_is_named(
    name: str,
    change: Callable[[np.ndarray], object],
    named: str,
    fp8: Artifact,
    small_checkpoint: Path,
    tmp_path: Path,
    vouch: Callable[[Path], Artifact],
) -> None:
    model = onnx.load(fp8.path)
    edit(model, name, change)
    path = tmp_path / fp8.path.name
    onnx.save(model, path)
    record(path, fp8.require_intact())
    vouch(path)
    candidate = verified(path, small_checkpoint, ("onnxruntime",)).candidates[0]
    assert candidate.status == "fail"
    assert candidate.weights is not None
    assert re.match(named, str(candidate.weights.first_difference))


@pytest.mark.slow
def test_a_wrong_code_is_refused_at_export(small_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = quantized_onnx

    def spoiled(model: onnx.ModelProto, quantization: Quantization) -> onnx.ModelProto:
        made = write(model, quantization)
        edit(made, "layer1.1.conv1.weight", next_code((0, 0, 0, 0)))
        return made

    monkeypatch.setattr("iresnet_export.quantization.placement.quantized_onnx", spoiled)
    options = options_for(calibration_images=8)
    with pytest.raises(ExportError, match=r"read back from the file, layer1\.1\.conv1\.weight\[0, 0, 0, 0\]"):
        export_artifact("onnx", small_source, options, output=tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_blocks_are_held_against_the_graph_s_own_error(fp8: Artifact, small_source: Source) -> None:
    """OpenVINO computes the same codes in float32: it departs nowhere from what fp8 alone costs."""
    openvino = pytest.importorskip("iresnet_export.backends.openvino.runtime")
    pytest.importorskip("openvino")
    reference = reference_of("small", small_source, noise_pixels(small_source.spec, 32, 0), "noise", (8,), no_progress)
    deployment = Deployment(small_source, fp8.manifest)
    found = localise(fp8, openvino.OpenVino(), deployment, reference, "fp8", torch.device("cpu"), False, no_progress)
    assert found is not None
    assert found.first is None
    ratios = [place.ratio for place in found.places]
    assert len(ratios) == 11
    assert all(ratio is not None and 0.6 < ratio < 1.5 for ratio in ratios[1:])
    floors = [place.floor_db for place in found.places]
    assert all(floor is not None and floor < 45 for floor in floors[1:])


# Engines


def test_an_fp8_engine_is_built_and_proved(engine: Artifact, fp8: Artifact) -> None:
    manifest = engine.require_intact()
    assert manifest.details.multiply_accumulates == fp8.require_intact().details.multiply_accumulates
    assert engine_details(engine).gpus == "GPUs of compute capability 8.9, 12.0"
    assert manifest.details.quantization == fp8.require_intact().details.quantization
    assert read_plan(engine).capabilities == ((8, 9), (12, 0))
    (candidate,) = verified(engine.path).candidates
    assert candidate.weights is not None
    assert candidate.weights.passed
    if not torch.cuda.is_available():
        assert candidate.status == "skipped"


def test_the_engine_s_own_text_says_fp8(engine: Artifact) -> None:
    """TensorRT-RTX keeps its program in the plan as text: what each convolution reads there, beyond what its types prove."""
    lines = [text.decode() for text in re.findall(rb"[ -~]{20,}", engine.path.read_bytes())]
    tensors = (re.search(r'tensor=\{.*?name="([^"]+)".*type=(\w+)', line) for line in lines)
    types = {found[1]: found[2] for found in tensors if found}
    calls = (re.match(r"\s*(?:corrltn|fully_connected)=\{ name=\"?([^\" ]+).*? input=\{([^}]*)\}", line) for line in lines)
    read = {found[1]: [types.get(name) for name in re.findall(r'"([^"]+)"', found[2])][:2] for found in calls if found}
    if not read:
        pytest.skip("this version writes its plans otherwise")
    counted = Counter((name.startswith("conv1"), *kinds) for name, kinds in read.items())
    assert counted == {(True, "float", "float"): 1, (False, "fp8_e4m3", "fp8_e4m3"): 20}


def test_without_named_gpus_it_is_for_those_that_have_fp8(fp8: Artifact, tmp_path: Path) -> None:
    """TensorRT-RTX's own choice would name Ampere in the plan's header, which it refuses to build fp8 for by itself."""
    pytest.importorskip("tensorrt_rtx")
    plan, details = engine_from_onnx(flavour_named("tensorrt_rtx"), fp8.path.read_bytes(), options_for(), no_progress)
    (tmp_path / "x.engine").write_bytes(plan)
    assert read_plan(Artifact(tmp_path / "x.engine", "engine", None)).capabilities == ((8, 9), (12, 0), (12, 1))
    assert details["gpus"] == "GPUs of compute capability 8.9, 12.0, 12.1"
    assert Counter(details["layer_precisions"]) == {"fp8": 20, "fp32": 1}
    assert details["layer_precisions"][0] == "fp32"


def test_layers_that_should_be_in_fp8_and_are_not(fp8: Artifact) -> None:
    """A convolution whose input lost its pair on the way."""
    pytest.importorskip("tensorrt_rtx")
    model = onnx.load(fp8.path)
    node = next(node for node in model.graph.node if node.name == "layer2.0.conv1")
    node.input[0] = node.input[0].removesuffix(".dequantized")
    with pytest.raises(ExportError, match=r"read layer2\.0\.conv1 of the ONNX file in fp32, and fp8 was asked for"):
        engine_from_onnx(flavour_named("tensorrt_rtx"), model.SerializeToString(), options_for(), no_progress)


@pytest.mark.parametrize("named", [("8.6",), ("8.9", "8.6"), ("86",), ("7.5",)])
def test_gpus_without_fp8_are_refused_before_anything_is_done(
    named: tuple[str, ...], run: Callable[..., Outcome], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = [part for name in named for part in ("--compute-capability", name)]
    outcome = run("trt", "--precision", "fp8", "--flavour", "tensorrt_rtx", *options)
    assert (outcome.status, outcome.out) == (2, "")
    assert f"asks for {named[-1]}. Build for 8.9, 12.0, 12.1, or take --precision int8" in " ".join(outcome.err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("capability", "can"), [((8, 6), False), ((8, 0), False), ((8, 9), True), ((9, 0), True), ((12, 0), True)])
def test_tensorrt_itself_asks_the_gpu_at_hand(capability: tuple[int, int], can: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "gpu", lambda index=0: nvidia.Gpu("A GPU", capability, 2**34))
    tensorrt = Flavour("tensorrt", object(), None)
    options = dataclasses.replace(options_for(), flavour="tensorrt")
    if can:
        require_options(tensorrt, options)
        return
    major, minor = capability
    with pytest.raises(UnavailableError, match=rf"A GPU has compute capability {major}\.{minor}: fp8 needs 8\.9 or more"):
        require_options(tensorrt, options)
    require_options(tensorrt, dataclasses.replace(options, precision="int8"))


def test_what_is_meant_to_be_float32_does_not_hide_fp8(engine: Artifact) -> None:
    """An inspector tells of the types alone: one layer in float32 is as it should be, two are not."""
    assert layers_in_float(engine) == 1
    assert layers_in_float(Artifact(engine.path, "engine", None)) == 0
    assert computed(["fp32", "fp8", "fp8"], 1) == "fp8"
    assert computed(["fp32", "fp8", "fp32"], 1) == "fp32"
    assert computed(["fp32"], 0) == "fp32"


def test_only_onnx_and_engines_are_exported_in_fp8(small_source: Source) -> None:
    with pytest.raises(InputError, match="torchscript files are exported in fp32, fp16, bf16, not in fp8"):
        export_artifact("torchscript", small_source, options_for())
