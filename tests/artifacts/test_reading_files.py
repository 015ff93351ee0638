"""Looking at files: nothing in them is loaded, no other file is opened because one says so, and what is damaged is told of."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import random
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Outcome
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from support import with_many_records

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.onnx_files import read_onnx
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.reading import graph_of_onnx
from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime
from iresnet_export.backends.openvino.runtime import imported
from iresnet_export.backends.torchscript.reading import graph_of_script, load_script
from iresnet_export.backends.torchscript.runtime import TorchScriptRuntime
from iresnet_export.errors import ArtifactError, IResNetError
from iresnet_export.exporting import export_artifact
from iresnet_export.inspection import inspect_file
from iresnet_export.verification.verify import VerifyOptions, verify

Run = Callable[..., Outcome]
CPU = torch.device("cpu")


def written(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


def records_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A script of one convolution, which is a few kilobytes."""
    path = tmp_path_factory.mktemp("script") / "one.ts"
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU()).eval()
    torch.jit.save(torch.jit.freeze(torch.jit.trace(module, torch.zeros(1, 3, 2, 2))), str(path))  # type: ignore[no-untyped-call]
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("changed", [False, True])
def test_a_script_read_as_data_is_what_torch_loads(
    changed: bool, artifacts: dict[str, Artifact], small_source: Source, tmp_path: Path
) -> None:
    path = artifacts["torchscript"].path
    if changed:
        options = ExportOptions(precision="fp16", with_preprocessing=True)
        path = export_artifact("torchscript", small_source, options, output=tmp_path / "x.ts").path
    found, module = inspect_file(path), load_script(path, CPU)
    held = [values for layer in graph_of_script(module).weighted for values in layer.tensors.values()]
    assert found.weights == {name: sum(v.size for v in held if str(v.dtype) == name) for name in {str(v.dtype) for v in held}}
    kinds = [node.kind().removeprefix("aten::") for node in module.inlined_graph.nodes() if node.kind().startswith("aten::")]
    assert found.operators == {kind: kinds.count(kind) for kind in kinds}
    assert found.notes["inputs and outputs"] == "unknown without loading it"


def test_looking_at_a_script_loads_nothing(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    """Neither torch's loader nor a pickle's own wishes: it asks for a command here."""

    class Wish:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "made"),)

    records = records_of(script)
    whole = next(name for name in records if name.endswith("/data.pkl"))
    path = written(tmp_path / "wish.ts", records | {whole: pickle.dumps(Wish())})
    monkeypatch.setattr(torch.jit, "load", None)
    monkeypatch.setattr(torch, "load", None)
    outcome = run("inspect", path)
    assert (outcome.status, "16 float32" in outcome.out) == (0, True)
    assert not (tmp_path / "made").exists()
    for command in (("verify", path), ("eval", path, "--data", "digits"), ("bench", path), ("predict", path, tmp_path)):
        assert run(*command).status == 2
    assert not (tmp_path / "made").exists()


def _renamed(name: str) -> Callable[[Path, dict[str, bytes]], object]:
    return lambda path, records: written(path, {**records, name: b"x"})


def _encrypted(path: Path, records: dict[str, bytes]) -> None:
    data = bytearray(written(path, records).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)


def _twice(path: Path, records: dict[str, bytes]) -> None:
    written(path, {**records, "one/code/a.py": b"x", "one/code/b.py": b"x"})
    path.write_bytes(path.read_bytes().replace(b"one/code/b.py", b"one/code/a.py"))


