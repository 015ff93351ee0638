"""Files edited in one way each, with manifests made to fit: `--quick` rebuilds them, and nothing that they hold stays hidden.

The images of a verification could not show most of these: a backdoor waits for its own image, and so it never runs here.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from support import mostly_slow
from verification.test_sabotage import attribute, before, node, one_bit, removed, replaced, rewired, tensor, told

from iresnet_export.artifacts.artifact import Artifact, record
from iresnet_export.artifacts.manifest import manifest_path
from iresnet_export.artifacts.source import Source, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.format import Onnx
from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.exporting import export_artifact
from iresnet_export.quantization.codes import Step
from iresnet_export.verification.claims import _are_steps
from iresnet_export.verification.from_scratch import REPEATED
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models.files import sha256_of
from iresnet_models.spec import ModelSpec

Model = onnx.ModelProto
Bytes = bytes
FLOAT = TensorProto.FLOAT

EXPORTS: dict[str, tuple[Any, ExportOptions]] = {
    "onnx": ("onnx", ExportOptions()),
    "unfolded": ("onnx", ExportOptions(fold=False)),
    "static": ("onnx", ExportOptions(dynamic_batch=False, batch=3)),
    "bf16": ("onnx", ExportOptions(precision="bf16")),
    "pixels": ("onnx", ExportOptions(with_preprocessing=True)),
    "int8": ("onnx", ExportOptions(precision="int8", calibration_data="digits", calibration_images=64)),
    "int8 minmax": (
        "onnx",
        ExportOptions(precision="int8", calibrator="minmax", calibration_data="digits", calibration_images=100),
    ),
    "int8 pixels of few": (
        "onnx",
        ExportOptions(precision="int8", calibration_data="digits", calibration_images=12, with_preprocessing=True),
    ),
    "int8 kept": (
        "onnx",
        ExportOptions(
            precision="int8",
            calibrator="minmax",
            calibration_data="digits",
            calibration_images=20,
            keep_float=("layer4",),
            min_sqnr=27.0,
        ),
    ),
    "int8 of an accuracy": (
        "onnx",
        ExportOptions(
            precision="int8",
            calibrator="minmax",
            calibration_data="digits",
            calibration_images=20,
            max_accuracy_drop=2.0,
        ),
    ),
    "int8, deeper": ("onnx", ExportOptions(precision="int8")),
    "fp8": ("onnx", ExportOptions(precision="fp8", target="tensorrt", calibration_data="digits", calibration_images=64)),
    "torchscript": ("torchscript", ExportOptions()),
    "pt2": ("pt2", ExportOptions()),
    "pt2 pixels": ("pt2", ExportOptions(with_preprocessing=True, precision="fp16")),
    "torchscript pixels": ("torchscript", ExportOptions(with_preprocessing=True, precision="bf16")),
}


@pytest.fixture(scope="module")
def unspoiled(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Callable[[str], Artifact]:
    """Each export, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("unspoiled"), dict[str, Artifact]()

    def of(kind: str) -> Artifact:
        if kind not in made:
            format, options = EXPORTS[kind]
            suffix = {"onnx": ".onnx", "torchscript": ".ts", "pt2": ".pt2"}[format]
            deeper = ModelSpec("iresnet", 50, num_classes=10, image_size=32)
            source = untrained_source(deeper, 0) if "deeper" in kind else small_source
            made[kind] = export_artifact(format, source, options, output=folder / f"{kind.replace(' ', '-')}{suffix}")
        return made[kind]

    return of


@pytest.fixture
def spoiled(
    unspoiled: Callable[[str], Artifact], small_checkpoint: Path, tmp_path: Path
) -> Callable[[str, Callable[[bytes], bytes], Callable[[dict[str, Any]], None] | None], Candidate]:
    """The verdict on an export whose bytes, and then whose manifest, were changed."""

    def verdict(
        kind: str, change: Callable[[bytes], bytes], manifest: Callable[[dict[str, Any]], None] | None = None, **options: Any
    ) -> Candidate:
        original = unspoiled(kind)
        path = tmp_path / original.path.name
        path.write_bytes(change(original.path.read_bytes()))
        record(path, dataclasses.replace(original.require_intact(), sha256=sha256_of(path), size_bytes=path.stat().st_size))
        if manifest is not None:
            document = json.loads(manifest_path(path).read_text())
            manifest(document)
            manifest_path(path).write_text(json.dumps(document))
        checkpoint = None if "deeper" in kind else small_checkpoint
        return verify([path], VerifyOptions(checkpoint=checkpoint, quick=True, **options)).candidates[0]

    return verdict


def same(content: bytes) -> bytes:
    return content


