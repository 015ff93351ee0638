"""Our ONNX graphs: against torch's own exporter, and in themselves."""

from __future__ import annotations

import copy
import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from support import mostly_slow

from iresnet_export.backends.base import ExportJob
from iresnet_export.backends.onnx.format import OPSETS, Onnx, OnnxOptions
from iresnet_export.backends.onnx.reading import graph_of_onnx
from iresnet_export.backends.onnx.writing import METADATA_KEY, onnx_from_network
from iresnet_export.errors import ExportError, InputError
from iresnet_export.graph.compare import compare
from iresnet_export.graph.network import graph_of_network
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_export.verification.reference import noise_floor, rms
from iresnet_models import ModelSpec, Network
from iresnet_models.initialization import untrained_network


def network(arch: str = "iresnet", depth: int = 18) -> Network:
    return untrained_network(ModelSpec(arch, depth, num_classes=10, image_size=32, resize=32))


def run(model: onnx.ModelProto | bytes, images: torch.Tensor) -> np.ndarray:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return np.asarray(logits)


@pytest.mark.parametrize(
    "model",
    [
        ("resnet", 18),
        *(pytest.param(model, marks=pytest.mark.slow) for model in (("resstage", 34), ("iresnet", 50), ("iresgroup", 50))),
    ],
    ids=str,
)
def test_computes_what_torchs_own_exporter_computes(model: tuple[str, int], tmp_path: Path) -> None:
    net = network(*model)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        theirs = torch.onnx.export(net, (images,), dynamo=True, verbose=False)
    assert theirs is not None
    theirs.save(str(tmp_path / "theirs.onnx"))
    with torch.inference_mode():
        exact = copy.deepcopy(net).double()(images.double()).numpy()
    error_of_theirs = np.abs(run((tmp_path / "theirs.onnx").read_bytes(), images) - exact).max()
    error_of_ours = np.abs(run(onnx_from_network(net), images) - exact).max()
    assert error_of_theirs < 1e-3 * np.abs(exact).max(), "theirs is no reference"
    assert error_of_ours < 3 * error_of_theirs


def test_one_node_for_each_operation_named_by_the_network() -> None:
    net = network("iresnet", 50)
    model = onnx_from_network(net)
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 53,
        "BatchNormalization": 53,
        "Relu": 49,
        "Add": 16,
        "MaxPool": 4,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert names[:6] == ["conv1", "bn1", "relu", "layer1.0.downsample.0", "layer1.0.downsample.1", "layer1.0.downsample.2"]
    assert "layer3.5.add" in names
    state = net.state_dict()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(stored) == {key for key in state if not key.endswith("num_batches_tracked")}
    assert all(np.array_equal(values, state[name].numpy()) for name, values in stored.items())


def test_block_1_rectifies_its_shortcut() -> None:
    nodes = {node.name: node for node in onnx_from_network(network("iresnet", 50)).graph.node}
    assert "layer1.1.relu" in nodes["layer1.1.add"].input
    assert list(nodes["layer1.1.relu"].input) == ["layer1.0.add"]
    assert "layer1.1.add" in nodes["layer1.2.add"].input


def test_the_same_network_gives_the_same_bytes_with_no_path_in_them() -> None:
    first, second = (onnx_from_network(network(), identity={"a": 1}).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert str(Path.home()).encode() not in first
    assert b"site-packages" not in first
    assert b".py" not in first


@pytest.mark.parametrize("opset", mostly_slow(OPSETS, 7))
def test_every_opset(opset: int) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net = network()
    model = onnx_from_network(net, opset=opset)
    assert model.opset_import[0].version == opset
    with torch.inference_mode():
        exact = copy.deepcopy(net).double()(images.double()).numpy()
    assert rms(run(model, images) - exact) < NOISE_LIMIT * noise_floor(net, images, exact, (2,))


def test_opsets_that_are_not_supported() -> None:
    for opset in (OPSETS.start - 1, OPSETS.stop):
        with pytest.raises(InputError, match="choose one from 18 to"):
            OnnxOptions(opset=opset)


def test_batch_is_symbolic_or_static() -> None:
    def shapes(model: onnx.ModelProto) -> list[object]:
        values = (model.graph.input[0], model.graph.output[0])
        return [value.type.tensor_type.shape.dim[0].dim_param or value.type.tensor_type.shape.dim[0].dim_value for value in values]

    net = network()
    assert shapes(onnx_from_network(net)) == ["batch", "batch"]
    assert shapes(onnx_from_network(net, static_batch=4)) == [4, 4]


def test_identity_is_in_the_metadata() -> None:
    model = onnx_from_network(network(), identity={"spec": {"arch": "iresnet"}})
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata[METADATA_KEY]) == {"spec": {"arch": "iresnet"}}


@pytest.mark.parametrize("model", [("resnet", 50), ("iresgroupfix", 50)], ids=str)
@pytest.mark.slow
def test_layers_are_read_back_bit_by_bit(model: tuple[str, int]) -> None:
    net = network(*model)
    found = compare(graph_of_network(net), graph_of_onnx(onnx_from_network(net)))
    assert (found.first_difference, found.weights.worst_ulp) == (None, 0)
    assert found.weights.compared == sum(value.numel() for key, value in net.state_dict().items() if "num_batches" not in key)


def test_an_operation_without_an_onnx_form_is_refused() -> None:
    net = network()
    net.avgpool = torch.nn.LPPool2d(2, 1)  # type: ignore[assignment]
    with pytest.raises(ExportError, match=r"LPPool2d.* at avgpool"):
        onnx_from_network(net)


def test_a_graph_that_is_none_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments: Any, **options: Any) -> onnx.ModelProto:
        model = onnx_from_network(*arguments, **options)
        model.graph.node[3].input[0] = "nothing"
        return model

    net = network()
    job = ExportJob(net, net.spec, tmp_path / "x.onnx", OnnxOptions())
    assert Onnx().content(job)
    monkeypatch.setattr("iresnet_export.backends.onnx.writing.onnx_from_network", broken)
    with pytest.raises(onnx.checker.ValidationError, match="nothing"):
        Onnx().content(job)