def _overlapping(path: Path, records: dict[str, bytes]) -> None:
    """The first record named again and again in the list, under other names: a small file, and much to read."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/code/x.py", b"0" * 100_000)
        for number in range(20):
            info = zipfile.ZipInfo(f"a/{number}")
            info.header_offset, info.file_size, info.compress_size, info.CRC = 0, 100_000, 100_000, 0
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info


def _bomb(path: Path, records: dict[str, bytes]) -> None:
    """A record that says it is far larger than memory."""
    data = bytearray(written(path, records, zipfile.ZIP_DEFLATED).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(data)


def _many(path: Path, records: dict[str, bytes]) -> None:
    path.write_bytes(with_many_records(written(path, records).read_bytes()))


SPOILT: dict[str, tuple[Callable[[Path, dict[str, bytes]], object], str]] = {
    "climbing": (_renamed("one/../../x"), "leads out of it"),
    "absolute": (_renamed("/etc/x"), "leads out of it"),
    "twice": (_twice, "twice"),
    "encrypted": (_encrypted, "encrypted"),
    "overlapping": (_overlapping, "more bytes than it has"),
    "bomb": (_bomb, "when unpacked"),
    "many": (_many, "list of records of 9,200,000 bytes"),
    "cut off": (lambda path, records: path.write_bytes(written(path, records).read_bytes()[:-30]), "without its end"),
    "lzma": (lambda path, records: written(path, records, zipfile.ZIP_LZMA), "compressed in an unusual way"),
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("suffix", [".ts", ".pt2", ".pt"])
def test_archives_that_lie_are_refused(how: str, suffix: str, script: Path, tmp_path: Path, run: Run) -> None:
    spoil, says = SPOILT[how]
    path = tmp_path / f"spoilt{suffix}"
    spoil(path, records_of(script))
    for command in (("inspect", path), ("verify", path, "--trust"), ("predict", path, tmp_path, "--trust")):
        outcome = run(*command)
        assert (outcome.status, says in outcome.err) == (2, True), outcome.err


def test_a_record_that_unpacks_to_more_than_it_says(script: Path, tmp_path: Path) -> None:
    records = records_of(script)
    code = next(name for name in records if name.endswith(".py"))
    data = bytearray(written(tmp_path / "x.ts", {code: b"0" * 1_000_000}, zipfile.ZIP_DEFLATED).read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    (tmp_path / "x.ts").write_bytes(data)
    with pytest.raises(ArtifactError, match="not a whole archive"):
        inspect_file(tmp_path / "x.ts")


def test_a_damaged_archive_does_not_reach_torch(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch looks at no checksum, and crashes on some damage; with trust alone there is no hash either."""
    data = bytearray(script.read_bytes())
    data[data.index(next(data for name, data in records_of(script).items() if name.endswith("/constants/0"))) + 3] ^= 1
    path = tmp_path / "damaged.ts"
    path.write_bytes(data)
    monkeypatch.setattr(torch.jit, "load", lambda *_args, **_more: pytest.fail("torch saw it"))
    with pytest.raises(ArtifactError, match=r"not a whole archive of torch .*CRC"):
        TorchScriptRuntime().load(open_artifact(path), CPU, trust=True)


SHAPE = b"K\x04K\x03K\x01K\x01t"
"""(4, 3, 1, 1), of the script's weight, as its pickle holds it."""


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda whole: whole.replace(SHAPE, b"K\x04K\x03" + b"\x8a\x09" + b"\xff" * 8 + b"\x00" + b"K\x01t"), "none can have"),
        (lambda whole: whole.replace(SHAPE, b"K\x04J\xff\xff\xff\xffK\x01K\x01t"), "none can have"),
        (lambda whole: whole.replace(SHAPE, b"K\x01" * 65 + b"t"), "none can have"),
        (lambda _: b"\x80\x02" + b"(" * 10 + b"r\xff\xff\xff\xff.", "IndexError"),
        (lambda _: b"garbage", "ValueError"),
    ],
    ids=["beyond 64 bits", "negative", "65 axes", "a memo without end", "no pickle"],
)
def test_shapes_that_none_can_have(spoil: Callable[[bytes], bytes], says: str, script: Path, tmp_path: Path) -> None:
    records = records_of(script)
    whole = next(name for name in records if name.endswith("/constants.pkl"))
    assert records[whole].count(SHAPE) == 1
    with pytest.raises(ArtifactError, match=f"not a whole archive.*{says}"):
        inspect_file(written(tmp_path / "x.ts", records | {whole: spoil(records[whole])}))


def test_constants_that_are_no_tensors_are_no_weights(script: Path, tmp_path: Path) -> None:
    records = records_of(script)
    whole = next(name for name in records if name.endswith("/constants.pkl"))
    assert inspect_file(script).weights == {"float32": 16}
    deep = records | {whole: b"\x80\x02]" + b"\x85" * 200_000 + b"."}
    assert inspect_file(written(tmp_path / "x.ts", deep)).weights == {}
    lacking = {name: data for name, data in records.items() if not name.endswith("/constants/0")}
    with pytest.raises(ArtifactError, match="record of a tensor in it is missing"):
        inspect_file(written(tmp_path / "x.ts", lacking))


def test_what_a_file_says_of_itself_is_typed(script: Path, tmp_path: Path, run: Run) -> None:
    inside = "one/extra/iresnet-export.json"
    for said in (b"[]", b'{"spec": 3}', b'{"spec": {"arch": "iresnet", "depth": 19}}', b"[" * 100_000, b"\xff"):
        outcome = run("inspect", written(tmp_path / "x.ts", {**records_of(script), inside: said}))
        assert (outcome.status, "says of itself is damaged" in outcome.err) == (2, True), outcome.err


