"""Artifacts that are wrong in one way each, with manifests made to fit: which check catches them, and where they are found.

Every one is a real file that loads (or that a runtime refuses), as a faulty exporter or a bad copy might leave it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support import mostly_slow

from iresnet_export.artifacts.artifact import Artifact, record
from iresnet_export.artifacts.metadata import identity_of
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportJob, ExportOptions, Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.onnx.writing import METADATA_KEY
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime
from iresnet_export.backends.registry import format_named, runtime_named
from iresnet_export.exporting import export_artifact
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models.files import sha256_of

Model = onnx.ModelProto
pytestmark = pytest.mark.usefixtures("shared_references")

QUICK = VerifyOptions(images=32, batch_sizes=(1, 7), backends=("onnxruntime",))


@dataclass(frozen=True)
class Sabotage:
    """`spoil` changes a file of the `kind` of export; `caught` is what its verdict has to say, and `places` where it departs.

    `places` is None where the outputs are not reached, or do not show it.
    """

    spoil: Callable[[Model], None]
    caught: str
    places: tuple[str, ...] | None = None
    kind: str = "plain"


def node(model: Model, name: str) -> onnx.NodeProto:
    return next(found for found in model.graph.node if found.name == name)


def attribute(name: str, key: str, value: Any) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        found = node(model, name)
        kept = [entry for entry in found.attribute if entry.name != key]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(key, value)])

    return spoil


def tensor(name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        found = next(entry for entry in model.graph.initializer if entry.name == name)
        values = numpy_helper.to_array(found).copy()
        changed = change(values)
        found.CopyFrom(numpy_helper.from_array(values if changed is None else changed, name))

    return spoil


def rewired(name: str, old: str, new: str) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        inputs = node(model, name).input
        inputs[list(inputs).index(old)] = new

    return spoil


def before(name: str, position: int, *steps: tuple[str, list[np.ndarray], dict[str, Any]]) -> Callable[[Model], None]:
    """Puts operations in front of a node's input."""

    def spoil(model: Model) -> None:
        found = node(model, name)
        value, index = found.input[position], list(model.graph.node).index(found)
        for step, (operator, constants, attributes) in enumerate(steps):
            names = [f"extra{step}.{number}" for number in range(len(constants))]
            model.graph.initializer.extend(map(numpy_helper.from_array, constants, names))
            made = helper.make_node(operator, [value, *names], [f"extra{step}"], name=f"extra{step}", **attributes)
            model.graph.node.insert(index + step, made)
            value = f"extra{step}"
        found.input[position] = value

    return spoil


def replaced(name: str, operator: str, constants: list[np.ndarray], **attributes: Any) -> Callable[[Model], None]:
    """Another operator in a node's place, with the same first input."""

    def spoil(model: Model) -> None:
        found = node(model, name)
        names = [f"other.{number}" for number in range(len(constants))]
        model.graph.initializer.extend(map(numpy_helper.from_array, constants, names))
        made = helper.make_node(operator, [found.input[0], *names], list(found.output), name=name, **attributes)
        found.CopyFrom(made)

    return spoil


def removed(name: str) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        found = node(model, name)
        for other in model.graph.node:
            for index, value in enumerate(other.input):
                if value == found.output[0]:
                    other.input[index] = found.input[0]
        model.graph.node.remove(found)

    return spoil


def scaled_behind(model: Model) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.01), "factor"))
    node(model, "fc").output[0] = "true.logits"
    model.graph.node.append(helper.make_node("Mul", ["true.logits", "factor"], ["logits"], name="scaled"))


def truncated(model: Model) -> None:
    found = next(entry for entry in model.graph.initializer if entry.name == "layer4.1.conv2.weight")
    found.raw_data = found.raw_data[: len(found.raw_data) // 2]


def read_as_int8(model: Model) -> None:
    """Codes of a uint8 activation are taken for int8, as TensorRT does without a word."""
    found = node(model, "layer2.0.relu.dequantize")
    index = list(model.graph.node).index(found)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), "signed_zero"))
    cast = helper.make_node("Cast", [found.input[0]], ["signed"], name="signed", to=TensorProto.INT8)
    model.graph.node.insert(index, cast)
    found.input[0], found.input[2] = "signed", "signed_zero"


