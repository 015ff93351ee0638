"""fp8 (E4M3): codes against a table of all numbers that there are, the graph against other evaluators, and what runs it."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import calibration_images, chosen_quantization
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.reading import graph_of_onnx
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.backends.onnxruntime.runtime import OnnxSession
from iresnet_export.errors import ArtifactError
from iresnet_export.graph.compare import compare
from iresnet_export.graph.ir import Graph
from iresnet_export.graph.network import graph_of_network
from iresnet_export.quantization.codes import Codes, Quantization, codes_of, quantized_graph, quantized_weights
from iresnet_export.quantization.cost import sqnr_db
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.quantization.schemes import E4M3, SCHEMES
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.criteria import Criterion, Expectation
from iresnet_models import FoldedNetwork, ModelSpec
from iresnet_models.folding import fold
from iresnet_models.preprocessing import noise_pixels, normalised

FP8 = SCHEMES["fp8", "tensorrt"]

# Codes


def value_of(bits: int) -> float:
    """What the standard says of a byte: sign, 4 bits of the exponent (bias 7), 3 of the mantissa; all ones is NaN."""
    sign, exponent, mantissa = (-1) ** (bits >> 7), bits >> 3 & 15, bits & 7
    if bits & 127 == 127:
        return float("nan")
    return sign * (mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7))


NUMBERS = [value_of(bits) for bits in range(127)]


def nearest(value: float) -> int:
    """The byte of the nearest number, of two the even one; found by looking at all of them. Beyond the largest it is that."""
    bits = min(range(127), key=lambda other: (abs(min(abs(value), 448) - NUMBERS[other]), other & 1))
    return bits | 128 * bool(np.signbit(value))


def test_codes_are_the_nearest_numbers_rounded_once() -> None:
    """Midpoints and their neighbours in float64, which float32 cannot tell apart, so that who rounds twice is found out."""
    assert (max(NUMBERS), min(number for number in NUMBERS if number)) == (448, 2.0**-9)
    middles = np.array([(low + high) / 2 for low, high in pairwise(NUMBERS)])
    near = [middles, np.nextafter(middles, 1e9), np.nextafter(middles, 0), middles * (1 + 1e-12), middles * (1 - 1e-12)]
    random = np.random.default_rng(0).standard_normal(500) * np.geomspace(1e-6, 500, 500)
    values = np.concatenate([NUMBERS, *near, random, [449, 463, 465, 500, 1e30, 2.0**-10, 1e-300, 0.0]])
    values = np.concatenate([values, -values])
    codes = FP8.weight_codes(values)
    assert codes.dtype == E4M3
    np.testing.assert_array_equal(codes.view(np.uint8), [nearest(value) for value in values])
    assert (values.astype(E4M3).view(np.uint8) != codes.view(np.uint8)).any(), "a cast of ml_dtypes would do as well"


def test_every_channel_reaches_the_largest_number() -> None:
    generator = np.random.default_rng(0)
    weight = (generator.standard_normal((8, 4, 3, 3)) * 10.0 ** np.arange(-4, 4).reshape(-1, 1, 1, 1)).astype(np.float32)
    weight[3] = 0
    bias = generator.standard_normal(8).astype(np.float32)
    made = quantized_weights(weight, bias, Codes(np.float32(0.02), E4M3.type(0)), FP8)
    assert made.bias is bias
    assert made.bias_scale is None
    largest = np.abs(made.weight.astype(np.float64)).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(largest, [448, 448, 448, 0, 448, 448, 448, 448])
    found = made.weight.astype(np.float64) * made.scale.astype(np.float64).reshape(-1, 1, 1, 1)
    coarse = np.abs(weight) / 16 + made.scale.reshape(-1, 1, 1, 1) * 2.0**-10
    assert (np.abs(found - weight) <= coarse * (1 + 1e-6)).all(), "half a step of three bits, or of the smallest number"


@pytest.mark.parametrize(("limits", "scale"), [((-0.5, 4.48), 0.01), ((-8.96, 1.0), 0.02), ((0.0, 0.0), 1.0), ((1.0, 4.48), 0.01)])
def test_activations_are_symmetric(limits: tuple[float, float], scale: float) -> None:
    codes = codes_of(limits, FP8)
    assert codes.scale.dtype == np.float32
    assert codes.zero_point.dtype == E4M3
    assert (float(codes.scale), float(codes.zero_point)) == (pytest.approx(scale, rel=1e-6), 0)


# The graph


@dataclasses.dataclass(frozen=True)
class Made:
    source: Source
    folded: FoldedNetwork
    quantization: Quantization
    quantized: onnx.ModelProto


@cache
def made(arch: str = "iresnet", depth: int = 18) -> Made:
    """A small untrained network, folded and quantized over noise."""
    source = untrained_source(ModelSpec(arch, depth, num_classes=10, image_size=32, resize=32), seed=0)
    options = ExportOptions(precision="fp8", target="tensorrt")
    images = calibration_images(source, options)
    folded = fold(source.network, sample=normalised(torch.cat(list(images.measuring(32))), source.spec))
    quantization = chosen_quantization(source, {False: folded}, images, options, no_progress)
    return Made(source, folded, quantization, quantized_onnx(onnx_from_network(folded), quantization))


@pytest.mark.parametrize(
    ("arch", "depth"),
    [("iresnet", 18), pytest.param("iresnet", 50, marks=pytest.mark.slow), pytest.param("resnet", 34, marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_tensorrts_placement(arch: str, depth: int) -> None:
    """Both operands of every convolution but the 7x7 one, which TensorRT has no fp8 kernel for; additions stay as they are."""
    model = made(arch, depth).quantized
    onnx.checker.check_model(model, full_check=True)
    producers = {node.output[0]: node for node in model.graph.node}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        read = [producers[name].op_type if name in producers else "" for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert values[node.input[2]].data_type == TensorProto.FLOAT8E4M3FN
            assert not numpy_helper.to_array(values[node.input[2]]).astype(np.float32).any()
        elif node.op_type in ("Conv", "Gemm") and node.name != "conv1":
            assert read[:2] == ["DequantizeLinear"] * 2
            assert values[node.input[2]].data_type == TensorProto.FLOAT, "a bias is not quantized"
            codes, scale, _ = (values[name] for name in producers[node.input[1]].input)
            assert (codes.data_type, list(scale.dims)) == (TensorProto.FLOAT8E4M3FN, [codes.dims[0]]), "weights per channel"
            assert values[producers[node.input[0]].input[1]].dims == [], "activations per tensor"
        elif node.name == "conv1":
            assert list(node.input) == ["input", "conv1.weight", "conv1.bias"]
            assert values["conv1.weight"].data_type == TensorProto.FLOAT
        else:
            assert "DequantizeLinear" not in read, f"{node.op_type} reads codes"
    assert made(arch, depth).quantization.floating == ("conv1",)


def test_our_codes_are_the_reference_implementations() -> None:
    """ONNX's own evaluator in NumPy, number by number: ties, subnormals, and what lies beyond the largest."""
    scale = np.float32(0.25)
    values = np.concatenate([NUMBERS, [(a + b) / 2 for a, b in pairwise(NUMBERS)], [460, 470, 1e9, 1e-9]])
    values = (np.concatenate([values, -values]) * scale).astype(np.float32).reshape(1, -1)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.asarray(scale), "s"), numpy_helper.from_array(np.zeros((), E4M3), "z")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, values.size]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "pair", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 20)]
    )
    (expected,) = ReferenceEvaluator(model).run(None, {"x": values})
    np.testing.assert_array_equal(OnnxGraph(model).run(torch.from_numpy(values)).numpy(), expected)
    assert np.abs(np.asarray(expected)).max() == 448 * scale


