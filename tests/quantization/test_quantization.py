"""int8: scales and codes by hand, the graph against other evaluators, calibration against NumPy, and what runs in integers."""

from __future__ import annotations

import copy
import dataclasses
import re
import weakref
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from support import mostly_slow

from iresnet_export.artifacts.artifact import Artifact, record
from iresnet_export.artifacts.manifest import OnnxDetails
from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import (
    Images,
    calibration_images,
    chosen_quantization,
    equalization_scales,
    preferred,
)
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.backends.onnxruntime.optimized import EXACT_PRODUCTS, optimised_graph, require_integers, with_exact_codes
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime
from iresnet_export.errors import ArtifactError, CheckFailedError, ExportError, InputError
from iresnet_export.exporting import export_artifact
from iresnet_export.quantization.codes import Codes, Quantization, codes_of, constant_codes, quantized_weights
from iresnet_export.quantization.cost import sqnr_db
from iresnet_export.quantization.observers import RANGES, Observer
from iresnet_export.quantization.observers import observed as observers_of
from iresnet_export.quantization.placement import Placement, quantized_onnx
from iresnet_export.quantization.schemes import SCHEMES, Scheme
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models import FoldedNetwork, ModelSpec, Network
from iresnet_models.folding import fold, fold_by_plan
from iresnet_models.folding_decisions import plan_fold
from iresnet_models.network import Bottleneck
from iresnet_models.preprocessing import noise_pixels, normalised

U8S8, S8S8 = SCHEMES["int8", "cpu"], SCHEMES["int8", "tensorrt"]

# Codes


@pytest.mark.parametrize(
    ("limits", "scale", "zero"),
    [((0.0, 2.55), 0.01, 0), ((-1.0, 1.55), 0.01, 100), ((-2.55, -1.0), 0.01, 255), ((1.0, 2.55), 0.01, 0), ((0.0, 0.0), 1.0, 0)],
)
def test_unsigned_codes_cover_the_range_and_zero(limits: tuple[float, float], scale: float, zero: int) -> None:
    codes = codes_of(limits, U8S8)
    assert codes.zero_point.dtype == np.uint8
    assert int(codes.zero_point) == zero
    assert float(codes.scale) == pytest.approx(scale, rel=1e-6)


def test_signed_codes_are_symmetric() -> None:
    codes = codes_of((-0.5, 2.54), S8S8)
    assert codes.zero_point.dtype == np.int8
    assert (float(codes.scale), int(codes.zero_point)) == (pytest.approx(0.02, rel=1e-6), 0)


@pytest.mark.parametrize("scheme", [U8S8, S8S8, SCHEMES["fp8", "tensorrt"]], ids=lambda scheme: scheme.activations.name)
def test_signs_are_exact_as_codes(scheme: Scheme) -> None:
    signs = np.array([1, -1, -1, 1], dtype=np.float32)
    codes, coded = constant_codes(signs, scheme)
    np.testing.assert_array_equal((codes.astype(np.float32) - int(coded.zero_point)) * coded.scale, signs)


def test_weights_are_within_half_a_step_and_reach_the_end_of_their_channel() -> None:
    generator = np.random.default_rng(0)
    weight = (generator.standard_normal((8, 4, 3, 3)) * 10.0 ** np.arange(-4, 4).reshape(-1, 1, 1, 1)).astype(np.float32)
    bias = generator.standard_normal(8).astype(np.float32)
    made = quantized_weights(weight, bias, Codes(np.float32(0.02), np.uint8(7)), U8S8)
    steps = made.scale.reshape(-1, 1, 1, 1)
    assert np.abs(made.weight * steps.astype(np.float64) - weight).max(axis=(1, 2, 3)) == pytest.approx(made.scale / 2, rel=0.2)
    assert (np.abs(made.weight * steps.astype(np.float64) - weight) <= steps / 2 * (1 + 1e-6)).all()
    np.testing.assert_array_equal(np.abs(made.weight).max(axis=(1, 2, 3)), 127)
    assert made.bias_scale is not None
    np.testing.assert_allclose(made.bias * made.bias_scale.astype(np.float64), bias, atol=float(made.bias_scale.max()))
    assert (np.abs(made.bias * made.bias_scale.astype(np.float64) - bias) <= made.bias_scale / 2 * (1 + 1e-6)).all()


