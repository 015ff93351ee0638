"""Corrected biases: by hand, by what is left of the shift, and with what the manifest says of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.bias_correction import Shift, bias_corrections, is_corrected, uncorrected
from iresnet_export.backends.onnx.calibrate import Images, calibration_images, chosen_quantization
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.errors import ArtifactError
from iresnet_export.quantization.codes import Codes, Quantization, quantized_weights
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.quantization.schemes import SCHEMES
from iresnet_export.system.progress import no_progress
from iresnet_models import ModelSpec
from iresnet_models.folding import fold
from iresnet_models.preprocessing import normalised

Made = tuple[Source, Images, onnx.ModelProto, Quantization]


def quantized(source: Source, reach: float = 1.0) -> Made:
    """Its folded graph, by so much of the ranges that images have, and biases as they are."""
    options = ExportOptions(precision="int8", calibrator="minmax", calibration_data="digits", calibration_images=128)
    images = calibration_images(source, options)
    folded = fold(source.network, sample=normalised(torch.cat(list(images.measuring(32))), source.spec))
    found = chosen_quantization(source, {False: folded}, images, options, no_progress)
    ranges = {name: (reach * low, reach * high) for name, (low, high) in found.ranges.items()}
    return source, images, onnx_from_network(folded), dataclasses.replace(found, ranges=ranges, bias_corrections={})


def untrained() -> Source:
    return untrained_source(ModelSpec("iresnet", 18, num_classes=10, image_size=32, resize=32), 1)


@pytest.fixture(scope="module")
def made() -> Made:
    """By ranges that cut much off, which shifts every layer."""
    return quantized(untrained(), 0.5)


def batch_of(source: Source, images: Images, first: int, count: int) -> Tensor:
    """So many of the images that ranges come from, normalised."""
    return normalised(torch.cat(list(images.measuring(first + count)))[first:], source.spec)


def shift_of(model: onnx.ModelProto, quantization: Quantization, batch: Tensor, layer: str) -> np.ndarray:
    """By how much a layer's outputs are off on average, channel by channel, in their own units."""
    output = next(node.output[0] for node in model.graph.node if node.name == layer)
    means = []

    def watch(name: str, values: Tensor) -> None:
        if name == output:
            means.append(values.double().transpose(0, 1).flatten(1).mean(1).numpy())

    OnnxGraph(model).run(batch, watch)
    OnnxGraph(quantized_onnx(model, quantization)).run(batch, watch)
    return np.asarray(means[1] - means[0])


def test_of_a_shift_what_is_more_than_chance_is_corrected() -> None:
    shift = Shift(np.array([10.4, -10.6, 10.0, 0.3, 4.0]), np.array([1.0, 1.0, 4.0, 0.0, np.nan]))
    assert shift.correction.tolist() == [-10, 11, 0, 0, 0]
    assert Shift(np.array([8.9, 0.9]), np.array([1.0, 0.0])).is_chance
    assert not Shift(np.array([9.1, 0.9]), np.array([1.0, 0.0])).is_chance


def test_codes_of_biases_are_corrected_and_nothing_else() -> None:
    weight, bias = np.ones((2, 1, 1, 1), np.float32), np.array([1.0, -1.0], np.float32)
    activation, scheme = Codes(np.float32(0.02), np.uint8(7)), SCHEMES["int8", "cpu"]
    plain = quantized_weights(weight, bias, activation, scheme)
    made = quantized_weights(weight, bias, activation, scheme, (5, -3))
    assert (made.bias - plain.bias).tolist() == [5, -3]
    assert made.bias.dtype == np.int32
    np.testing.assert_array_equal(made.weight, plain.weight)
    np.testing.assert_array_equal(made.scale, plain.scale)
    with pytest.raises(ArtifactError, match="corrects 3 biases of a layer that has 2"):
        quantized_weights(weight, bias, activation, scheme, (1, 2, 3))
    with pytest.raises(ArtifactError, match="int8 for tensorrt has none"):
        quantized_weights(weight, bias, Codes(np.float32(0.02), np.int8(0)), SCHEMES["int8", "tensorrt"], (5, -3))


@pytest.mark.parametrize("layer", ["layer1.0.conv1", "layer2.1.conv2", "layer4.1.conv2", "fc"])
def test_what_is_left_is_chance_on_other_images_too(made: Made, layer: str) -> None:
    source, images, model, plain = made
    batch, others = batch_of(source, images, 0, 48), batch_of(source, images, 48, 48)
    corrections = bias_corrections(model, plain, batch)
    corrected = dataclasses.replace(plain, bias_corrections=corrections)
    before, after = (np.abs(shift_of(model, found, batch, layer)).mean() for found in (plain, corrected))
    assert after < before / 4
    before, after = (np.abs(shift_of(model, found, others, layer)).mean() for found in (plain, corrected))
    assert after < before / 1.5


def test_a_layer_that_is_off_is_named(made: Made) -> None:
    source, images, model, plain = made
    batch = batch_of(source, images, 0, 64)
    corrections = bias_corrections(model, plain, batch)
    assert uncorrected(model, dataclasses.replace(plain, bias_corrections=corrections), batch) is None
    other = {name: codes for name, codes in corrections.items() if name != "layer2.0.conv1"}
    assert uncorrected(model, dataclasses.replace(plain, bias_corrections=other), batch) == "layer2.0.conv1"
    assert uncorrected(model, plain, batch) is not None


def test_where_biases_are_corrected() -> None:
    """Where they are codes, and where images are enough and not too large for all to be in memory at once."""
    scheme = SCHEMES["int8", "cpu"]
    assert [is_corrected(scheme, images, 32) for images in (1, 15, 16, 64)] == [False, False, True, True]
    assert [is_corrected(scheme, 32, size) for size in (224, 512, 513)] == [True, True, False]
    assert not is_corrected(SCHEMES["int8", "tensorrt"], 64, 32)


def pruned(network: torch.nn.Module) -> None:
    """Channels of a few norms have biases and no weights, so that the codes of their biases are some 2^30."""
    for name in ("layer2.1.bn1", "layer3.0.bn1"):
        norm = network.get_submodule(name)
        assert isinstance(norm, torch.nn.BatchNorm2d)
        norm.weight.data[::4] = 0
        norm.bias.data[::4] = torch.linspace(-0.05, 0.05, len(norm.bias.data[::4]))


def test_what_float32_rounds_of_pruned_channels_is_no_shift() -> None:
    source = untrained()
    pruned(source.network)
    source, images, model, plain = quantized(source)
    batch = batch_of(source, images, 0, 64)
    corrected = dataclasses.replace(plain, bias_corrections=bias_corrections(model, plain, batch))
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized_onnx(model, plain).graph.initializer}
    for name, codes in corrected.bias_corrections.items():
        huge = np.abs(kept[f"{name}.bias"].astype(np.int64)) > 2**29
        assert not np.asarray(codes)[huge].any(), name
    assert any((np.abs(codes.astype(np.int64)) > 2**29).any() for codes in kept.values() if codes.dtype == np.int32)
    assert uncorrected(model, corrected, batch) is None


def test_what_a_watch_gives_is_taken_in_place(made: Made) -> None:
    _, _, model, _ = made
    images = torch.zeros(1, 3, 32, 32)
    logits = OnnxGraph(model).run(images)
    changed = OnnxGraph(model).run(images, lambda name, values: values + 1 if name == model.graph.output[0].name else None)
    assert torch.equal(changed, logits + 1)