def test_what_calibration_predicts_is_what_other_evaluators_give(tmp_path: Path) -> None:
    """ONNX's own evaluator, and ONNX Runtime where it keeps to each operation; ties between codes may fall on either side."""
    network = made()
    images = normalised(noise_pixels(network.source.spec, 64, seed=0)[: network.quantization.compared], network.source.spec)
    with torch.inference_mode():
        exact = network.source.network(images).numpy()
    assert network.quantization.precision == "fp8"
    assert {trial.calibrator for trial in network.quantization.tried} == {"minmax", "percentile"}
    ours = OnnxGraph(network.quantized).run(images).numpy()
    assert sqnr_db(ours, exact) == pytest.approx(network.quantization.predicted_sqnr_db, abs=0.1)
    (expected,) = ReferenceEvaluator(network.quantized).run(None, {"input": images[:4].numpy()})
    assert sqnr_db(ours[:4], np.asarray(expected)) > 25
    onnx.save(network.quantized, tmp_path / "fp8.onnx")
    with OnnxSession(tmp_path / "fp8.onnx", torch.device("cpu"), ask_precision=True, fuse=False) as session:
        assert session.computed_precision == "fp32"
        found = session.run(images).numpy()
    assert sqnr_db(found, exact) == pytest.approx(network.quantization.predicted_sqnr_db, abs=1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"floating": ()},
        {"floating": ("conv1", "layer1.0.conv1")},
        {"inputs": lambda inputs: {name: value for name, value in inputs.items() if name != "fc"}},
        {"inputs": lambda inputs: {**inputs, "conv1": "input"}},
        {"ranges": lambda ranges: {name: limits for name, limits in ranges.items() if name != "layer2.0.relu"}},
        {"target": "cpu"},
        {"precision": "fp16"},
        {"precision": "int8"},
    ],
)
def test_a_manifest_cannot_leave_layers_out(change: dict[str, Any]) -> None:
    """Which layers stay in float32 follows from the weights' shapes; a manifest that says otherwise is damaged."""
    network = made()
    values = {name: new(getattr(network.quantization, name)) if callable(new) else new for name, new in change.items()}
    with pytest.raises(ArtifactError, match="damaged"):
        rebuilt(network, values)