def told(change: Callable[[dict[str, Any]], None]) -> Callable[[Model], None]:
    """What the file says of itself."""

    def spoil(model: Model) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        identity = json.loads(entry.value)
        change(identity)
        entry.value = json.dumps(identity)

    return spoil


def times(factor: float, *index: int) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[index] *= factor

    return change


def one_bit(values: np.ndarray) -> None:
    values.view(np.uint32)[3] ^= 1


STAGE3 = ("stage 3 block 1 (end)", "stage 4 block 0 (start)")
STAGE2 = ("stage 2 block 0 (start)", "stage 2 block 1 (end)")
FLIPPED = np.array([2, 1, 0], dtype=np.int64)

CATALOGUE = {
    "ReLU out of place": Sabotage(
        rewired("layer3.1.add", "layer3.1.relu", "layer3.0.add"), r"graph: add \d+ \(layer3\.1\) reads", STAGE3
    ),
    "ReLU removed": Sabotage(removed("layer3.1.relu_1"), r"graph: where the network has relu \d+ \(layer3\.1\)", STAGE3),
    "ReLU that ends at 6": Sabotage(
        replaced("layer3.1.relu_1", "Clip", [np.array(0, np.float32), np.array(6, np.float32)]),
        r"graph: relu \d+ \(layer3\.1\) has the attributes \{'bounds'",
    ),
    "shortcut from an earlier block": Sabotage(
        rewired("layer3.1.add", "layer3.1.relu", "layer3.0.downsample.2"), r"graph: add \d+ \(layer3\.1\) reads batch_norm", STAGE3
    ),
    "epsilon": Sabotage(attribute("layer3.1.bn1", "epsilon", 1e-2), r"weights: layer3\.1\.bn1: eps is 0\.00999", STAGE3),
    "one weight of millions by 1 %": Sabotage(
        tensor("layer3.0.conv2.weight", times(1.01, 17, 5, 1, 2)), r"weights: layer3\.0\.conv2\.weight\[17, 5, 1, 2\]"
    ),
    "one bit of one bias": Sabotage(tensor("layer2.1.bn1.bias", one_bit), r"weights: layer2\.1\.bn1\.bias\[3\]"),
    "swapped channels": Sabotage(
        tensor("layer3.1.conv1.weight", lambda w: w[[9, *range(1, 9), 0, *range(10, 256)]]),
        r"weights: layer3\.1\.conv1\.weight\[0, 0, 0, 0\]",
        STAGE3,
    ),
    "transposed kernel": Sabotage(
        tensor("layer3.1.conv2.weight", lambda w: w.swapaxes(2, 3)), r"weights: layer3\.1\.conv2\.weight\[0, 0, 0, 1\]", STAGE3
    ),
    "BatchNorm in training mode": Sabotage(
        attribute("layer3.1.bn1", "training_mode", 1), r"weights: layer3\.1\.bn1: training_mode"
    ),
    "a padding": Sabotage(
        attribute("layer3.1.conv1", "pads", [0, 1, 2, 1]), r"weights: layer3\.1\.conv1: padding is \(0, 1, 2, 1\)", STAGE3
    ),
    "a stride moved": Sabotage(
        lambda m: (attribute("layer2.0.conv1", "strides", [1, 1])(m), attribute("layer2.0.conv2", "strides", [2, 2])(m), None)[-1],
        r"weights: layer2\.0\.conv1: stride is \(1, 1\)",
        STAGE2,
    ),
    "ceil instead of floor in a pool": Sabotage(
        lambda m: (
            attribute("layer2.0.downsample.0", "ceil_mode", 1)(m),
            attribute("layer2.0.downsample.0", "pads", [0, 0, 0, 0])(m),
            None,
        )[-1],
        r"graph: max_pool \d+ \(layer2\.0\.downsample\.0\) has the attributes .*True",
        STAGE2,
    ),
    "average instead of maximum": Sabotage(
        replaced("layer2.0.downsample.0", "AveragePool", [], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        r"graph: where the network has max_pool",
        STAGE2,
    ),
    "RGB and BGR": Sabotage(
        before("conv1", 0, ("Gather", [FLIPPED], {"axis": 1})), r"times its own fp32 rounding error.*it departs in stem", ("stem",)
    ),
    "RGB and BGR in the weights": Sabotage(
        tensor("conv1.weight", lambda w: w[:, ::-1]), r"weights: conv1\.weight\[0, 0, 0, 0\]", ("stem",)
    ),
    "mean and std": Sabotage(
        before("conv1", 0, ("Mul", [np.float32([[[0.9]]])], {})), r"graph: where the network has conv 1 \(conv1\)", ("stem",)
    ),
    "mean inside": Sabotage(
        tensor("mean", lambda mean: mean + np.float32(0.5)), r"weights: mean\.constant\[0, 0, 0, 0\]", ("stem",), "pixels"
    ),
    "mean as the file tells it": Sabotage(
        told(lambda identity: identity["spec"].update(mean=[0.5, 0.5, 0.5])), r"the file says of itself that mean is \[0\.5"
    ),
    "resize interpolation": Sabotage(
        told(lambda identity: identity["spec"].update(interpolation="nearest")), r"that interpolation is nearest"
    ),
    "a half-precision layer": Sabotage(
        before("layer3.1.conv2", 0, ("Cast", [], {"to": TensorProto.FLOAT16}), ("Cast", [], {"to": TensorProto.FLOAT})),
        r"times its own fp32 rounding error.*it departs in stage 3",
        STAGE3,
    ),
    "the wrong opset's ReduceMean": Sabotage(
        replaced("avgpool", "ReduceMean", [], axes=[2, 3]), r"graph: average_pool|does not load"
    ),
    "ReduceMean over one axis": Sabotage(
        replaced("avgpool", "ReduceMean", [np.array([2], np.int64)]), r"graph: average_pool \d+ \(avgpool\) has the attributes"
    ),
    "a reshape that depends on the batch": Sabotage(
        replaced("flatten", "Reshape", [np.array([1, -1], np.int64)]), r"does not run: .*", None
    ),
    "scaled logits": Sabotage(attribute("fc", "alpha", 1.001), r"weights: fc: alpha is 1\.00", ("classifier",)),
    "scaled logits behind the classifier": Sabotage(
        scaled_behind, r"weights: the network has \d+ layers with weights.*it departs in output", ("output",)
    ),
    "a missing layer": Sabotage(removed("layer3.1.bn2"), r"weights: where the network has layer3\.1\.bn2", STAGE3),
    "truncated initialisers": Sabotage(truncated, r"not a whole ONNX file|does not load|cannot be read"),
    "a quantization scale off by one": Sabotage(
        tensor("layer2.0.relu.scale", lambda scale: np.nextafter(scale, np.float32(1))),
        r"weights: layer2\.0\.relu\.scale",
        None,
        "int8",
    ),
    "a zero point off by one": Sabotage(
        tensor("input.zero_point", lambda zero: zero + np.uint8(1)), r"weights: input\.zero_point", None, "int8"
    ),
    "uint8 read as int8": Sabotage(read_as_int8, r"weights: the network has \d+ layers", None, "int8"),
}


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("originals")
    options = {
        "plain": ExportOptions(fold=False),
        "pixels": ExportOptions(fold=False, with_preprocessing=True),
        "int8": ExportOptions(precision="int8", calibration_data="digits", calibration_images=64),
    }
    return {kind: export_artifact("onnx", small_source, made, output=folder / f"{kind}.onnx") for kind, made in options.items()}


def verdict(path: Path, checkpoint: Path, **options: Any) -> Candidate:
    return verify([path], dataclasses.replace(QUICK, checkpoint=checkpoint, **options)).candidates[0]


@pytest.mark.parametrize("name", mostly_slow(CATALOGUE, 4))
def test_sabotage_is_caught_and_found(name: str, originals: dict[str, Artifact], small_checkpoint: Path, tmp_path: Path) -> None:
    sabotage = CATALOGUE[name]
    original = originals[sabotage.kind]
    model = onnx.load(original.path)
    sabotage.spoil(model)
    path = tmp_path / original.path.name
    path.write_bytes(model.SerializeToString())
    record(path, dataclasses.replace(original.require_intact(), sha256=sha256_of(path), size_bytes=path.stat().st_size))
    found = verdict(path, small_checkpoint, data="digits" if sabotage.kind == "int8" else None)
    assert found.status == "fail"
    assert re.search(sabotage.caught, str(found.reason)), found.reason
    if sabotage.places is not None:
        assert found.localisation is not None
        assert found.localisation.first in sabotage.places


@pytest.mark.parametrize("kind", mostly_slow(["int8", "plain", "pixels"], 3))
def test_the_originals_pass(kind: str, originals: dict[str, Artifact], small_checkpoint: Path) -> None:
    found = verdict(originals[kind].path, small_checkpoint, data="digits" if kind == "int8" else None, localise=True)
    assert (found.status, found.reason) == ("pass", None)
    assert found.localisation is not None
    assert found.localisation.first is None
    assert len(found.localisation.places) == 11
    assert all(entry.ratio is not None for entry in found.localisation.places)


@pytest.mark.parametrize("name", mostly_slow(["torchscript", "torch_export"], 2))
def test_scripts_and_programs_are_searched_too(name: str, small_source: Source, small_checkpoint: Path, tmp_path: Path) -> None:
    """Another epsilon in one block; and nothing is found in the artifact as it should be."""
    format = format_named(runtime_named(name).format)
    artifact = export_artifact(format.name, small_source, ExportOptions(fold=False), output=tmp_path / f"a{format.suffix}")
    options = dataclasses.replace(QUICK, backends=(name,), localise=True, batch_sizes=(7,))
    (right,) = verify([artifact.path], options).candidates
    assert (right.status, right.reason) == ("pass", None)
    assert right.localisation is not None
    assert right.localisation.first is None
    assert [entry.place for entry in right.localisation.places if entry.ratio is None] == []
    assert right.graph is not None
    assert right.graph.operations == 71
    other = copy.deepcopy(small_source.network)
    other.layer3[1].bn1.eps = 1e-2
    identity, manifest = identity_of(artifact.path, format.name), artifact.require_intact()
    format.write(ExportJob(other, other.spec, artifact.path, ExportOptions(fold=False), identity or {}))
    record(artifact.path, dataclasses.replace(manifest, sha256=sha256_of(artifact.path)))
    (wrong,) = verify([artifact.path], options).candidates
    assert wrong.status == "fail"
    assert wrong.localisation is not None
    assert wrong.localisation.first in STAGE3


class Tf32(torch.autograd.Function):
    """Rounds to the 10 bits of mantissa that TF32 keeps."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def test_tf32_shows_in_the_outputs_alone(
    originals: dict[str, Artifact], small_source: Source, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: every convolution gets inputs and weights of 10 bits; the file is as it should be."""
    network = copy.deepcopy(small_source.network)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = Tf32.apply(module.weight.data)
            module.register_forward_pre_hook(lambda _module, inputs: (Tf32.apply(inputs[0].contiguous()),))

    def load(*_arguments: object, **_options: object) -> Session:
        return EagerSession(network, torch.device("cpu"))

    monkeypatch.setattr(OnnxRuntime, "load", load)
    found = verdict(originals["plain"].path, small_checkpoint)
    assert found.status == "fail"
    assert found.weights is not None
    assert found.weights.passed
    assert found.outputs is not None
    assert found.outputs.noise_ratio is not None
    assert found.outputs.noise_ratio > 100


def test_a_manifest_that_tells_of_other_images_is_caught(
    originals: dict[str, Artifact], small_checkpoint: Path, tmp_path: Path
) -> None:
    """Nothing in the outputs shows it, for verification prepares its images as the manifest says."""
    original = originals["plain"]
    path = tmp_path / "plain.onnx"
    path.write_bytes(original.path.read_bytes())
    manifest = original.require_intact()
    record(path, dataclasses.replace(manifest, spec=dataclasses.replace(manifest.spec, interpolation="bicubic")))
    found = verdict(path, small_checkpoint)
    assert found.status == "fail"
    assert "the manifest says that interpolation is 'bicubic', and the checkpoint that it is 'bilinear'" in str(found.reason)
