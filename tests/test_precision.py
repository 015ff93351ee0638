"""Half precision and pixels: what is stored, what is computed, and that both are still the network."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, numpy_helper
from support import mostly_slow

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.onnx.format import OnnxOptions
from iresnet_export.backends.registry import format_named, runtime_named
from iresnet_export.backends.tensorrt.builder import engine_from_onnx
from iresnet_export.backends.tensorrt.flavours import flavour_named
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.errors import ExportError, InputError
from iresnet_export.exporting import default_output, export_artifact
from iresnet_export.graph.precision import in_words, precision_shares, shares, widest
from iresnet_export.inspection import inspect_file
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models import ModelSpec
from iresnet_models.deployed import DTYPES, DeployedNetwork, deployed
from iresnet_models.operations import layer_multiply_accumulates, multiply_accumulates
from iresnet_models.preprocessing import noise_pixels, normalised

pytestmark = pytest.mark.usefixtures("shared_references")

CPU = torch.device("cpu")


def exported(backend: str, source: Source, folder: Path, **options: object) -> Artifact:
    format = format_named(runtime_named(backend).format)
    made = format.options_type(**options)  # type: ignore[arg-type]
    return export_artifact(format.name, source, made, output=default_output(format, source, made, folder))


def exact(source: Source, pixels: torch.Tensor) -> torch.Tensor:
    """The network's logits in float64."""
    double = copy.deepcopy(source.network).double()
    with torch.inference_mode():
        logits: torch.Tensor = double(normalised(pixels, source.spec).double())
    return logits


# Half precision


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
@pytest.mark.slow
def test_half_graphs_are_strongly_typed(precision: str, kind: int, small_source: Source, tmp_path: Path) -> None:
    artifact = exported("onnxruntime", small_source, tmp_path, precision=precision)
    assert artifact.path.name == f"iresnet18-{precision}.onnx"
    model = onnx.load(artifact.path)
    assert {tensor.data_type for tensor in model.graph.initializer} == {kind}
    assert [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)] == [TensorProto.FLOAT] * 2
    assert Counter(node.op_type for node in model.graph.node)["Cast"] == 2
    assert model.opset_import[0].version == (22 if precision == "bf16" else 20)
    manifest = artifact.require_intact()
    assert manifest.details.multiply_accumulates == {precision: 1.0}
    assert manifest.details.fold is not None
    assert 0 < (manifest.details.fold.proof.own_precision or 0) < 2
    assert manifest.size_bytes < 23_000_000
    assert f"100 % {precision}" in dict(inspect_file(artifact.path).rows())["multiply-accumulates"]


def test_weights_are_rounded_once_from_float64(small_source: Source, tmp_path: Path) -> None:
    """Not from float32, which would round some of them twice and so to the wrong side."""
    artifact = exported("onnxruntime", small_source, tmp_path, precision="bf16")
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(artifact.path).graph.initializer}
    network = small_source.network
    bn = network.layer1[0].bn1
    assert bn.running_var is not None
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    exact = network.layer1[0].conv1.weight.detach().double() * scale.detach().view(-1, 1, 1, 1)
    np.testing.assert_array_equal(found["layer1.0.conv1.weight"].astype(np.float32), exact.bfloat16().float().numpy())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.slow
def test_torchscript_in_half_precision_passes(precision: str, small_source: Source, tmp_path: Path) -> None:
    artifact = exported("torchscript", small_source, tmp_path, precision=precision)
    candidate = verify([artifact.path], VerifyOptions(images=32, batch_sizes=(1, 8))).candidates[0]
    assert (candidate.status, candidate.reason, candidate.computed_precision) == ("pass", None, precision)
    assert candidate.outputs is not None
    assert candidate.outputs.noise_ratio is not None
    assert 0.5 < candidate.outputs.noise_ratio < 1.5
    assert candidate.outputs.max_abs > 1e-4, "half precision cannot be this close: it was computed in float32"


