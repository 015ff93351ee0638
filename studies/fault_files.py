"""Files that were made to do harm, and files that were damaged."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

DEEP = "[" * 100_000 + "]" * 100_000
RAW = "\0RAW:"
"""Before text that stands in a JSON file as it is: what no JSON writer writes."""


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def dumped(value: Any) -> str:
    """JSON with what it must not hold: NaN, lone surrogates, and text after RAW as it is."""
    text = json.dumps(value, ensure_ascii=True)
    parts = text.split('"\\u0000RAW:')
    return parts[0] + "".join(raw + rest for raw, rest in (part.split('"', 1) for part in parts[1:]))


def changed(document: Any, path: str, value: Any) -> Any:
    """A copy with another value at a dotted place; `...` removes it."""
    made = copy.deepcopy(document)
    *way, last = path.split(".")
    place = made
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    key: Any = int(last) if isinstance(place, list) else last
    if value is ...:
        del place[key]
    else:
        place[key] = value
    return made


STRANGE: dict[str, Any] = {
    "missing": ...,
    "null": None,
    "true": True,
    "text": "x",
    "empty": "",
    "number": 7,
    "negative": -1,
    "fraction": 0.5,
    "list": [1, "a", None],
    "object": {"a": {"b": []}},
    "nan": float("nan"),
    "infinity": float("-inf"),
    "overflow": f"{RAW}1e400",
    "huge": f"{RAW}1{'0' * 400}",
    "endless": f"{RAW}1{'0' * 5000}",
    "surrogate": "\ud800",
    "zero byte": "a\0b",
    "escape": "\x1b]0;owned\x07\x1b[2J",
    "nested": RAW + DEEP,
    "absolute": "/etc/hostname",
    "climbing": "../outside/secret.txt",
}
"""Values that stand where something else is expected."""


# Checkpoints -----------------------------------------------------------------------------------------------------------


def saved(content: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer, **how)
    return buffer.getvalue()


def hostile_zip(command: str) -> bytes:
    """A checkpoint of torch's present format whose pickle runs a command."""
    return saved({"state_dict": Payload(command)})


def hostile_legacy(command: str) -> bytes:
    return saved({"state_dict": Payload(command)}, _use_new_zipfile_serialization=False)


def hostile_numpy(command: str) -> bytes:
    return pickle.dumps({"state_dict": Payload(command)})


class Opens:
    """Opens a file to write when it is unpickled."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self._path, "w")


def tensors() -> dict[str, Callable[[torch.Tensor], Any]]:
    """What may lie in a state dict in place of a plain tensor of weights."""

    def expanded(value: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1).expand(1 << 20, 1 << 20)

    return {
        "sparse": lambda value: value.to_sparse(),
        "sparse csr": lambda value: torch.zeros(8, 8).to_sparse_csr(),
        "meta": lambda value: value.to("meta"),
        "quantized": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "per channel": lambda value: torch.quantize_per_channel(torch.zeros(8, 8), torch.ones(8), torch.zeros(8), 0, torch.qint8),
        "complex": lambda value: value.to(torch.complex64),
        "float8": lambda value: value.to(torch.float8_e4m3fn),
        "boolean": lambda value: value.bool(),
        "integers": lambda value: value.int(),
        "NaN": lambda value: torch.full_like(value, float("nan")),
        "float64 beyond float32": lambda value: torch.full_like(value, 1e300, dtype=torch.float64),
        "of terabytes, by strides": expanded,
        "transposed": lambda value: value.transpose(0, 1),
        "empty": lambda value: torch.zeros(0),
        "a scalar": lambda value: torch.tensor(1.0),
        "of many dimensions": lambda value: torch.zeros([1] * 60),
        "no tensor": lambda value: "weights",
        "a nested dict": lambda value: {"a": value},
        "nested tensor": lambda value: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "mkldnn": lambda value: value.to_mkldnn(),
    }


# TorchScript -----------------------------------------------------------------------------------------------------------


class _Writes(torch.nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.from_file(self.path, shared=True, size=16)


class _Loops(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.count, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.count = state[0]
        self.training = state[1]
        while self.count >= 0:
            self.count = 1


def script_that_writes(path: str) -> bytes:
    return _scripted(_Writes(path))


def script_that_loops() -> bytes:
    return _scripted(_Loops())


def _scripted(module: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


# Zip archives ----------------------------------------------------------------------------------------------------------


def rezipped(content: bytes, change: Callable[[str, bytes], bytes | None], add: dict[str, bytes] | None = None) -> bytes:
    """The archive with each entry changed; None leaves one out. Entries keep torch's alignment no longer, which it does not mind."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            made = change(name, old.read(name))
            if made is not None:
                new.writestr(name, made)
        for name, extra in (add or {}).items():
            new.writestr(name, extra)
    return buffer.getvalue()