def test_texts_for_terminals(artifacts: dict[str, Artifact]) -> None:
    notes = {"hostile": "a\x1b[31mb\ud800\n", "long": "a" * 10**6}
    rows = dict(dataclasses.replace(inspect_file(artifacts["onnx"].path), notes=notes).rows())
    assert rows["hostile"] == "a\\x1b[31mb\\ud800\\n"
    assert len(rows["long"]) == 4001


# -- ONNX ----------------------------------------------------------------------------------------------------------------------


def graph_of(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 32, 32])
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    body = helper.make_graph(nodes, "graph", [taken], [given], tensors or [])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def conv(*inputs: str) -> onnx.NodeProto:
    return helper.make_node("Conv", list(inputs), ["y"], kernel_shape=[1, 1])


WEIGHT = numpy_helper.from_array(np.ones((10, 3, 1, 1), np.float32), "w")


def outside(location: str, **more: object) -> onnx.ModelProto:
    """A graph whose weight lies in another file."""
    model = graph_of([conv("x", "w")], [WEIGHT])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model


def _linked(folder: Path) -> str:
    (folder / "link").symlink_to(folder.parent / "weights")
    return "link"


def _through_a_linked_folder(folder: Path) -> str:
    (folder / "deep").symlink_to(folder.parent)
    return "deep/weights"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


ELSEWHERE: dict[str, tuple[Callable[[Path], str], str]] = {
    "climbing": (lambda _folder: "../weights", "may lie beside the file alone"),
    "absolute": (lambda folder: str(folder.parent / "weights"), "may lie beside the file alone"),
    "drive": (lambda _folder: "C:\\weights", "may lie beside the file alone"),
    "nowhere": (lambda _folder: "", "may lie beside the file alone"),
    "missing": (lambda _folder: "missing", "is not there; copy it too"),
    "linked": (_linked, "which is a link"),
    "linked folder": (_through_a_linked_folder, "which is a link"),
    "pipe": (_pipe, "is no plain file"),
    "folder": (lambda _folder: ".", "cannot be read"),
}


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes as on Unix")
@pytest.mark.parametrize("how", ELSEWHERE)
@pytest.mark.filterwarnings("error")
def test_numbers_from_elsewhere_are_not_read(how: str, tmp_path: Path, small_checkpoint: Path, run: Run) -> None:
    """Neither here nor by a runtime, which opens such files itself."""
    where, says = ELSEWHERE[how]
    (tmp_path / "weights").write_bytes(bytes(120))
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(outside(where(folder)), path)
    for read in (lambda: read_onnx(path), lambda: OnnxRuntime().load(open_artifact(path), CPU)):
        with pytest.raises(ArtifactError, match=says):
            read()
    outcome = run("verify", path, "--checkpoint", small_checkpoint)
    assert (outcome.status, says in " ".join(outcome.err.split() + outcome.out.split())) == (1, True)
    assert run("inspect", path).status == 0  # which opens no other file


def test_numbers_beside_the_file_are_read_within_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    values = np.arange(30, dtype=np.float32)
    (tmp_path / "weights").write_bytes(bytes(8) + values.tobytes())
    onnx.save(outside("weights", offset=8, length=120), path)
    (tensor,) = read_onnx(path).graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).ravel(), values)
    assert "weights (not looked at)" in dict(inspect_file(path).rows())["weights lie in"]
    for wrong in ({"offset": 9}, {"offset": -1}, {"offset": "ten"}, {"length": 10**18}, {"length": 4}, {"offset": 10**30}):
        onnx.save(outside("weights", **wrong), path)
        with pytest.raises(ArtifactError, match="not a whole ONNX file"):
            read_onnx(path)
    huge = outside("weights")
    huge.graph.initializer[0].dims[:] = [10**9, 10**9]
    onnx.save(huge, path)
    with pytest.raises(ArtifactError, match="more than"):
        read_onnx(path)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = graph_of([conv("x", "w")], [WEIGHT])
    change(model)
    return model


def _nested() -> onnx.ModelProto:
    """Ifs within Ifs, as deep as protocol buffers allow."""
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "inner", [], [])
    for _ in range(25):
        node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=onnx.GraphProto())
        body = helper.make_graph([node], "g", [], [])
    return graph_of(list(body.node))