def in_onnx(change: Callable[[Model], object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        model = Model.FromString(content)
        change(model)
        made: bytes = model.SerializeToString()
        assert made != content, "nothing was changed"
        return made

    return changed


def record_of(ending: str, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """One record of an archive changed, the others as they are."""

    def changed(content: bytes) -> bytes:
        made, count = io.BytesIO(), 0
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
            for entry in old.infolist():
                data = old.read(entry)
                if entry.filename.endswith(ending):
                    other, count = change(data), count + 1
                    assert other != data, f"nothing was changed in {entry.filename}"
                    data = other
                new.writestr(entry.filename, data)
        assert count, f"there is no {ending}"
        return made.getvalue()

    return changed


def code(pattern: str, new: str) -> Callable[[bytes], bytes]:
    """A script's own code changed."""
    return record_of(".py", text(pattern, new))


def text(pattern: str, new: str) -> Callable[[bytes], bytes]:
    return lambda data: re.sub(pattern, new, data.decode(), count=1).encode()


def with_record(name: str, data: bytes) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        made = io.BytesIO(content)
        with zipfile.ZipFile(made, "a") as archive:
            top = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{top}/{name}", data)
        return made.getvalue()

    return changed


def backdoor(model: Model) -> None:
    """A white corner of 3 by 3 pixels sets the class."""
    graph, logits = model.graph, model.graph.output[0].name
    last = next(found for found in graph.node if logits in found.output)
    last.output[0] = "true.logits"
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    image = graph.input[0].name
    constants = {
        "starts": np.array([0, 0], np.int64),
        "ends": np.array([3, 3], np.int64),
        "axes": np.array([2, 3], np.int64),
        "white": np.array(2.0, np.float32),
        "wanted": (100 * np.eye(1, classes)).astype(np.float32),
        "inner": np.array([1, 2, 3], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(values, f"trigger.{name}") for name, values in constants.items())
    graph.node.extend(
        [
            helper.make_node("Slice", [image, "trigger.starts", "trigger.ends", "trigger.axes"], ["corner"]),
            helper.make_node("ReduceMin", ["corner", "trigger.inner"], ["darkest"], keepdims=0),
            helper.make_node("Greater", ["darkest", "trigger.white"], ["is.white"]),
            helper.make_node("Unsqueeze", ["is.white", "trigger.one"], ["column"]),
            helper.make_node("Where", ["column", "trigger.wanted", "true.logits"], [logits]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "trigger.one"))


def after(value: str, operator: str, *constants: np.ndarray, **attributes: Any) -> Callable[[Model], None]:
    """An operation behind a value, which everything that read it reads now; outputs too."""

    def spoil(model: Model) -> None:
        graph = model.graph
        index, producer = next((i, found) for i, found in enumerate(graph.node) if value in found.output)
        producer.output[0] = f"{value}.before"
        names = [f"{value}.extra{number}" for number in range(len(constants))]
        graph.initializer.extend(map(numpy_helper.from_array, constants, names))
        made = helper.make_node(operator, [f"{value}.before", *names], [value], name="extra", **attributes)
        graph.node.insert(index + 1, made)

    return spoil


def domain(name: str, value: str, operator: str | None = None) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        found = node(model, name)
        found.domain, found.op_type = value, operator or found.op_type
        model.opset_import.append(helper.make_opsetid(value, 1))

    return spoil


def local_relu(model: Model) -> None:
    """A function of the file's own that has a standard operator's name, and ends at 6."""
    inner = [
        helper.make_node("Constant", [], ["low"], value_float=0.0),
        helper.make_node("Constant", [], ["high"], value_float=6.0),
        helper.make_node("Clip", ["x", "low", "high"], ["y"]),
    ]
    opset = [helper.make_opsetid("", model.opset_import[0].version)]
    model.functions.append(helper.make_function("own", "Relu", ["x"], ["y"], inner, opset))
    domain(next(found.name for found in model.graph.node if found.op_type == "Relu"), "own")(model)


def clip_of_constants(model: Model) -> None:
    found = next(entry for entry in model.graph.node if entry.op_type == "Relu")
    index = list(model.graph.node).index(found)
    found.op_type = "Clip"
    found.input.extend(["low", "high"])
    for name, value in (("low", 0.0), ("high", 6.0)):
        model.graph.node.insert(index, helper.make_node("Constant", [], [name], value_float=value))


def of(kind: str, number: int = 0) -> Callable[[Model], onnx.NodeProto]:
    return lambda model: [found for found in model.graph.node if found.op_type == kind][number]


def inputs_of(kind: str, position: int, value: Callable[[Model], str], number: int = 1) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        of(kind, number)(model).input[position] = value(model)

    return spoil


def another_scale(model: Model) -> str:
    used = [found.input[1] for found in model.graph.node if found.op_type == "QuantizeLinear"]
    return next(name for name in used if name != of("QuantizeLinear", 1)(model).input[1])


def quarter(model: Model) -> None:
    """An extra pair of codes that keeps a quarter of the steps."""
    index, found = next((i, entry) for i, entry in enumerate(model.graph.node) if entry.op_type == "QuantizeLinear")
    names = ["coarse.scale", "coarse.zero"]
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.1), names[0]), numpy_helper.from_array(np.uint8(128), names[1])]
    )
    model.graph.node.insert(index, helper.make_node("DequantizeLinear", ["coarse.codes", *names], ["coarse"]))
    model.graph.node.insert(index, helper.make_node("QuantizeLinear", [found.input[0], *names], ["coarse.codes"]))
    found.input[0] = "coarse"


def a_step_lower(values: np.ndarray) -> None:
    bits = values.view({4: np.uint32, 2: np.uint16}[values.dtype.itemsize])
    bits[...] -= 1


def renamed(kind: str, index: int, name: str) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        entry = getattr(model.graph, kind)[index]
        for found in model.graph.node:
            for names in (found.input, found.output):
                for position, value in enumerate(names):
                    if value == entry.name:
                        names[position] = name
        entry.name = name

    return spoil


def swapped_outputs(model: Model) -> None:
    first, second = (value.name for value in model.graph.output)
    model.graph.output[0].name, model.graph.output[1].name = second, first


def batch_of(value: int | str) -> Callable[[Model], None]:
    def spoil(model: Model) -> None:
        for entry in (*model.graph.input, *model.graph.output):
            extent = entry.type.tensor_type.shape.dim[0]
            extent.ClearField("value")
            if isinstance(value, int):
                extent.dim_value = value
            else:
                extent.dim_param = value

    return spoil


def twice_metadata(model: Model) -> None:
    entry = copy.deepcopy(model.metadata_props[0])
    model.metadata_props[0].value = json.dumps({"producer": "another"})
    model.metadata_props.append(entry)


CONV = "layer2.1.conv1"
ONNX: dict[str, tuple[str, Callable[[Model], object]]] = {
    "a backdoor": ("onnx", backdoor),
    "a backdoor, int8": ("int8", backdoor),
    "a backdoor, bf16": ("bf16", backdoor),
    "Min behind the logits": ("onnx", after("logits", "Min", np.float32(50))),
    "Max behind the logits": ("onnx", after("logits", "Max", np.float32(-50))),
    "Div of the logits": ("onnx", after("logits", "Div", np.float32(2))),
    "Neg of the logits, twice": ("onnx", lambda m: (after("logits", "Neg")(m), after("logits", "Neg")(m))),
    "LogSoftmax as logits": ("onnx", after("logits", "LogSoftmax", axis=1)),
    "Softmax as logits": ("onnx", after("logits", "Softmax", axis=1)),
    "Identity": ("onnx", after("logits", "Identity")),
    "Dropout": ("onnx", after("logits", "Dropout")),
    "probabilities over the batch": ("pixels", attribute("softmax", "axis", 0)),
    "probabilities permuted": ("pixels", after("probabilities", "Gather", np.arange(9, -1, -1), axis=1)),
    "outputs swapped": ("pixels", swapped_outputs),
    "the second output gone": ("pixels", lambda m: m.graph.output.pop()),
    "an input renamed": ("onnx", renamed("input", 0, "pixels")),
    "an output renamed": ("onnx", renamed("output", 0, "scores")),
    "a node renamed": ("onnx", lambda m: setattr(node(m, CONV), "name", "other")),
    "a surplus output": ("onnx", lambda m: m.graph.output.append(helper.make_tensor_value_info("conv1", FLOAT, None))),
    "a dead node": ("onnx", lambda m: m.graph.node.append(helper.make_node("Abs", ["logits"], ["unused"]))),
    "a surplus initialiser": ("onnx", lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(4), "x"))),
    "another domain": ("onnx", domain(CONV, "ai.other")),
    "ai.onnx.ml": ("onnx", domain(CONV, "ai.onnx.ml", "Normalizer")),
    "a local function": ("unfolded", local_relu),
    "Clip with bounds of Constant nodes": ("unfolded", clip_of_constants),
    "Clip on codes with an upper bound": ("int8, deeper", lambda m: of("Clip")(m).input.append(of("Clip")(m).input[1])),
    "Clip on codes below another zero point": ("int8, deeper", inputs_of("Clip", 1, lambda m: of("QuantizeLinear")(m).input[2], 0)),
    "another activation's scale": ("int8", inputs_of("QuantizeLinear", 1, another_scale)),
    "another activation's scale, read": ("int8", inputs_of("DequantizeLinear", 1, another_scale, -1)),
    "the axis of a weight's scale": ("int8", lambda m: attribute(f"{CONV}.weight.dequantize", "axis", 1)(m)),
    "an extra pair of codes": ("int8", quarter),
    "one code of one weight": ("int8", tensor(f"{CONV}.weight", lambda w: np.where(np.arange(w.size) == 5, w.flat[5] ^ 1, w.flat))),
    "one scale": ("fp8", tensor(f"{CONV}.weight.scale", one_bit)),
    "every weight one step lower": ("onnx", tensor(f"{CONV}.weight", a_step_lower)),
    "a bias one step lower": ("onnx", tensor("fc.bias", a_step_lower)),
    "bf16 weights one step lower": ("bf16", tensor(f"{CONV}.weight", a_step_lower)),
    "one bit": ("onnx", tensor(f"{CONV}.weight", lambda w: one_bit(w.reshape(-1)))),
    "weights as doubles": ("onnx", tensor(f"{CONV}.weight", lambda w: w.astype(np.float64))),
    "dilated": ("onnx", attribute(CONV, "dilations", [2, 2])),
    "auto_pad": ("onnx", attribute(CONV, "auto_pad", "VALID")),
    "a pool's storage order": ("onnx", attribute("layer1.0.downsample", "storage_order", 1)),
    "ceil in a pool": ("onnx", attribute("layer2.0.downsample.0", "ceil_mode", 1)),
    "an alpha of Gemm": ("onnx", attribute("fc", "alpha", 1.0000001)),
    "an epsilon": ("unfolded", attribute("layer3.1.bn1", "epsilon", 1.1e-5)),
    "a momentum": ("unfolded", attribute("layer3.1.bn1", "momentum", 0.5)),
    "wired past a block": ("unfolded", rewired("layer3.1.add", "layer3.1.relu", "layer3.0.add")),
    "a ReLU gone": ("unfolded", removed("layer3.1.relu_1")),
    "LeakyRelu": ("unfolded", replaced("layer3.1.relu_1", "LeakyRelu", [], alpha=1e-6)),
    "channels turned": ("onnx", before("conv1", 0, ("Gather", [np.array([2, 1, 0])], {"axis": 1}))),
    "channels turned in pixels": ("pixels", before("permute", 0, ("Gather", [np.array([2, 1, 0])], {"axis": 3}))),
    "mirrored": ("onnx", before("conv1", 0, ("Gather", [np.arange(31, -1, -1)], {"axis": 3}))),
    "a cast to half and back": ("onnx", before(CONV, 0, ("Cast", [], {"to": 10}), ("Cast", [], {"to": 1}))),
    "a fixed batch": ("onnx", batch_of(32)),
    "another name of the batch": ("onnx", batch_of("n")),
    "any batch": ("static", batch_of("batch")),
    "another opset": ("onnx", lambda m: setattr(m.opset_import[0], "version", 21)),
    "another ir_version": ("onnx", lambda m: setattr(m, "ir_version", 11)),
    "another producer": ("onnx", lambda m: setattr(m, "producer_name", "pytorch")),
    "a doc string": ("onnx", lambda m: setattr(m.graph, "doc_string", "as shipped")),
    "no metadata": ("onnx", lambda m: m.metadata_props.pop()),
    "metadata twice": ("onnx", twice_metadata),
    "metadata of more": ("onnx", lambda m: helper.set_model_props(m, {"a": "b"})),
    "its spec": ("onnx", told(lambda identity: identity["spec"].update(interpolation="bicubic"))),
    "its precision": ("onnx", told(lambda identity: identity.update(precision="fp16"))),
    "other intermediate shapes": (
        "onnx",
        lambda m: m.graph.value_info.append(helper.make_tensor_value_info("conv1", FLOAT, [1, 1, 1, 1])),
    ),
}

