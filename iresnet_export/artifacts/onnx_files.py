"""ONNX files read as data: within bounds, with numbers from other files only where those lie plainly beside them.

A file may name another one for the numbers of a tensor, by any path. ONNX Runtime and OpenVINO open it themselves, so a file is
read here before either sees it.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx

from iresnet_export.errors import ArtifactError, IResNetError

_FILE_BYTES = 2**31 - 1
"""Protocol buffers have no more; nor has what they are given from other files."""
_MESSAGES = 2_000_000
"""Nodes, attributes, types and the rest: a network of a thousand layers has a hundredth of that."""
_RANK = 64


def read_onnx(path: Path, *, external: bool = True) -> onnx.ModelProto:
    """A parsed ONNX file; ArtifactError if it is not a whole one that takes and gives something.

    Tensors whose numbers lie in files beside it are filled with them; without `external` those files are left alone.
    """
    from google.protobuf.message import DecodeError

    size = path.stat().st_size
    if size > _FILE_BYTES:
        raise ArtifactError(f"{path} has {size:,} bytes, and an ONNX file has at most {_FILE_BYTES:,}: it is none, or damaged.")
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except (DecodeError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is not a whole ONNX file ({error}).", "Export or copy it again.") from error
    if not model.graph.node:
        raise ArtifactError(f"{path} holds an empty ONNX graph; it was cut off or is not ONNX.", "Export or copy it again.")
    _read_tensors(path, model, external)
    if not images_of(model) or not model.graph.output:
        what = "takes no input" if model.graph.output else "gives no output"
        raise ArtifactError(f"{path} holds an ONNX graph that {what}, so it is no classifier.", "Export it again.")
    return model


def images_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """What a graph has to be given: its inputs without those that are weights, which some exporters list among them."""
    stored = {tensor.name for tensor in model.graph.initializer} | {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in stored]


def external_files(model: onnx.ModelProto) -> list[str]:
    """The other files that a file names, which was read without them."""
    named = {
        entry.value
        for message in _messages(model)
        if isinstance(message, onnx.TensorProto) and message.data_location == onnx.TensorProto.EXTERNAL
        for entry in message.external_data
        if entry.key == "location"
    }
    return sorted(named)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Makes ArtifactErrors of what reading a graph raises that is put together in no way that ONNX allows."""
    try:
        yield
    except IResNetError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        raise ArtifactError(
            f"{what} cannot be read back: it is put together in no way that ONNX allows ({type(error).__name__}: {error}).",
            "Export it again.",
        ) from error


def _read_tensors(path: Path, model: onnx.ModelProto, external: bool) -> None:
    """Looks at every part of a model: texts must be texts, and tensors what their shapes and types say."""
    outside = 0
    for count, message in enumerate(_messages(model)):
        if count > _MESSAGES:
            raise ArtifactError(f"{path} holds an ONNX graph of more than {_MESSAGES:,} parts, which no network has.")
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING and not all(
                isinstance(text, str) for text in ([value] if isinstance(value, str | bytes) else value)
            ):
                raise ArtifactError(f"{path} is not a whole ONNX file: a name in it is no text.", "Export or copy it again.")
        if not isinstance(message, onnx.TensorProto):
            continue
        name = repr(message.name[:80])
        try:
            if message.data_location == onnx.TensorProto.EXTERNAL:
                outside += _bytes_of(message)
                if outside > _FILE_BYTES:
                    raise ValueError(f"its numbers in other files would take more than {_FILE_BYTES:,} bytes")
                if external:
                    _fill(path, message)
            else:
                onnx.numpy_helper.to_array(message)
        except OSError as error:
            raise ArtifactError(
                f"{path} is not whole: the numbers of {name} cannot be read ({error}).", "Copy it again."
            ) from error
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ArtifactError(f"{path} is not a whole ONNX file: {name} cannot be read ({error}).", "Copy it again.") from error


def _messages(message: Any) -> Iterator[Any]:
    """A message and all within it; protocol buffers bound how deep they lie."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(inner)


def _bytes_of(tensor: onnx.TensorProto) -> int:
    """What a tensor's numbers take, by its shape and type; ValueError or TypeError where those are none."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if len(tensor.dims) > _RANK or any(extent < 0 for extent in tensor.dims):
        raise ValueError("its shape is none")
    halves = onnx.TensorProto.DataType.Name(tensor.data_type)
    bits = 4 if halves in ("UINT4", "INT4", "FLOAT4E2M1") else 2 if halves in ("UINT2", "INT2") else 8 * kind.itemsize
    if kind.hasobject:
        raise ValueError("texts cannot lie in another file")
    return (math.prod(tensor.dims) * bits + 7) // 8


def _fill(path: Path, tensor: onnx.TensorProto) -> None:
    """Gives a tensor its numbers from the file beside `path` that it names."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    needed = _bytes_of(tensor)
    offset, length = (_whole_number(told.get(key, default)) for key, default in (("offset", "0"), ("length", str(needed))))
    if length != needed:
        raise ValueError(f"it takes {needed:,} bytes, and {length:,} are named")
    descriptor = _open_beside(path.parent, told.get("location", ""))
    with os.fdopen(descriptor, "rb") as file:
        there = os.fstat(descriptor).st_size
        if offset + length > there:
            raise ValueError(f"it ends at byte {offset + length:,} of a file of {there:,}")
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _whole_number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ValueError(f"{text[:40]!r} is no place in a file")
    return int(text)


def _open_beside(folder: Path, location: str) -> int:
    """A descriptor of a plain file in a folder or below it. Links are not followed, and what has no end is not waited for."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    parts = windows.parts if os.name == "nt" else posix.parts
    if not location or "\0" in location or posix.is_absolute() or windows.anchor or ".." in (*posix.parts, *windows.parts):
        raise ValueError(f"they are said to lie in {location[:80]!r}, and may lie beside the file alone")
    at = folder
    for part in parts:
        at = at / part
        if at.is_symlink():
            raise ValueError(f"they are said to lie in {location[:80]!r}, which is a link; put the file itself there")
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:
        descriptor = os.open(at, flags)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise ValueError(f"they lie in {location[:80]!r}, which is not there; copy it too") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"they are said to lie in {location[:80]!r}, which is no plain file")
    return descriptor
