"""Files without a manifest that hold every weight of the network, and compute something else where no image shows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from iresnet_export.artifacts.source import Source
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify

pytestmark = pytest.mark.usefixtures("shared_references")


def constant(model: onnx.ModelProto, name: str, values: object) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return name


def last_convolution(model: onnx.ModelProto) -> onnx.NodeProto:
    return [node for node in model.graph.node if node.op_type == "Conv"][-1]


def first(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


def bias_from_a_branch(model: onnx.ModelProto) -> None:
    """The branch of a constant condition reads the image from outside."""
    channels = 512
    inner = [
        helper.make_node("ReduceMax", [model.graph.input[0].name], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", constant(model, "fifty", np.float32(50))], ["is_white"]),
        helper.make_node("Cast", ["is_white"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["one", constant(model, "evil", np.full(channels, 9, np.float32))], ["bias"]),
    ]
    outputs = [helper.make_tensor_value_info("bias", TensorProto.FLOAT, [channels])]
    branches = {name: helper.make_graph(inner, name, [], outputs) for name in ("then_branch", "else_branch")}
    first(model, helper.make_node("If", [constant(model, "always", np.bool_(True))], ["evil_bias"], **branches))
    last_convolution(model).input.append("evil_bias")


def bias_by_chance(model: onnx.ModelProto) -> None:
    first(
        model,
        helper.make_node("RandomUniform", [], ["drawn"], shape=[512]),
        helper.make_node("Less", ["drawn", constant(model, "rarely", np.float32(1e-9))], ["is_rare"]),
        helper.make_node("Cast", ["is_rare"], ["evil_bias"], to=TensorProto.FLOAT),
    )
    last_convolution(model).input.append("evil_bias")


def own_identity(model: onnx.ModelProto) -> None:
    """A function of the file's own, by the name of an operator that only hands on."""
    nudge = helper.make_node("Add", ["a", "d"], ["b"])
    step = helper.make_node("Constant", [], ["d"], value_float=1e-6)
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("evil", "Identity", ["a"], ["b"], [step, nudge], opsets))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    conv = last_convolution(model)
    first(model, helper.make_node("Identity", [conv.input[1]], ["nudged"], domain="evil"))
    conv.input[1] = "nudged"


def mixed_at_13_images(model: onnx.ModelProto) -> None:
    """Features are given to other images of the batch, if there are 13."""
    linear = next(node for node in model.graph.node if node.op_type == "Gemm")
    given = linear.input[0]
    nodes = [
        helper.make_node("Shape", [given], ["shape"]),
        helper.make_node("Slice", ["shape", constant(model, "0", [0]), constant(model, "1", [1])], ["count"]),
        helper.make_node("Equal", ["count", constant(model, "13", [13])], ["is_13"]),
        helper.make_node("Where", ["is_13", constant(model, "mixing", [512, 13]), "shape"], ["mixed_shape"]),
        helper.make_node("Reshape", [given, "mixed_shape"], ["reshaped"]),
        helper.make_node("Where", ["is_13", constant(model, "back", [13, 512]), "shape"], ["own_shape"]),
        helper.make_node("Transpose", ["reshaped"], ["transposed"], perm=[1, 0]),
        helper.make_node("Where", ["is_13", constant(model, "turned", [13, 512]), "shape"], ["last_shape"]),
        helper.make_node("Transpose", ["transposed"], ["again"], perm=[1, 0]),
        helper.make_node("Reshape", ["again", "last_shape"], ["features"]),
    ]
    others = list(model.graph.node)
    position = others.index(linear)
    linear.input[0] = "features"
    others[position] = linear
    del model.graph.node[:]
    model.graph.node.extend([*others[:position], *nodes, *others[position:]])


def where_and_one(model: onnx.ModelProto) -> None:
    """A white pixel decides; and a multiplication by 1 makes the layers more than the network's."""
    logits = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "own"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", [model.graph.input[0].name, constant(model, "axes", [1, 2, 3])], ["most"], keepdims=0),
            helper.make_node("Unsqueeze", ["most", constant(model, "last", [1])], ["column"]),
            helper.make_node("Greater", ["column", constant(model, "fifty", np.float32(50))], ["is_white"]),
            helper.make_node("Where", ["is_white", constant(model, "evil", np.float32(0)), "own"], ["chosen"]),
            helper.make_node("Mul", ["chosen", constant(model, "one", np.float32(1))], [logits]),
        ]
    )


BACKDOORS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "a bias from a branch": (bias_from_a_branch, "layer4.1.conv2: computed input is evil_bias"),
    "a bias by chance": (bias_by_chance, "layer4.1.conv2: computed input is evil_bias"),
    "a function named Identity": (own_identity, "it computes evil:Identity"),
    "images mixed at one batch size": (mixed_at_13_images, "Where"),
    "a choice behind a multiplication by 1": (where_and_one, "Where"),
}


def verdict(path: Path, source: Source) -> Candidate:
    options = VerifyOptions(source.checkpoint, images=32, batch_sizes=(1, 7), backends=("onnxruntime",))
    (found,) = verify([path], options).candidates
    return found


@pytest.fixture
def plain(small_source: Source) -> onnx.ModelProto:
    return onnx_from_network(small_source.network)


def test_without_one_it_passes(plain: onnx.ModelProto, small_source: Source, tmp_path: Path) -> None:
    onnx.save(plain, tmp_path / "x.onnx")
    found = verdict(tmp_path / "x.onnx", small_source)
    assert (found.status, found.reason, found.coverage) == ("pass", None, "graph")


@pytest.mark.parametrize("name", BACKDOORS)
def test_it_fails_though_no_image_shows_it(name: str, plain: onnx.ModelProto, small_source: Source, tmp_path: Path) -> None:
    change, said = BACKDOORS[name]
    change(plain)
    onnx.save(plain, tmp_path / "x.onnx")
    found = verdict(tmp_path / "x.onnx", small_source)
    assert found.outputs is not None, found.reason
    assert found.outputs.reason is None, "the images show nothing"
    assert found.status == "fail"
    assert said in str(found.reason)