def zip_bomb(name: str, size: int) -> bytes:
    """An archive whose one entry is `size` bytes of nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w", force_zip64=True) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


def damaged_zips(content: bytes) -> dict[str, bytes]:
    """The same archive, broken where zip files keep what lies where."""
    end = content.rindex(b"PK\x05\x06")
    directory = content.index(b"PK\x01\x02")
    size = int.from_bytes(content[end + 12 : end + 16], "little")

    def patched(at: int, new: bytes) -> bytes:
        return content[:at] + new + content[at + len(new) :]

    return {
        "without its end": content[:end],
        "cut in the middle": content[: len(content) // 2],
        "cut in its directory": content[: (directory + end) // 2],
        "with rubbish behind": content + b"\0" * 70_000,
        "with rubbish before": b"\0" * 777 + content,
        "whose directory lies elsewhere": patched(end + 16, (2**31).to_bytes(4, "little")),
        "whose directory is too long": patched(end + 12, (size * 2).to_bytes(4, "little")),
        "that counts more entries": patched(end + 8, b"\xff\xff\xff\xff"),
        "whose first entry has another offset": patched(directory + 42, (2**31 - 5).to_bytes(4, "little")),
        "whose first entry is of another method": patched(directory + 10, b"\x63\x00"),
        "whose first entry claims another size": patched(directory + 20, b"\xfe\xff\xff\xff\xfe\xff\xff\xff"),
        "whose first entry is encrypted": patched(directory + 8, b"\x01\x00"),
        "whose first name is no text": patched(directory + 46, b"\xff\xfe\x80"),
        "whose first entry needs a later zip": patched(directory + 6, b"\xff\x00"),
        "of zeros behind its head": content[:64] + bytes(len(content) - 64),
    }


# ONNX ------------------------------------------------------------------------------------------------------------------


def hostile_onnx(trap: str = "", url: str = "") -> dict[str, Callable[[bytes], bytes]]:
    """What an ONNX file may hold that no exporter writes, each made of a whole one."""

    def of(change: Callable[[onnx.ModelProto], object]) -> Callable[[bytes], bytes]:
        def made(whole: bytes) -> bytes:
            model = onnx.ModelProto.FromString(whole)
            change(model)
            return model.SerializeToString()

        return made

    def external(location: str, **more: str) -> Callable[[bytes], bytes]:
        def change(model: onnx.ModelProto) -> None:
            tensor = model.graph.initializer[0]
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in {"location": location, **more}.items():
                tensor.external_data.add(key=key, value=value)

        return of(change)

    def first(name: str, value: Any) -> Callable[[onnx.ModelProto], object]:
        return lambda model: setattr(model.graph.initializer[0], name, value)

    def dims(*extents: int) -> Callable[[onnx.ModelProto], object]:
        return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), extents)

    def nested(model: onnx.ModelProto) -> None:
        graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], [helper.make_empty_tensor_value_info("b")])
        for _ in range(60):
            node = helper.make_node("If", ["a"], ["b"], then_branch=graph)
            graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info("b")])
        model.graph.node.append(graph.node[0])

    def metadata(text: str) -> Callable[[onnx.ModelProto], object]:
        def change(model: onnx.ModelProto) -> None:
            for entry in model.metadata_props:
                entry.value = text

        return change

    def spec(**fields: Any) -> Callable[[onnx.ModelProto], object]:
        def change(model: onnx.ModelProto) -> None:
            for entry in model.metadata_props:
                identity = json.loads(entry.value)
                identity["spec"] |= fields
                entry.value = json.dumps(identity)

        return change

    def attribute(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        for entry in node.attribute:
            if entry.name in ("strides", "pads"):
                entry.ints[:] = [2**62, -(2**63)]

    def self_fed(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[0] = model.graph.node[-1].output[0]

    def misnamed(whole: bytes) -> bytes:
        name = onnx.ModelProto.FromString(whole).graph.node[0].name.encode()
        return whole.replace(name, b"\xff" * len(name))

    return {
        "external data that is not there": external("weights.bin"),
        "external data above the folder": external("../outside/secret.txt"),
        "external data at an absolute path": external("/etc/hostname"),
        "external data that is a link": external("link.bin"),
        "external data in a FIFO": external("fifo.bin"),
        "external data in a folder": external("."),
        "external data of another length": external("short.bin", offset="0", length="99999999999999"),
        "external data at a negative offset": external("short.bin", offset="-5", length="-7"),
        "external data at no number": external("short.bin", offset="zwei", length="NaN"),
        "external data without a name": external(""),
        "external data with a zero in the name": external("a\0b"),
        "external data by a URL": external(f"{url}/weights.bin"),
        "no inputs": of(lambda model: model.graph.ClearField("input")),
        "no outputs": of(lambda model: model.graph.ClearField("output")),
        "no nodes": of(lambda model: model.graph.ClearField("node")),
        "no graph": of(lambda model: model.ClearField("graph")),
        "no weights": of(lambda model: model.graph.ClearField("initializer")),
        "no operator set": of(lambda model: model.ClearField("opset_import")),
        "a future operator set": of(lambda model: setattr(model.opset_import[0], "version", 9999)),
        "a negative operator set": of(lambda model: setattr(model.opset_import[0], "version", -1)),
        "an IR version of the future": of(lambda model: setattr(model, "ir_version", 10_000)),
        "two inputs": of(lambda model: model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1]))),
        "an input of unknown type": of(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 99)),
        "an input that is a sequence": of(
            lambda model: model.graph.input[0].type.sequence_type.elem_type.tensor_type.__setattr__("elem_type", 1)
        ),
        "an input without a type": of(lambda model: model.graph.input[0].ClearField("type")),
        "an input of text": of(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)),
        "an input of one dimension": of(lambda model: model.graph.input[0].type.tensor_type.shape.dim.__delitem__(slice(1, None))),
        "an input of no shape": of(lambda model: model.graph.input[0].type.tensor_type.ClearField("shape")),
        "an input of negative size": of(
            lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", -32)
        ),
        "an input of huge size": of(lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 2**40)),
        "weights of unknown type": of(first("data_type", 99)),
        "weights of no type": of(first("data_type", 0)),
        "weights that are text": of(first("data_type", TensorProto.STRING)),
        "weights of another shape": of(dims(3, 3)),
        "weights of negative shape": of(dims(-1, 3, 3, 3)),
        "weights of huge shape": of(dims(2**40, 2**40)),
        "weights of shape zero": of(dims(0)),
        "weights without a name": of(first("name", "")),
        "weights twice": of(lambda model: model.graph.initializer.append(model.graph.initializer[0])),
        "weights that are NaN": of(
            lambda model: model.graph.initializer[0].CopyFrom(
                numpy_helper.from_array(
                    np.full_like(numpy_helper.to_array(model.graph.initializer[0]), np.nan), model.graph.initializer[0].name
                )
            )
        ),
        "weights in parts": of(lambda model: model.graph.initializer[0].segment.__setattr__("end", 5)),
        "sparse weights": of(lambda model: model.graph.sparse_initializer.add()),
        "an unknown operator": of(lambda model: setattr(model.graph.node[0], "op_type", "Nonsense")),
        "an operator without a name": of(lambda model: setattr(model.graph.node[0], "op_type", "")),
        "an operator of a foreign domain": of(lambda model: setattr(model.graph.node[0], "domain", "evil.example")),
        "a node without inputs": of(lambda model: model.graph.node[0].ClearField("input")),
        "a node without outputs": of(lambda model: model.graph.node[0].ClearField("output")),
        "a circle": of(self_fed),
        "attributes beyond bounds": of(attribute),
        "attributes left out": of(lambda model: model.graph.node[0].ClearField("attribute")),
        "graphs sixty deep": of(nested),
        "a function that calls itself": of(
            lambda model: model.functions.append(
                helper.make_function(
                    "d", "f", ["x"], ["y"], [helper.make_node("f", ["x"], ["y"], domain="d")], [helper.make_opsetid("d", 1)]
                )
            )
        ),
        "names that are no text": misnamed,
        "metadata that is no JSON": of(metadata("{")),
        "metadata of a hundred thousand brackets": of(metadata(DEEP)),
        "metadata that is a list": of(metadata("[1]")),
        "metadata that is NaN": of(metadata('{"spec": NaN, "weights_sha256": 5}')),
        "metadata of empty": of(metadata("{}")),
        "metadata whose spec is text": of(metadata('{"spec": "iresnet50", "producer": 7}')),
        "metadata that names a command": of(spec(data=f"pipe:{trap}; false")),
        "metadata that names a URL": of(spec(data=f"{url}/train-0000.tar")),
        "metadata of an unknown network": of(spec(arch="vgg", depth=7)),
        "metadata of a huge image": of(spec(image_size=10**6, resize=10**6)),
        "metadata of text for numbers": of(spec(num_classes="ten", depth="18")),
        "metadata with escapes": of(spec(labels=["\x1b]0;owned\x07"] * 10)),
        "nothing but zeros": lambda whole: bytes(5000),
        "nothing but text": lambda whole: b"<html>404 not found</html>" * 20,
        "the head alone": lambda whole: whole[:100],
        "half of it": lambda whole: whole[: len(whole) // 2],
        "one byte": lambda whole: whole[:1],
    }


def external_companions(folder: Path) -> None:
    """What some of these files name: a link out of the folder, a FIFO, a short file."""
    (folder / "link.bin").symlink_to("../outside/secret.txt")
    os.mkfifo(folder / "fifo.bin")
    (folder / "short.bin").write_bytes(bytes(64))


def fields(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted place of a document, those inside objects too."""
    for key, value in document.items():
        yield prefix + key
        if isinstance(value, dict) and "." not in key and value:
            yield from fields(value, f"{prefix}{key}.")