def test_deeper_than_protocol_buffers_allow(tmp_path: Path) -> None:
    def field(number: int, data: bytes) -> bytes:
        length, size = bytearray(), len(data)
        while True:
            length.append(size & 127 | (128 if size > 127 else 0))
            size >>= 7
            if not size:
                return bytes([number << 3 | 2, *length]) + data

    graph = b""
    for _ in range(5_000):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "m.onnx").write_bytes(field(7, graph))
    with pytest.raises(ArtifactError, match="not a whole ONNX file"):
        read_onnx(tmp_path / "m.onnx")


HOSTILE: dict[str, Callable[[], onnx.ModelProto]] = {
    "no inputs": lambda: changed(lambda model: model.graph.ClearField("input")),
    "no outputs": lambda: changed(lambda model: model.graph.ClearField("output")),
    "no nodes": lambda: changed(lambda model: model.graph.ClearField("node")),
    "node without inputs": lambda: changed(lambda model: model.graph.node[0].ClearField("input")),
    "node without outputs": lambda: changed(lambda model: model.graph.node[0].ClearField("output")),
    "unknown type": lambda: changed(lambda model: setattr(model.graph.initializer[0], "data_type", 77)),
    "negative shape": lambda: changed(lambda model: model.graph.initializer[0].dims.__setitem__(0, -10)),
    "huge shape": lambda: changed(lambda model: model.graph.initializer[0].dims.__setitem__(0, 10**18)),
    "cut numbers": lambda: changed(lambda model: setattr(model.graph.initializer[0], "raw_data", b"123")),
    "codes without scale": lambda: graph_of([helper.make_node("DequantizeLinear", [], ["y"])]),
    "texts": lambda: graph_of([conv("x", "w")], [helper.make_tensor("w", TensorProto.STRING, [2], ["a", "b"])]),
    "unknown domain": lambda: graph_of([helper.make_node("Conv", ["x"], ["y"], domain="far.away")]),
    "circle": lambda: graph_of([helper.make_node("Relu", ["y"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]),
    "nested": _nested,
    "wrong attribute": lambda: graph_of([helper.make_node("Conv", ["x", "w"], ["y"], strides="ab", pads=3.0)], [WEIGHT]),
    "doubling": lambda: graph_of(
        [
            helper.make_node("Constant", [], ["n"], value_ints=[2**40, 2**20]),
            helper.make_node("Expand", ["w", "n"], ["v"]),
            conv("x", "v"),
        ],
        [WEIGHT],
    ),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_graphs_are_refused_or_fail(how: str, tmp_path: Path, small_checkpoint: Path, run: Run) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(HOSTILE[how]().SerializeToString())
    told = {
        "no inputs",
        "no outputs",
        "no nodes",
        "unknown type",
        "huge shape",
        "cut numbers",
    }
    assert run("inspect", path).status == (2 if how in told else 0)
    outcome = run("verify", path, "--checkpoint", small_checkpoint, "--images", "2")
    assert outcome.status == 1, outcome.err
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    assert run("predict", path, tmp_path / "a.png", "--checkpoint", small_checkpoint).status == 2


def test_names_that_are_no_text(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "m.onnx"
    model = changed(lambda model: setattr(model.graph.node[0], "name", "abcdefgh"))
    path.write_bytes(model.SerializeToString().replace(b"abcdefgh", b"\xff\xfeabcdef"))
    outcome = run("inspect", path)
    assert (outcome.status, "a name in it is no text" in outcome.err) == (2, True)


def test_a_file_too_large_for_onnx_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ArtifactError, match="an ONNX file has at most"):
        inspect_file(path)


def _as_nodes(model: onnx.ModelProto) -> None:
    """Every weight as a node, some behind an Identity, convolutions' in another order of axes with a Transpose."""
    nodes = []
    for number, tensor in enumerate(model.graph.initializer):
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.ndim == 4:
            turned = numpy_helper.from_array(np.ascontiguousarray(values.transpose(2, 3, 1, 0)), f"{name}.hwio")
            nodes.append(helper.make_node("Constant", [], [f"{name}.hwio"], value=turned))
            nodes.append(helper.make_node("Transpose", [f"{name}.hwio"], [name], perm=[3, 2, 0, 1]))
        elif number % 2:
            nodes.append(helper.make_node("Constant", [], [f"{name}.stored"], value=tensor))
            nodes.append(helper.make_node("Identity", [f"{name}.stored"], [name]))
        else:
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
    nodes += model.graph.node
    model.graph.ClearField("node")
    model.graph.ClearField("initializer")
    model.graph.node.extend(nodes)


def _with_computed_biases(model: onnx.ModelProto) -> None:
    """As torch.onnx writes convolutions without a bias when it does not optimise."""
    nodes = [helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.float32(0)))]
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) == 2:
            name = f"{node.output[0]}.b"
            nodes += [
                helper.make_node("Shape", [node.input[1]], [f"{name}.shape"], start=0, end=1),
                helper.make_node("CastLike", ["zero", node.input[0]], [f"{name}.cast"]),
                helper.make_node("Expand", [f"{name}.cast", f"{name}.shape"], [name]),
            ]
            node.input.append(name)
        nodes.append(node)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    model.graph.ClearField("node")
    model.graph.node.extend(kept)