OTHER: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "bytes behind the end": ("onnx", lambda content: content + b"\xfa\xff\x07\x03abc"),
    "TorchScript: a ReLU that ends at 6": ("torchscript", code(r"torch\.relu\(", "torch.relu6(")),
    "TorchScript: clamp_max behind": (
        "torchscript",
        code(r"return (\w+)", r"return torch.clamp_max(\1, 40)"),
    ),
    "TorchScript: rows repeated": (
        "torchscript",
        record_of(
            "folded.py", text(r"return (\w+)", r"return torch.index_select(\1, 0, torch.clamp(torch.arange((\1).size(0)), 0, 31))")
        ),
    ),
    "TorchScript: a backdoor": (
        "torchscript",
        code(r"return (\w+)", r"return torch.where(torch.gt(torch.amin(x), 2.), torch.neg(\1), \1)"),
    ),
    "TorchScript: alpha of an addition": (
        "torchscript",
        code(r"torch\.add\((\w+), (\w+)\)", r"torch.add(\1, \2, alpha=2)"),
    ),
    "TorchScript: no trailing line": ("torchscript", record_of("folded.py", lambda data: data + b"\n")),
    "TorchScript: softmax over the batch": (
        "torchscript pixels",
        code(r"torch\.softmax\((\w+), 1", r"torch.softmax(\1, 0"),
    ),
    "TorchScript: a weight's bit": ("torchscript", record_of("constants/3", lambda data: bytes([data[0] ^ 1]) + data[1:])),
    "TorchScript: its metadata": (
        "torchscript",
        record_of("iresnet-export.json", lambda data: data.replace(b"bilinear", b"nearest")),
    ),
    "TorchScript: a surplus record": ("torchscript", with_record("extra/hidden.txt", b"hidden")),
    "pt2: a weight's bit": ("pt2", record_of("weight_2", lambda data: bytes([data[0] ^ 1]) + data[1:])),
    "pt2: another operator": (
        "pt2",
        record_of("model.json", text(r"torch\.ops\.aten\.relu\.default", "torch.ops.aten.relu6.default")),
    ),
    "pt2: a stride": ("pt2", record_of("model.json", text(r'"as_ints": ?\[2, 2\]', '"as_ints": [1, 1]'))),
    "pt2: softmax over the batch": (
        "pt2 pixels",
        record_of("model.json", lambda data: _softmax_axis(data)),
    ),
    "pt2: its metadata": ("pt2", record_of("iresnet-export.json", lambda data: data.replace(b"bilinear", b"nearest"))),
    "pt2: a surplus record": ("pt2", with_record("extra/hidden.so", b"\x7fELF")),
}