def rebuilt(network: Made, values: dict[str, Any]) -> Graph:
    spoiled = Quantization.from_json(dataclasses.replace(network.quantization, **values).to_json())
    return quantized_graph(graph_of_network(network.folded), spoiled)


def test_zeros_have_signs_and_differences_are_counted_in_codes() -> None:
    expected = quantized_graph(graph_of_network(made().folded), made().quantization)
    found = graph_of_onnx(made().quantized)
    assert compare(expected, found).first_difference is None
    index = next(number for number, layer in enumerate(expected.nodes) if layer.name == "fc")
    codes = expected.nodes[index].tensors["weight"].copy()
    codes.view(np.uint8)[0, :2] = 0, 10
    other = codes.copy()
    other.view(np.uint8)[0, :2] = 128, 13
    pair = [Graph([dataclasses.replace(expected.nodes[index], tensors={"weight": values})]) for values in (codes, other)]
    report = compare(pair[0], pair[1]).weights
    assert report.first_difference == "fc.weight[0, 0] is -0 and not 0 (and 1 more in this tensor)"
    assert report.worst_ulp == 3


def test_what_it_is_held_against_names_it() -> None:
    quantization = dataclasses.replace(
        made().quantization, predicted_sqnr_db=20.0, predicted_agreement=1.0, predicted_interval_db=0.0
    )
    criterion = Criterion("fp8", 32, expectations=(Expectation.by_calibration(quantization),))
    assert criterion.reason(None, 17.1, 1.0) is None
    assert str(criterion.reason(None, 16.9, 1.0)).startswith("fp8 costs more than was predicted from")
    assert str(criterion.reason(None, 20.0, 0.4)).startswith("fp8 decides otherwise")