def test_a_channel_of_tiny_weights_keeps_its_bias() -> None:
    weight, bias = np.full((2, 1, 1, 1), 1e-12, dtype=np.float32), np.array([3.0, -5.0], dtype=np.float32)
    weight[1] = 0
    made = quantized_weights(weight, bias, Codes(np.float32(0.01), np.uint8(0)), U8S8)
    assert made.bias_scale is not None
    np.testing.assert_allclose(made.bias * made.bias_scale.astype(np.float64), bias, rtol=1e-6)


def test_for_tensorrt_the_bias_stays_as_it_is() -> None:
    bias = np.array([0.123], dtype=np.float32)
    made = quantized_weights(np.ones((1, 1, 1, 1), np.float32), bias, Codes(np.float32(1), np.int8(0)), S8S8)
    assert made.bias is bias
    assert made.bias_scale is None


# Calibration


def observed(values: np.ndarray, parts: int = 5) -> Observer:
    observer = Observer()
    for part in np.array_split(values, parts):
        tensor = torch.from_numpy(part.astype(np.float32))
        observer.extend(tensor)
        observer.count(tensor)
    return observer


def test_a_histogram_that_grows_is_the_one_that_was_large_from_the_start() -> None:
    values = np.random.default_rng(0).standard_normal(20_000) * np.geomspace(0.01, 30, 20_000)
    observer = observed(values)
    assert observer.counts.sum() == 20_000
    assert observer.reach < 2 * 2 * np.abs(values).max()
    edges = np.linspace(-observer.reach, observer.reach, len(observer.counts) + 1)
    expected, _ = np.histogram(values.astype(np.float32), edges)
    assert np.abs(np.cumsum(observer.counts) - np.cumsum(expected)).max() <= 5  # values on an edge may fall on either side


def test_percentile_is_numpys() -> None:
    from iresnet_export.quantization.observers import _percentile

    values = np.random.default_rng(1).standard_normal(400_000) ** 3
    low, high = _percentile(observed(values))
    expected = np.percentile(values, [0.0005, 99.9995])
    width = 2 * np.abs(values).max() * 2 / 4096
    assert abs(low - expected[0]) <= width
    assert abs(high - expected[1]) <= width
    assert high < values.max()


def test_entropy_cuts_an_outlier_off_and_keeps_what_is_evenly_spread() -> None:
    from iresnet_export.quantization.observers import _entropy

    normal = np.random.default_rng(2).standard_normal(100_000)
    _, high = _entropy(observed(np.append(normal, 100.0)))
    assert 3 < high < 30
    low, high = _entropy(observed(np.random.default_rng(3).uniform(-1, 1, 100_000)))
    assert (low, high) == (pytest.approx(-1, abs=0.03), pytest.approx(1, abs=0.03))


def test_minmax_is_what_was_seen(small_source: Source) -> None:
    folded = fold(small_source.network, sample=torch.randn(4, 3, 32, 32))
    model = onnx_from_network(folded)
    batches = [torch.randn(n, 3, 32, 32) for n in (3, 5)]
    names = Placement(model, U8S8).ranged
    found = observers_of(OnnxGraph(model), names, batches, 2, no_progress)
    ranges = {name: RANGES["minmax"](observer) for name, observer in found.items()}
    watched = copy.deepcopy(model)
    for name in names[1:]:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(names[1:], {"input": torch.cat(batches).numpy()})
    for name, value in zip(names[1:], values, strict=True):
        assert ranges[name] == (pytest.approx(value.min(), abs=1e-4), pytest.approx(value.max(), rel=1e-4))
    assert ranges["input"] == (float(torch.cat(batches).min()), float(torch.cat(batches).max()))


def test_nan_on_the_calibration_images_is_an_error(small_source: Source) -> None:
    model = onnx_from_network(fold(small_source.network, sample=torch.randn(4, 3, 32, 32)))
    bad = torch.full((1, 3, 32, 32), float("nan"))
    with pytest.raises(CheckFailedError, match="NaN or infinite"):
        observers_of(OnnxGraph(model), ["fc"], [bad], 1, no_progress)