def _softmax_axis(data: bytes) -> bytes:
    found = json.loads(data)
    calls = found["graph_module"]["graph"]["nodes"]
    call = next(call for call in calls if "softmax" in call["target"])
    next(entry for entry in call["inputs"] if entry["name"] == "dim")["arg"]["as_int"] = 0
    return json.dumps(found).encode()


def field(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path
        for name in parents:
            document = document[name]
        document[last] = value(document[last]) if callable(value) else value

    return change


def operators(change: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[dict[str, Any]], None]:
    """Of the graph that ONNX Runtime made."""
    return field("details", "optimised_operators", value=change)


MANIFESTS: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "a batch range": ("onnx", field("batch", value=[1, 32])),
    "a fixed batch": ("onnx", field("batch", value=[32, 32])),
    "any batch": ("static", field("batch", value=None)),
    "another batch": ("static", field("batch", value=[4, 4])),
    "the resize": ("onnx", field("spec", "resize", value=40)),
    "the interpolation": ("onnx", field("spec", "interpolation", value="bicubic")),
    "the mean": ("onnx", field("spec", "mean", value=[0.5, 0.5, 0.5])),
    "labels permuted": ("onnx", field("spec", "labels", value=lambda found: found[::-1] if found else ["a"] * 10)),
    "the image size": ("onnx", lambda m: m["spec"].update(image_size=64, resize=73)),
    "the opset": ("onnx", field("details", "settings", "opset", value=21)),
    "an opset that is none": ("onnx", field("details", "settings", "opset", value=0)),
    "the fold": ("onnx", field("fold", value=False)),
    "a fold that was not made": ("unfolded", field("fold", value=True)),
    "the precision": ("onnx", field("precision", value="bf16")),
    "preprocessing": ("onnx", field("with_preprocessing", value=True)),
    "no preprocessing": ("pixels", field("with_preprocessing", value=False)),
    "the size in bytes": ("onnx", field("size_bytes", value=lambda size: size + 1)),
    "another kind of weights": ("onnx", lambda m: m["weights"].update(kind="untrained", seed=3)),
    "a seed": ("onnx", field("weights", "seed", value=3)),
    "that its weights are an average": ("onnx", field("weights", "which", value="average")),
    "that its weights are one of two": ("onnx", field("weights", "which", value="raw")),
    "a parent": ("onnx", field("parent", value={"file": "small.pt", "sha256": "0" * 64})),
    "shares of precisions": ("onnx", field("details", "multiply_accumulates", value={"fp32": 0.5, "int8": 0.5})),
    "what the fold is exact for": ("onnx", field("details", "fold", "exactness", value="Exact for every input, and more.")),
    "that the fold is exact everywhere": ("onnx", field("details", "fold", "exact_everywhere", value=False)),
    "the fold's tau": ("onnx", field("details", "fold", "plan", "tau", value=8.0)),
    "the fold's images": ("onnx", field("details", "fold", "proof", "images", value=640)),
    "what the fold's images are": ("onnx", field("details", "fold", "proof", "image_source", value="64 training images of photos")),
    "a proof beyond the limit": ("onnx", field("details", "fold", "proof", "error_ratio", value=3.0)),
    "a proof in half precision": ("onnx", field("details", "fold", "proof", "own_precision", value=1.0)),
    "the calibrator": ("int8", field("details", "settings", "calibrator", value="entropy")),
    "the calibrator, of the codes": ("int8", field("details", "quantization", "calibrator", value="entropy")),
    "the calibration data": ("int8", field("details", "settings", "calibration_data", value="photos")),
    "the calibration images": ("int8", field("details", "settings", "calibration_images", value=32)),
    "how many images calibrated": ("int8", field("details", "quantization", "images", value=512)),
    "that it is equalized": ("int8", field("details", "quantization", "equalized", value=lambda found: not found)),
    "whose codes a layer reads": (
        "int8",
        field("details", "quantization", "inputs", "layer1.0.conv2", value=lambda found: "input" if found != "input" else "conv1"),
    ),
    "the predicted signal to noise": ("int8", field("details", "quantization", "predicted_sqnr_db", value=60.0)),
    "the predicted agreement": ("int8", field("details", "quantization", "predicted_agreement", value=0.5)),
    "a better trial that was not kept": ("int8", lambda m: _of_another_trial("sqnr_db", 90.0)(m)),
    "a trial twice": ("int8", lambda m: m["details"]["quantization"]["tried"].append(m["details"]["quantization"]["tried"][0])),
    "a trial that was not asked for": (
        "int8 minmax",
        lambda m: m["details"]["quantization"]["tried"].append(
            m["details"]["quantization"]["tried"][-1] | {"calibrator": "entropy", "sqnr_db": -1.0}
        ),
    ),
    "a trial left out": ("int8 minmax", lambda m: m["details"]["quantization"]["tried"].pop(0)),
    "a trial's share that is none": ("int8", lambda m: _of_another_trial("agreement", 0.123)(m)),
    "a runtime that computes in float": ("int8", field("details", "optimised_operators", value={"Conv": 20})),
    "a runtime that leaves convolutions out": (
        "int8",
        field("details", "optimised_operators", value=lambda found: found | {"QLinearConv": 19}),
    ),
    "scales of a stream that is not equalized": (
        "int8",
        field(
            "details", "fold", "plan", "scales", value=lambda found: [[1.0] * 64, *found[1:]] if found[0] is None else [None] * 4
        ),
    ),
    "a correction by few images": (
        "int8 pixels of few",
        lambda m: m["details"]["quantization"]["tried"].append(m["details"]["quantization"]["tried"][-1] | {"corrected": True}),
    ),
    "a range of batches": ("torchscript", field("batch", value=[1, 1])),
    "no trials": ("int8", field("details", "quantization", "tried", value=[])),
    "trials over other images": (
        "int8",
        lambda m: [trial.update(images=trial["images"] - 1) for trial in m["details"]["quantization"]["tried"]],
    ),
    "a share of images that is none": ("int8", field("details", "quantization", "predicted_agreement", value=0.987)),
    "a correction of a bias": ("int8", lambda m: _corrections(m)[CONV].__setitem__(5, _corrections(m)[CONV][5] + 1)),
    "a layer's corrections left out": ("int8", lambda m: _corrections(m).pop(CONV)),
    "too few corrections": ("int8", lambda m: _corrections(m)[CONV].pop()),
    "corrections of none": ("int8", lambda m: _corrections(m).update({"layer2.9.conv1": [1]})),
    "corrections of nothing": ("int8", lambda m: _corrections(m).update({"layer1.0.conv1": [0] * 64})),
    "that biases were corrected": ("int8", lambda m: m["details"]["quantization"]["tried"][-1].update(corrected=False)),
    "a place that is kept": ("int8 kept", lambda m: m["details"]["quantization"]["kept"].append("classifier")),
    "a place that is not kept": ("int8 kept", lambda m: m["details"]["quantization"]["kept"].remove("layer4.0")),
    "a place that there is not": ("int8 kept", lambda m: m["details"]["quantization"]["kept"].append("layer9.0")),
    "another order of places": ("int8 kept", lambda m: m["details"]["quantization"]["kept"].reverse()),
    "layers in float32": ("int8 kept", lambda m: m["details"]["quantization"]["floating"].pop()),
    "places that were not asked for": ("int8 kept", field("details", "settings", "keep_float", value=["layer3"])),
    "that no signal to noise was asked for": ("int8 kept", field("details", "settings", "min_sqnr", value=None)),
    "more signal to noise than there is": ("int8 kept", field("details", "settings", "min_sqnr", value=90.0)),
    "no steps": ("int8 kept", field("details", "quantization", "steps", value=[])),
    "a step to another place": ("int8 kept", lambda m: m["details"]["quantization"]["steps"][-1].update(place="classifier")),
    "a step too many": (
        "int8 kept",
        lambda m: m["details"]["quantization"]["steps"].append(m["details"]["quantization"]["steps"][-1]),
    ),
    "steps where nothing was asked for": (
        "int8 minmax",
        field("details", "quantization", "steps", value=[{"place": "", "sqnr_db": 20.0, "milliseconds": None}]),
    ),
    "a signal to noise asked for": ("int8 minmax", field("details", "settings", "min_sqnr", value=99.0)),
    "a place asked for": ("int8 minmax", field("details", "settings", "keep_float", value=["layer1"])),
    "a runtime that keeps more in float": (
        "int8 kept",
        field("details", "optimised_operators", value=lambda found: found | {"Conv": found["Conv"] + 9}),
    ),
    "a runtime that keeps nothing in float": (
        "int8 kept",
        field(
            "details", "optimised_operators", value=lambda found: {k: n for k, n in found.items() if k not in ("Conv", "FusedConv")}
        ),
    ),
    "a runtime that keeps twice as much in float": (
        "int8 kept",
        operators(lambda found: found | {"FusedConv": found["Conv"]}),
    ),
    "a runtime that multiplies in float": (
        "int8",
        field("details", "optimised_operators", value=lambda found: found | {"MatMul": 7}),
    ),
    "a signal to noise that cannot be asked for": ("int8 kept", field("details", "settings", "min_sqnr", value=-1.0)),
    "a signal to noise that was there": ("int8 kept", field("details", "settings", "min_sqnr", value=1.0)),
    "a step to no place": (
        "int8 kept",
        lambda m: m["details"]["quantization"]["steps"].insert(1, m["details"]["quantization"]["steps"][0] | {"place": "nowhere"}),
    ),
    "a step to a whole stage": (
        "int8 kept",
        lambda m: m["details"]["quantization"]["steps"].insert(1, m["details"]["quantization"]["steps"][0] | {"place": "layer4"}),
    ),
    "steps that led nowhere": ("int8 kept", lambda m: m["details"]["quantization"]["steps"][-1].update(sqnr_db=2.0)),
    "steps that were not timed": ("int8 kept", lambda m: m["details"]["quantization"]["steps"][0].pop("milliseconds")),
    "a place asked for twice": ("int8 kept", field("details", "settings", "keep_float", value=["layer4", "layer4"])),
    "a drop that is not shown": ("int8 of an accuracy", field("details", "settings", "max_accuracy_drop", value=0.7)),
    "no drop": ("int8 of an accuracy", field("details", "settings", "max_accuracy_drop", value=None)),
    "no accuracy": ("int8 of an accuracy", field("details", "quantization", "top1", value=None)),
    "another's images": (
        "int8 of an accuracy",
        field("details", "quantization", "top1", "image_source", value="500 held-out images of zoo"),
    ),
    "more images": ("int8 of an accuracy", field("details", "quantization", "top1", "images", value=600)),
    "fewer images": ("int8 of an accuracy", field("details", "quantization", "top1", "images", value=499)),
    "an accuracy that was not asked for": (
        "int8 kept",
        field(
            "details",
            "quantization",
            "top1",
            value={"images": 500, "image_source": "500 held-out images of digits", "right": 400, "lost": 0, "gained": 0},
        ),
    ),
    "a range": ("int8", lambda m: field("details", "quantization", "ranges", value=_wider)(m)),
}