@pytest.mark.slow
def test_what_is_only_stored_is_not_passed(small_source: Source, tmp_path: Path) -> None:
    """ONNX Runtime computes fp16 in float32 on these CPUs, and bfloat16 not at all."""
    candidates = [
        verify([exported("onnxruntime", small_source, tmp_path, precision=precision).path], VerifyOptions(images=32)).candidates[0]
        for precision in ("fp16", "bf16")
    ]
    assert [candidate.status for candidate in candidates] == ["skipped", "skipped"]
    assert candidates[0].computed_precision == "fp32"
    assert "would compute it in fp32 here" in str(candidates[0].reason)
    assert "NOT_IMPLEMENTED" in str(candidates[1].reason)
    assert all(candidate.weights is not None and candidate.weights.passed for candidate in candidates)


def test_openvino_computes_bfloat16_where_the_processor_can(small_source: Source, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    artifact = exported("onnxruntime", small_source, tmp_path, precision="bf16")
    candidate = verify([artifact.path], VerifyOptions(images=32, batch_sizes=(1, 8), backends=("openvino",))).candidates[0]
    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert candidate.status == ("pass" if able else "skipped"), candidate.reason
    assert candidate.computed_precision == ("bf16" if able else "fp32")


def test_what_openvino_computes_otherwise_is_seen(small_source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default on such processors is bfloat16, whatever the file holds."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    from iresnet_export.backends.openvino import runtime

    monkeypatch.setitem(runtime.HINTS, "fp32", "bf16")
    artifact = exported("onnxruntime", small_source, tmp_path)
    candidate = verify([artifact.path], VerifyOptions(images=32, backends=("openvino",))).candidates[0]
    assert (candidate.status, candidate.computed_precision) == ("skipped", "bf16")


def test_weights_beyond_half_precision_are_refused() -> None:
    source = untrained_source(ModelSpec("iresnet", 18, num_classes=10, image_size=32, resize=32), seed=0)
    source.network.fc.weight.data[3, 3] = 1e5
    with pytest.raises(InputError, match=r"fc\.weight of iresnet18 holds values beyond the range of float16"):
        deployed(source.network, None, torch.float16)
    deployed(source.network, None, torch.bfloat16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp16", "fold": False}, "goes with the fold"),
        ({"precision": "fp4"}, "--precision takes fp32, fp16, bf16, int8 or fp8, not 'fp4'"),
        ({"precision": "fp8"}, "fp8 is for TensorRT alone: nothing here computes it on a CPU. Take trt, or onnx --target tensorrt"),
        ({"precision": "fp8", "target": "tensorrt", "fold": False}, "--precision fp8 goes with the fold"),
        ({"precision": "fp8", "target": "tensorrt", "opset": 18}, "fp8 came with ONNX opset 19; 18 was asked for"),
        ({"precision": "fp8", "target": "tensorrt", "calibrator": "entropy"}, "Take auto, minmax or percentile"),
        ({"precision": "bf16", "opset": 20}, "opset 22"),
        ({"target": "gpu"}, "--target takes cpu or tensorrt"),
        ({"calibrator": "mean"}, "--calibrator takes auto, minmax, percentile or entropy"),
        ({"calibration_images": 0}, "at least 1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OnnxOptions(**options)  # type: ignore[arg-type]


def test_shares_of_the_work() -> None:
    assert shares(["int8", "fp32", "int8"], [6, 1, 3]) == {"int8": 0.9, "fp32": 0.1}
    assert in_words({"int8": 0.9995, "fp32": 0.0005}) == "99.95 % int8, 0.05 % fp32"
    assert widest(["int8", "bf16", "int8"]) == "bf16"
    assert widest(["fp32", "something new"]) == "something new"
    assert precision_shares([], ModelSpec("iresnet", 50)) == {}
    spec = ModelSpec("iresnet", 50)
    assert sum(layer_multiply_accumulates(spec).values()) == multiply_accumulates(spec)
    assert len(layer_multiply_accumulates(spec)) == 54


# Engines


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.slow
def test_engines_of_every_precision_are_built_and_proved(precision: str, small_source: Source, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = {"precision": precision, "flavour": "tensorrt_rtx", "target": "tensorrt", "calibration_data": "digits"}
    artifact = exported("tensorrt", small_source, tmp_path, calibration_images=64, **options)
    suffix = "int8-tensorrt" if precision == "int8" else precision
    assert artifact.path.name == f"iresnet18-{suffix}.engine"
    manifest = artifact.require_intact()
    assert manifest.details.multiply_accumulates == {precision: 1.0}
    assert manifest.details.fold is not None
    assert (manifest.details.quantization is not None) == (precision == "int8")
    assert manifest.size_bytes < (18 if precision == "int8" else 26) * 1e6
    candidate = verify([artifact.path], VerifyOptions(images=32)).candidates[0]
    assert candidate.weights is not None
    assert candidate.weights.passed
    assert candidate.status == ("pass" if torch.cuda.is_available() else "skipped")


def test_an_engine_of_pixels_is_built(small_source: Source, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    artifact = exported("tensorrt", small_source, tmp_path, with_preprocessing=True, flavour="tensorrt_rtx")
    assert artifact.path.name == "iresnet18-pre.engine"


def test_another_precision_than_was_asked_for_is_refused(small_source: Source, tmp_path: Path) -> None:
    """What rf-detr 1453 met: fp16 asked for, float32 built, exit status 0."""
    pytest.importorskip("tensorrt_rtx")
    graph = exported("onnxruntime", small_source, tmp_path).path.read_bytes()
    options = EngineOptions(precision="fp16", flavour="tensorrt_rtx")
    with pytest.raises(ExportError, match=r"read conv1 of the ONNX file in fp32, and fp16 was asked for"):
        engine_from_onnx(flavour_named("tensorrt_rtx"), graph, options, no_progress)


# Pixels


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("backend", mostly_slow(["onnxruntime", "torchscript"], 2))
def test_pixels_give_what_normalised_images_give(backend: str, fold: bool, small_source: Source, tmp_path: Path) -> None:
    artifact = exported(backend, small_source, tmp_path, with_preprocessing=True, fold=fold)
    assert artifact.path.stem == ("iresnet18-pre" if fold else "iresnet18-nofold-pre")
    pixels = noise_pixels(small_source.spec, 5, seed=3)
    expected = exact(small_source, pixels)
    with runtime_named(backend).load(open_artifact(artifact.path), CPU) as session:
        assert session.with_preprocessing
        found = session.run(session.batch_of(pixels, small_source.spec))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=2e-5 * float(expected.abs().max()))
    assert verify([artifact.path], VerifyOptions(images=32)).passed


def test_probabilities_are_the_second_output(small_source: Source, tmp_path: Path) -> None:
    artifact = exported("onnxruntime", small_source, tmp_path, with_preprocessing=True)
    session = ort.InferenceSession(str(artifact.path), providers=["CPUExecutionProvider"])
    assert [(value.name, value.type, value.shape[1:]) for value in session.get_inputs()] == [
        ("input", "tensor(uint8)", [32, 32, 3])
    ]
    logits, probabilities = session.run(["logits", "probabilities"], {"input": noise_pixels(small_source.spec, 3, 0).numpy()})
    exponentials = np.exp(np.asarray(logits, dtype=np.float64))
    np.testing.assert_allclose(np.asarray(probabilities), exponentials / exponentials.sum(1, keepdims=True), rtol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map["iresnet-export"]
    assert "uint8 (batch, height, width, RGB)" in metadata
    assert '"mean"' in metadata


def test_the_mean_stays_a_subtraction(small_source: Source) -> None:
    """Folded into a bias it would be wrong at the border, where the padding is zero in normalised space."""
    network = deployed(small_source.network, None, with_preprocessing=True)
    assert isinstance(network, DeployedNetwork)
    pixels = noise_pixels(small_source.spec, 2, seed=0)
    with torch.inference_mode():
        taken = pixels.float().permute(0, 3, 1, 2) - network.mean
        found = network.network.conv1(taken)
        expected = small_source.network.conv1(normalised(pixels, small_source.spec))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_pixels_in_half_precision_are_rounded_after_the_mean(precision: str, small_source: Source) -> None:
    network = deployed(small_source.network, None, DTYPES[precision], with_preprocessing=True)
    plain = deployed(small_source.network, None, DTYPES[precision])
    pixels = noise_pixels(small_source.spec, 8, seed=0)
    wanted = exact(small_source, pixels)
    with torch.inference_mode():
        errors = [
            float((logits.double() - wanted).square().mean().sqrt())
            for logits in (network(pixels)[0], plain(normalised(pixels, small_source.spec)))
        ]
    assert errors[0] < 2 * errors[1]