def test_values_are_freed_after_their_last_use(small_source: Source) -> None:
    model = onnx_from_network(fold(small_source.network, sample=torch.randn(4, 3, 32, 32)))
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watch(_name: str, values: torch.Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(values))
        most = max(most, sum(reference() is not None for reference in alive))

    OnnxGraph(model).run(torch.randn(1, 3, 32, 32), watch)
    assert len(alive) > 40
    assert most <= 4


def test_trained_networks_are_not_calibrated_with_noise(small_source: Source) -> None:
    with pytest.raises(InputError, match="--calibration-data FOLDER"):
        calibration_images(small_source, ExportOptions(precision="int8"))


def test_images_are_opened_as_they_are_needed(small_source: Source) -> None:
    images = calibration_images(small_source, ExportOptions(precision="int8", calibration_data="digits", calibration_images=100))
    assert (images.count, images.compared, images.measured) == (100, 25, 75)
    assert [len(batch) for batch in images.measuring(40)] == [32, 8]
    assert [len(batch) for batch in images.held_out()] == [25]
    everything = torch.cat([*images.held_out(), *images.measuring(75)])
    assert torch.equal(everything, torch.stack([image for image, _ in images.pixels])), "each is in one of both parts"
    assert not isinstance(images.pixels, list), "thousands of images would not fit into memory"


# The graph


@dataclasses.dataclass(frozen=True)
class Made:
    source: Source
    quantization: Quantization
    floating: onnx.ModelProto
    quantized: onnx.ModelProto


@cache
def made(arch: str, depth: int, target: str, spoil: Callable[[torch.nn.Module], None] | None = None) -> Made:
    """A small untrained network, folded and quantized over noise."""
    source = untrained_source(ModelSpec(arch, depth, num_classes=10, image_size=32, resize=32), seed=0)
    if spoil is not None:
        spoil(source.network)
    options = ExportOptions(precision="int8", target=target)  # type: ignore[arg-type]
    images = calibration_images(source, options)
    folded = fold(source.network, sample=normalised(torch.cat(list(images.measuring(32))), source.spec))
    quantization = chosen_quantization(source, {False: folded}, images, options, no_progress)
    floating = onnx_from_network(folded)
    return Made(source, quantization, floating, quantized_onnx(floating, quantization))