def _corrections(manifest: dict[str, Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = manifest["details"]["quantization"]["bias_corrections"]
    return found


def _of_another_trial(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        codes = manifest["details"]["quantization"]
        chosen = codes["calibrator"], codes["equalized"]
        next(trial for trial in codes["tried"] if (trial["calibrator"], trial["equalized"]) != chosen)[name] = value

    return change


def _predicted(name: str, value: float) -> Callable[[dict[str, Any]], None]:
    """In the prediction, and in the trial that it comes from."""

    def change(manifest: dict[str, Any]) -> None:
        codes = manifest["details"]["quantization"]
        codes[f"predicted_{name}"] = value
        chosen = codes["calibrator"], codes["equalized"], bool(codes["bias_corrections"])
        for trial in codes["tried"]:
            if (trial["calibrator"], trial["equalized"], trial["corrected"]) == chosen:
                trial[name] = value

    return change


MEASURED: dict[str, tuple[str, Callable[[dict[str, Any]], None]]] = {
    "what keeping a place gave": ("int8 kept", lambda m: m["details"]["quantization"]["steps"][1].update(sqnr_db=24.4)),
    "the predicted signal to noise": ("int8", _predicted("sqnr_db", 60.0)),
    "the interval of that": ("int8", field("details", "quantization", "predicted_interval_db", value=9.0)),
    "no interval at all": ("int8", field("details", "quantization", "predicted_interval_db", value=0.0)),
    "a trial that was not kept": ("int8", _of_another_trial("sqnr_db", 3.0)),
    "images that were asked for": ("int8", field("details", "settings", "calibration_images", value=80)),
    "the fold's proof": ("onnx", field("details", "fold", "proof", "error_ratio", value=0.1)),
    "less than was asked for": ("int8 kept", field("details", "settings", "min_sqnr", value=23.0)),
    "what keeping no place would give": ("int8 kept", lambda m: m["details"]["quantization"]["steps"][0].update(sqnr_db=17.0)),
    "what is lost": (
        "int8 of an accuracy",
        lambda m: m["details"]["quantization"]["top1"].update(right=400, lost=0, gained=0),
    ),
    "a little of what is lost": (
        "int8 of an accuracy",
        lambda m: m["details"]["quantization"]["top1"].update(
            lost=m["details"]["quantization"]["top1"]["lost"] - 2, gained=m["details"]["quantization"]["top1"]["gained"] + 2
        ),
    ),
    "what a runtime makes of it": ("int8", field("details", "optimised_operators", value=lambda found: found | {"QGemm": 2})),
}
"""Whatever rebuilds the file does not show these."""


def of_few_exports(cases: dict[str, tuple[str, Any]], every: int) -> list[Any]:
    """The first of every so many cases of a few exports as they are, the others marked slow: each export takes seconds."""
    few = [name for name, (kind, _) in cases.items() if kind in ("onnx", "int8", "torchscript", "pt2")]
    return [name if name in few[::every] else pytest.param(name, marks=pytest.mark.slow) for name in cases]


def _wider(ranges: dict[str, list[float]]) -> dict[str, list[float]]:
    name = next(iter(ranges))
    return {**ranges, name: [2 * end for end in ranges[name]]}


@pytest.mark.parametrize("kind", mostly_slow(EXPORTS, 5))
def test_what_was_exported_is_rebuilt(kind: str, spoiled: Callable[..., Candidate]) -> None:
    found = spoiled(kind, same)
    assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")
    assert found.weights is not None
    assert found.weights.compared > 100_000


@pytest.mark.parametrize("name", of_few_exports(ONNX, 4))
def test_edited_onnx_is_caught(name: str, spoiled: Callable[..., Candidate]) -> None:
    kind, change = ONNX[name]
    found = spoiled(kind, in_onnx(change))
    assert (found.status, bool(found.reason)) == ("fail", True)


@pytest.mark.parametrize("name", of_few_exports(OTHER, 4))
def test_edited_archives_are_caught(name: str, spoiled: Callable[..., Candidate]) -> None:
    kind, change = OTHER[name]
    found = spoiled(kind, change)
    assert (found.status, bool(found.reason)) == ("fail", True)


@pytest.mark.parametrize("name", of_few_exports(MANIFESTS, 4))
def test_edited_manifests_are_caught(name: str, spoiled: Callable[..., Candidate]) -> None:
    kind, change = MANIFESTS[name]
    found = spoiled(kind, same, change)
    assert (found.status, bool(found.reason)) == ("fail", True)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("pt2", field("details", "settings", value={"opset": 20})),
        ("onnx", field("details", "flavour", value="tensorrt-rtx")),
        ("onnx", field("details", "settings", "workspace_mib", value=256)),
        pytest.param("int8 of an accuracy", field("details", "quantization", "top1", "lost", value=501), marks=pytest.mark.slow),
    ],
    ids=["a setting of another format", "something more", "a setting of an engine", "more lost than was right"],
)
def test_what_a_format_does_not_tell_is_damage(
    kind: str, change: Callable[[dict[str, Any]], None], spoiled: Callable[..., Candidate]
) -> None:
    with pytest.raises(ArtifactError, match=r"is damaged: details\.(settings|flavour|quantization: .*top1: images are counted)"):
        spoiled(kind, same, change)


@pytest.mark.parametrize("correction", [2**33, 0.5, None, "1"])
def test_what_corrects_no_code_is_damage(correction: object, spoiled: Callable[..., Candidate]) -> None:
    with pytest.raises(ArtifactError, match=r"is damaged .*bias_corrections\.layer2\.1\.conv1"):
        spoiled("int8", same, lambda m: _corrections(m)[CONV].__setitem__(0, correction))


@pytest.mark.parametrize("name", mostly_slow(MEASURED, 4))
def test_figures_are_measured_again(name: str, spoiled: Callable[..., Candidate]) -> None:
    """`--from-scratch` finds what following from other fields cannot."""
    kind, change = MEASURED[name]
    assert spoiled(kind, same, change).status == "pass"
    found = spoiled(kind, same, change, from_scratch=True)
    assert found.status == "fail"
    assert str(found.reason).startswith("measured again from its data: ")


@pytest.mark.parametrize(
    "kind",
    mostly_slow(["onnx", "int8 pixels of few", "int8 minmax", "int8", "pt2 pixels", "int8 kept", "int8, deeper"], 5),
)
def test_repetition_confirms_and_says_so(kind: str, spoiled: Callable[..., Candidate]) -> None:
    found = spoiled(kind, same, from_scratch=True)
    assert (found.status, found.reason, found.notices) == ("pass", None, (REPEATED,))


def test_what_is_kept_step_by_step_is_timed(unspoiled: Callable[[str], Artifact]) -> None:
    codes = unspoiled("int8 kept").require_intact().details.quantization
    assert codes is not None
    assert len(codes.steps) > 1
    assert all(step.milliseconds is not None and 0.05 < step.milliseconds < 5000 for step in codes.steps)
    assert codes.predicted_sqnr_db >= 27.0


@pytest.mark.slow
def test_corrections_that_were_not_measured_are_found_by_repetition(spoiled: Callable[..., Candidate]) -> None:
    """File and manifest fit each other: one class is made likelier."""
    amount = 50_000

    def corrected(manifest: dict[str, Any]) -> None:
        codes = _corrections(manifest).setdefault("fc", [0] * 10)
        codes[3] += amount

    change = in_onnx(tensor("fc.bias", lambda codes: codes + np.int32(amount) * (np.arange(10) == 3)))
    assert spoiled("int8", change, corrected).status == "pass"
    found = spoiled("int8", change, corrected, from_scratch=True)
    assert (found.status, "with quantization.bias_corrections fc is off on average" in (found.reason or "")) == ("fail", True)


def test_without_effect_repetition_is_refused(spoiled: Callable[..., Candidate]) -> None:
    with pytest.raises(InputError, match=r"--from-scratch .*measured nothing.*leave it out"):
        spoiled("unfolded", same, from_scratch=True)


def test_repetition_needs_the_same_data(spoiled: Callable[..., Candidate]) -> None:
    change = field("details", "settings", "calibration_data", value="photos")
    with pytest.raises(InputError, match=r"measured with images of photos.*--data"):
        spoiled("int8", same, change, from_scratch=True)


def test_damaged_archives_are_not_opened_by_torch(spoiled: Callable[..., Candidate]) -> None:
    """It does not look at checksums, and may crash."""

    def damaged(content: bytes) -> bytes:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]

    found = spoiled("torchscript", damaged)
    assert found.status == "fail"
    assert re.search("not a whole archive of torch.*CRC", str(found.reason))