def _weights_as_inputs(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.input.insert(0, helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


@pytest.mark.parametrize("rewrite", [_as_nodes, _with_computed_biases, _weights_as_inputs])
def test_weights_as_others_write_them(rewrite: Callable[[onnx.ModelProto], None], artifacts: dict[str, Artifact]) -> None:
    """The same layers and operations, number by number."""
    original = onnx.load(artifacts["onnx"].path)
    other = onnx.load(artifacts["onnx"].path)
    rewrite(other)
    for wanted, found in zip(graph_of_onnx(original).weighted, graph_of_onnx(other).weighted, strict=True):
        assert (wanted.kind, wanted.attributes, set(wanted.tensors)) == (found.kind, found.attributes, set(found.tensors))
        for name, values in wanted.tensors.items():
            np.testing.assert_array_equal(values, found.tensors[name])
    assert [node.kind for node in graph_of_onnx(original).nodes] == [node.kind for node in graph_of_onnx(other).nodes]


def test_a_foreign_file_with_computed_constants_is_verified(
    artifacts: dict[str, Artifact], small_checkpoint: Path, tmp_path: Path, shared_references: None
) -> None:
    model = onnx.load(artifacts["onnx"].path)
    _with_computed_biases(model)
    _as_nodes(model)
    onnx.save(model, tmp_path / "foreign.onnx")
    options = VerifyOptions(small_checkpoint, backends=("onnxruntime",), batch_sizes=(1,), images=32)
    (candidate,) = verify([tmp_path / "foreign.onnx"], options).candidates
    assert (candidate.status, candidate.weights is not None and candidate.weights.passed) == ("pass", True), candidate.reason


def test_weights_that_the_graph_changes_are_not_taken_for_equal(artifacts: dict[str, Artifact]) -> None:
    model = onnx.load(artifacts["onnx"].path)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    made = helper.make_node("Mul", [node.input[1], "two"], ["doubled"])
    node.input[1] = "doubled"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    model.graph.node.insert(0, made)
    layers = graph_of_onnx(model).weighted
    assert layers[0].kind == "conv"
    assert "weight" not in layers[0].tensors


@pytest.mark.skipif(sys.platform == "win32", reason="homes as on Unix")
def test_openvino_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    seen: list[str] = []
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("importlib.import_module", lambda name: seen.append(os.environ["HOME"]) or name)
    assert imported() == "openvino"
    assert "HOME" not in os.environ
    assert not Path(seen[0]).exists()


# -- a little fuzzing ----------------------------------------------------------------------------------------------------------


def _mutated(data: bytes, generator: random.Random) -> bytes:
    made = bytearray(data)
    if generator.random() < 0.2:
        return bytes(made[: generator.randrange(1, len(made))])
    for _ in range(generator.choice((1, 2, 8))):
        made[generator.randrange(len(made))] = generator.choice((0, 0x7F, 0x80, 0xFF, generator.randrange(256)))
    return bytes(made)


@pytest.mark.parametrize("kind", ["script", "record", "onnx", "plan"])
def test_mutations_are_read_or_refused(kind: str, script: Path, tmp_path: Path) -> None:
    """Of records too, below checksums that are right."""
    generator, records = random.Random(7), records_of(script)
    originals = {
        "script": script.read_bytes(),
        "onnx": graph_of([conv("x", "w")], [WEIGHT]).SerializeToString(),
        "plan": b"ftrt" + bytes(96),
    }
    suffix = {"onnx": ".onnx", "plan": ".engine"}.get(kind, ".ts")
    path = tmp_path / f"x{suffix}"
    for _ in range(150):
        if kind == "record":
            name = generator.choice([name for name in records if name.endswith((".pkl", ".py"))])
            written(path, records | {name: _mutated(records[name], generator)})
        else:
            path.write_bytes(_mutated(originals[kind], generator))
        try:
            found = inspect_file(path)
        except IResNetError as error:
            assert len(str(error)) < 1500  # noqa: PT017
        else:
            json.dumps(found.to_json())
            assert all(io.StringIO().write(value.encode("utf-8").decode()) >= 0 for _, value in found.rows())