def with_negative_scales(network: torch.nn.Module) -> None:
    """Some channels of every BatchNorm get a negative scale, which leaves signs in front of ReLUs."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data[::7] *= -1


def with_kept_channels(network: torch.nn.Module) -> None:
    """Channels that never switch, in front of padded convolutions: their scale and shift stay."""
    for name, module in network.named_modules():
        if name.endswith("bn0"):
            assert isinstance(module, torch.nn.BatchNorm2d)
            module.weight.data[:5] *= 1e-4
            module.bias.data[:5] = 1.0


NETWORKS = [
    ("iresnet", 18, None),
    pytest.param("iresnet", 34, with_kept_channels, marks=pytest.mark.slow),
    pytest.param("iresnet", 50, with_negative_scales, marks=pytest.mark.slow),
    pytest.param("resnet", 18, None, marks=pytest.mark.slow),
    ("resstage", 18, with_negative_scales),
    pytest.param("resstage", 34, None, marks=pytest.mark.slow),
    pytest.param("iresgroup", 50, None, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("arch", "depth", "spoil"), NETWORKS)
def test_for_cpus_everything_runs_in_integers(
    arch: str, depth: int, spoil: Callable[[torch.nn.Module], None] | None, tmp_path: Path
) -> None:
    """Counted in the graph that ONNX Runtime really computes."""
    network = made(arch, depth, "cpu", spoil)
    path = tmp_path / "q.onnx"
    onnx.save(network.quantized, path)
    optimised = optimised_graph(path, ["CPUExecutionProvider"])
    floating, found = (Counter(node.op_type for node in model.graph.node) for model in (network.floating, optimised))
    assert found["QLinearConv"] == floating["Conv"]
    assert found["QLinearAdd"] == floating["Add"]
    assert found["QLinearMul"] == floating["Mul"]
    assert found["QGemm"] == 1
    assert found["QLinearGlobalAveragePool"] == 1
    assert (found["QuantizeLinear"], found["DequantizeLinear"], found["Relu"], found["Conv"]) == (1, 0, 0, 0)
    assert (floating["Mul"] > 0) == (spoil is not None)
    assert require_integers(optimised, network.quantization) == dict(found)


def test_a_float_island_is_seen(tmp_path: Path) -> None:
    """A BatchNorm that stays in float between two quantized convolutions, as in every unfolded export."""
    network = made("iresnet", 18, "cpu")
    spoiled = copy.deepcopy(network.quantized)
    clip = next(node for node in spoiled.graph.node if node.op_type == "Relu")
    clip.op_type = "Sin"
    onnx.save(spoiled, tmp_path / "island.onnx")
    with pytest.raises(ExportError, match="in float"):
        require_integers(optimised_graph(tmp_path / "island.onnx", ["CPUExecutionProvider"]), network.quantization)


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.slow
def test_our_evaluation_of_a_graph_is_the_reference_implementations(target: str) -> None:
    """ONNX's own reference evaluator, in NumPy; ties between codes may fall on either side."""
    network = made("iresnet", 18, target)
    images = normalised(noise_pixels(network.source.spec, 4, seed=9), network.source.spec)
    for model, least in ((network.floating, 90.0), (network.quantized, 25.0)):
        (expected,) = ReferenceEvaluator(model).run(None, {"input": images.numpy()})
        assert sqnr_db(OnnxGraph(model).run(images).numpy(), np.asarray(expected)) > least


def test_what_calibration_predicts_is_what_onnx_runtime_gives() -> None:
    network = made("iresnet", 18, "cpu")
    images = normalised(noise_pixels(network.source.spec, 64, seed=0)[: network.quantization.compared], network.source.spec)
    with torch.inference_mode():
        exact = network.source.network(images).numpy()
    options, data = ort.SessionOptions(), network.quantized.SerializeToString()
    session, _ = with_exact_codes(lambda: ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]), options)
    (found,) = session.run(None, {"input": images.numpy()})
    assert sqnr_db(np.asarray(found), exact) == pytest.approx(network.quantization.predicted_sqnr_db, abs=1.0)