def test_a_check_that_ends_in_an_error_is_a_failed_check(
    unspoiled: Callable[[str], Artifact], small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that artifact; the others are verified."""

    def fails(*_: object) -> None:
        raise RuntimeError("beyond everything\nand more")

    paths = [unspoiled("onnx").path, unspoiled("torchscript").path]
    monkeypatch.setattr(Onnx, "content", fails)
    first, second = verify(paths, VerifyOptions(checkpoint=small_checkpoint, quick=True)).candidates
    assert (first.status, first.reason) == ("fail", "a check itself ended in an error: RuntimeError: beyond everything")
    assert second.status == "pass"


@pytest.mark.slow
def test_the_difference_is_named(spoiled: Callable[..., Candidate]) -> None:
    """In the network's words where those tell it, else in the file's."""
    place = {
        "ReLU": ("unfolded", in_onnx(removed("layer3.1.relu_1")), r"graph: where the network has relu \d+ \(layer3\.1\)"),
        "storage": ("onnx", in_onnx(ONNX["a pool's storage order"][1]), r"whole file: .*graph node\[\d+\] \(layer1\.0.*attribute"),
        "code": ("torchscript", OTHER["TorchScript: no trailing line"][1], r"whole file: .*record archive/code/.*\.py"),
        "record": ("pt2", OTHER["pt2: a surplus record"][1], r"whole file: .*holds a record 'archive.*hidden\.so'"),
        "bytes": ("onnx", OTHER["bytes behind the end"][1], r"whole file: .*bytes that are no field of ONNX"),
    }
    for kind, change, said in place.values():
        assert re.search(said, str(spoiled(kind, change).reason)), str(spoiled(kind, change).reason)


@pytest.mark.slow
def test_of_other_versions_the_graph_is_compared(
    spoiled: Callable[..., Candidate], unspoiled: Callable[[str], Artifact], small_checkpoint: Path, tmp_path: Path
) -> None:
    """And --quick says that this is less: another torch may write the same network otherwise."""
    old = field("versions", "torch", value="2.0.0")
    found = spoiled("torchscript", OTHER["TorchScript: no trailing line"][1], old)
    assert (found.status, found.coverage) == ("skipped", "graph")
    assert "compared by its graph" in str(found.reason)
    assert spoiled("torchscript", OTHER["TorchScript: a backdoor"][1], old).status == "fail"
    assert spoiled("onnx", in_onnx(backdoor), old).status == "fail"
    assert spoiled("pt2", OTHER["pt2: another operator"][1], old).status == "fail"
    assert spoiled("onnx", same, old).coverage == "whole file", "which bytes prove, whoever wrote them"


@pytest.mark.parametrize(("kind", "value"), [("int8", "layer3.1.relu_1"), ("int8 kept", "layer4.1.relu_1")])
def test_of_other_versions_further_codes_are_seen(kind: str, value: str, spoiled: Callable[..., Candidate]) -> None:
    """By scales that the file has, so that no other activation seems to be quantized; `layer4` is kept in float32."""

    def coded_again(model: Model) -> None:
        scale = next(list(one.input[1:]) for one in model.graph.node if one.op_type == "QuantizeLinear")
        names = [name for name in (f"{value}.dequantized", value) if any(name in one.output for one in model.graph.node)]
        at = next(number for number, one in enumerate(model.graph.node) if names[0] in one.output)
        for one in model.graph.node:
            one.input[:] = ["twice" if name == names[0] else name for name in one.input]
        model.graph.node.insert(at + 1, helper.make_node("DequantizeLinear", ["codes", *scale], ["twice"], name="twice"))
        model.graph.node.insert(at + 1, helper.make_node("QuantizeLinear", [names[0], *scale], ["codes"], name="codes"))

    found = spoiled(kind, in_onnx(coded_again), field("versions", "onnx", value="1.19.0"))
    assert (found.status, found.coverage) == ("fail", "graph")
    assert re.search(r"graph: it turns values to codes or back \d+ times, of the network's \d+", str(found.reason))


@pytest.mark.slow
def test_files_do_not_depend_on_the_process(unspoiled: Callable[[str], Artifact], small_source: Source, tmp_path: Path) -> None:
    """torch numbers the classes that a process has traced: exported twice, a network gives the same file."""
    format, options = EXPORTS["torchscript"]
    again = export_artifact(format, small_source, options, output=tmp_path / "again.ts")
    assert again.path.read_bytes() == unspoiled("torchscript").path.read_bytes()
    assert b"___torch_mangle" not in again.path.read_bytes()
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not before  # which tracing writes into the code
    try:
        other = export_artifact(format, small_source, options, output=tmp_path / "other.ts")
    finally:
        torch.backends.cudnn.benchmark = before
    assert other.path.read_bytes() == again.path.read_bytes()
    assert torch.jit.load(str(again.path))(torch.zeros(5, 3, 32, 32)).shape == (5, 10)


def test_steps_lead_to_the_accuracy_that_was_asked_for() -> None:
    def led(*drops: float | None, limit: float = 1.0) -> bool:
        places = ("", "layer1.0", "layer2.0")
        steps = tuple(Step(place, 20.0, accuracy_drop=drop) for place, drop in zip(places, drops, strict=False))
        codes: Any = SimpleNamespace(steps=steps, target="tensorrt")
        return _are_steps(codes, {"max_accuracy_drop": limit}, {"layer1.0", "layer2.0"})

    assert led(2.0, 1.5, 0.9)
    assert not led(2.0, 1.5, 1.1), "loses more"
    assert not led(0.9, 0.8), "was there before"
    assert not led(None, None), "says nothing of it"
    assert not led(2.0, None), "does not say all of it"