@pytest.mark.slow
def test_tensorrts_placement() -> None:
    network = made("iresnet", 50, "tensorrt")
    graph = network.quantized.graph
    producers = {node.output[0]: node for node in graph.node}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types[node.input[2]] == onnx.TensorProto.INT8
            assert not values[node.input[2]].any()
        if node.op_type in ("Conv", "Gemm"):
            assert [producers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert types[node.input[2]] == onnx.TensorProto.FLOAT, "a bias is not quantized"
            assert values[producers[node.input[1]].input[1]].shape == (len(values[node.input[2]]),), "weights per channel"
        if node.op_type == "Conv":
            relus = [other for other in consumers[node.output[0]] if other.op_type == "Relu"]
            assert not relus or consumers[node.output[0]] == relus, "nothing stands between Conv and Relu"
        if node.op_type == "Add":
            assert producers[node.input[0]].op_type == "Conv"
            assert producers[node.input[1]].op_type == "DequantizeLinear", "the shortcut alone is quantized"


def uneven(network: Network) -> None:
    """Every fifth channel of the third stage's stream reaches eight times as far as the others."""
    for block in network.layer3:
        assert isinstance(block, Bottleneck)
        last = block.conv3 if block.bn3 is None or block.layout.final_relu else block.bn3
        for part in (last, *(block.downsample.modules() if block.downsample is not None else ())):
            if part is last or isinstance(part, torch.nn.BatchNorm2d):
                for values in part.parameters():
                    values.data[::5] *= 8


def folds_of(source: Source, images: Images) -> dict[bool, FoldedNetwork]:
    inputs = normalised(torch.cat(list(images.measuring(32))), source.spec)
    plain = fold(source.network, sample=inputs)
    plan = plan_fold(source.network, sample=inputs, scales=equalization_scales(plain, images))
    return {False: plain, True: fold_by_plan(source.network, plan)}


@pytest.mark.slow
def test_cross_layer_equalization_makes_the_residual_streams_channels_alike() -> None:
    source = untrained_source(ModelSpec("iresnet", 50, num_classes=10, image_size=32, resize=32), seed=0)
    uneven(source.network)
    images = calibration_images(source, ExportOptions(precision="int8"))

    def spread(folded: FoldedNetwork) -> float:
        reach: list[torch.Tensor] = []
        folded.stages[2][2].register_forward_hook(lambda _module, _inputs, output: reach.append(output.abs().amax((0, 2, 3))))
        folded(normalised(torch.cat(list(images.measuring(32))), source.spec))
        return float(reach[0].log().std())

    found = folds_of(source, images)
    assert spread(found[True]) < 0.7 * spread(found[False])


@pytest.mark.slow
def test_the_better_of_two_folds_is_chosen() -> None:
    source = untrained_source(ModelSpec("iresnet", 50, num_classes=10, image_size=32, resize=32), seed=0)
    options = ExportOptions(precision="int8")
    images = calibration_images(source, options)
    uneven(source.network)
    networks = folds_of(source, images)
    alone = {
        equalized: chosen_quantization(source, {equalized: network}, images, options, no_progress)
        for equalized, network in networks.items()
    }
    both = chosen_quantization(source, networks, images, options, no_progress)
    plain = {equalized: [trial for trial in found.tried if not trial.corrected] for equalized, found in alone.items()}
    better = alone[max(plain, key=lambda equalized: preferred(plain[equalized], images.compared).sqnr_db)]
    assert dataclasses.replace(both, tried=()) == dataclasses.replace(better, tried=())
    assert both.tried == (*plain[False], *plain[True], better.tried[-1])
    assert alone[True].predicted_sqnr_db != alone[False].predicted_sqnr_db


# Artifacts


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Artifact:
    options = ExportOptions(precision="int8", calibration_data="digits", calibration_images=64)
    return export_artifact("onnx", small_source, options, output=tmp_path_factory.mktemp("int8") / "small.onnx")


def test_an_int8_export_says_what_it_is(int8: Artifact) -> None:
    manifest = int8.require_intact()
    assert manifest.precision == "int8"
    assert manifest.details.multiply_accumulates == {"int8": 1.0}
    details = manifest.details
    assert isinstance(details, OnnxDetails)
    assert (details.optimised_operators or {})["QLinearConv"] == 20
    assert details.settings.calibrator == "auto"
    quantization = details.quantization
    assert quantization is not None
    assert Quantization.from_json(quantization.to_json()) == quantization
    assert (quantization.image_source, quantization.images, quantization.compared) == ("64 training images of digits", 64, 16)
    ways = {(trial.calibrator, trial.equalized) for trial in quantization.tried}
    assert {calibrator for calibrator, _ in ways} == {"minmax", "percentile", "entropy"}
    assert {trial.images for trial in quantization.tried} == {48}
    assert preferred(quantization.tried, 16).calibrator == quantization.calibrator
    assert manifest.size_bytes < 13_000_000


@pytest.mark.parametrize("damage", [None, {}, {"format": "other"}, {"format": "iresnet-export/quantization/1", "ranges": {"a": 1}}])
def test_a_damaged_quantization_is_refused(damage: object) -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        Quantization.from_json(damage)


def verified(path: Path, checkpoint: Path) -> Candidate:
    options = VerifyOptions(images=32, batch_sizes=(1, 8), data="digits", checkpoint=checkpoint, backends=("onnxruntime",))
    return verify([path], options).candidates[0]


@pytest.mark.slow
def test_an_int8_artifact_passes(int8: Artifact, small_checkpoint: Path) -> None:
    candidate = verified(int8.path, small_checkpoint)
    assert (candidate.status, candidate.reason) == ("pass", None)
    assert candidate.computed_precision == "int8"
    assert candidate.outputs is not None
    assert candidate.outputs.noise_ratio is None
    assert candidate.weights is not None
    assert candidate.weights.compared > 11_000_000


@pytest.mark.parametrize("overflow", [False, True, None])
def test_old_processors_are_told_of(
    overflow: bool | None, int8: Artifact, artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iresnet_export.backends.onnxruntime.optimized.products_of_codes_overflow", lambda: overflow)
    with OnnxRuntime().load(int8, torch.device("cpu")) as session:
        assert [EXACT_PRODUCTS in notice for notice in session.notices] == ([] if overflow is False else [True])
    with OnnxRuntime().load(artifacts["onnx"], torch.device("cpu")) as session:
        assert session.notices == [], "float32 has no codes"


def test_a_file_that_has_no_exact_way_runs_by_the_other(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("iresnet_export.backends.onnxruntime.optimized.products_of_codes_overflow", lambda: True)
    options, asked = ort.SessionOptions(), []

    def make() -> str:
        asked.append(options.get_session_config_entry(EXACT_PRODUCTS))
        if asked[-1] == "1":
            raise RuntimeError("Attempt to replace the existing tensor")
        return "a session"

    made, said = with_exact_codes(make, options)
    assert (made, asked) == ("a session", ["1", "0"])
    assert "cuts off sums" in str(said)
    assert capfd.readouterr().err == "", "ONNX Runtime remarks on an entry that is there already"


def one_code(model: onnx.ModelProto) -> None:
    edit(model, "layer3.1.conv2.weight", lambda codes: codes.__setitem__((7, 3, 1, 1), codes[7, 3, 1, 1] ^ 1))


def one_bias(model: onnx.ModelProto) -> None:
    edit(model, "layer2.0.conv1.bias", lambda codes: codes.__setitem__(5, codes[5] + 1))


def one_scale(model: onnx.ModelProto) -> None:
    edit(model, "layer4.0.conv1.weight.scale", lambda scale: scale.__setitem__(0, np.nextafter(scale[0], np.float32(1))))


def zero_point(model: onnx.ModelProto) -> None:
    edit(model, "layer1.0.relu.zero_point", lambda zero: zero.__setitem__((), zero[()] + 1))


def activation_scale(model: onnx.ModelProto) -> None:
    edit(model, "layer2.0.relu.scale", lambda scale: scale.__setitem__((), np.nextafter(scale[()], np.float32(1))))


def weight_zero_point(model: onnx.ModelProto) -> None:
    edit(model, "fc.weight.zero_point", lambda zero: zero.__setitem__(3, 1))


def edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], None]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


@pytest.mark.parametrize(
    ("sabotage", "named"),
    mostly_slow(
        [
            (one_code, r"layer3\.1\.conv2\.weight\[7, 3, 1, 1\]"),
            (one_bias, r"layer2\.0\.conv1\.bias\[5\]"),
            (one_scale, r"layer4\.0\.conv1\.weight_scale\[0\]"),
            (zero_point, r"layer1\.0\.relu\.zero_point"),
            (activation_scale, r"layer2\.0\.relu\.scale"),
            (weight_zero_point, r"fc\.weight_zero_point\[3\]"),
        ],
        4,
    ),
)
def test_one_wrong_code_or_scale_is_named(
    sabotage: Callable[[onnx.ModelProto], None],
    named: str,
    int8: Artifact,
    small_checkpoint: Path,
    tmp_path: Path,
    vouch: Callable[[Path], Artifact],
) -> None:
    model = onnx.load(int8.path)
    sabotage(model)
    path = tmp_path / int8.path.name
    onnx.save(model, path)
    record(path, int8.require_intact())
    vouch(path)
    candidate = verified(path, small_checkpoint)
    assert candidate.status == "fail"
    assert candidate.weights is not None
    assert candidate.weights.first_difference is not None
    assert re.match(named, candidate.weights.first_difference)


def test_int8_goes_with_the_fold(small_source: Source) -> None:
    with pytest.raises(InputError, match="goes with the fold"):
        ExportOptions(precision="int8", fold=False)
    with pytest.raises(InputError, match="torchscript files are exported in fp32, fp16, bf16, not in int8"):
        export_artifact("torchscript", small_source, ExportOptions(precision="int8"))
