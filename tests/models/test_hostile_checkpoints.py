"""Checkpoints that would run, hang, crash or take all memory; files of another recipe; and harmless things beside weights."""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import struct
import tracemalloc
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from support import with_many_records
from torch import Tensor

from iresnet_models import ModelSpec, load_checkpoint, save_checkpoint
from iresnet_models.errors import CheckpointError, InputError
from iresnet_models.files import require_file
from iresnet_models.initialization import untrained_network
from iresnet_models.layouts import FORMAT

State = dict[str, Tensor]
KEY = "layer1.0.conv1.weight"
SPEC = ModelSpec("iresnet", 18, num_classes=3, image_size=32, resize=32)


@pytest.fixture(scope="module")
def state() -> State:
    return untrained_network(SPEC).state_dict()


@pytest.fixture(scope="module")
def archive(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "base.pt"
    torch.save(state, path)
    return path


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value: value.to_sparse(), r"layer1\.0\.conv1\.weight holds a sparse tensor"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "a quantized tensor"),
        (lambda value: value.to("meta"), "device meta"),
        (lambda _: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]), "_rebuild_nested_tensor"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to(torch.int32), "int32"),
        (lambda value: torch.zeros(1).expand(value.shape), r"torch\.expand"),
        (lambda _: torch.zeros(1).expand(10**6, 10**6), "is 1000000x1000000"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, that nested tensors are a prototype and quantized ones go
def test_tensors_that_are_no_weights(spoil: Callable[[Tensor], Tensor], message: str, state: State, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved(tmp_path / "a.pt", {**state, KEY: spoil(state[KEY])}))


def test_a_classifier_of_a_million_classes_takes_no_memory(state: State, tmp_path: Path) -> None:
    bomb = {**state, "fc.weight": torch.zeros(1).expand(10**6, 512), "fc.bias": torch.zeros(1).expand(10**6)}
    with pytest.raises(CheckpointError, match="num_classes"):
        load_checkpoint(saved(tmp_path / "a.pt", bomb))
    everything = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}
    with pytest.raises(CheckpointError, match="tensors say that they hold more"):
        load_checkpoint(saved(tmp_path / "a.pt", everything))


def harmless() -> argparse.Namespace:
    return argparse.Namespace(
        lr=0.1,
        path=pathlib.PurePosixPath("/data"),
        when=datetime.datetime(2026, 1, 1),
        took=datetime.timedelta(hours=1),
        device=torch.device("cpu"),
        dtype=torch.float32,
        size=torch.Size([1]),
        names={"a"},
        by_name=collections.defaultdict(list, {"a": [1]}),
        last=collections.deque([1, 2]),
        more=types.SimpleNamespace(a=1),
        array=np.zeros(3),
        flag=np.bool_(True),
        version=torch.torch_version.TorchVersion("2.0"),
    )


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("script", ["torchvision", "timm"])
def test_what_training_scripts_save_beside_the_weights_is_read_past(script: str, new: bool, state: State, tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    theirs = {
        "torchvision": {
            "model": state,
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": schedule.state_dict(),
            "args": harmless(),
            "epoch": 3,
            "scaler": {"scale": 65536.0},
        },
        "timm": {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": collections.OrderedDict(state),
            "optimizer": optimizer.state_dict(),
            "version": 2,
            "args": harmless(),
            "amp_scaler": {"scale": 1.0},
            "state_dict_ema": state,
            "metric": np.float64(77.1),
        },
    }[script]
    checkpoint = load_checkpoint(saved(tmp_path / "theirs.pth", theirs, _use_new_zipfile_serialization=new))
    assert checkpoint.spec.name == "iresnet18"
    assert torch.equal(checkpoint.model.fc.weight, state["fc.weight"])
    assert "args" not in checkpoint.details
    assert "metric" not in checkpoint.details


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Calls(getattr, "abc", "upper"), r"builtins\.getattr"),
        (Calls(os.system, "touch was-run"), r"(posix|nt)\.system"),
        (Calls(eval, "1"), r"builtins\.eval"),
        (Calls(np.load, "x"), r"numpy\.(lib\.\w+\.)?load"),
        (Calls(bytearray, 10**11), "bytearray"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_really_refused_is_named(content: Any, name: str, protocol: int, state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "evil.pt", {"state_dict": state, "args": content}, pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps({"state_dict": content}, protocol))
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(path)
    assert not list(Path().glob("was-run"))


def test_a_whole_network_is_named_as_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a whole network as a pickle.*torchvision\.models\.resnet\.ResNet.*state_dict"):
        load_checkpoint(saved(tmp_path / "module.pt", torchvision.models.resnet18()))


def repacked(archive: Path, path: Path, edit: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED) -> Path:
    """The archive with each record passed through `edit`; None leaves it out."""
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(path, "w", compression) as after:
        for name in before.namelist():
            data = edit(name, before.read(name))
            if data is not None:
                after.writestr(name, data)
    return path


DEEP = 200_000
ENCODED = b"X\x06\x00\x00\x00latin1\x86R"
PICKLES = {
    "nested lists": b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * DEEP + b".",
    "a nested key, whose hash would end the process": b"\x80\x02})" + b"\x85" * DEEP + b"K\x01s.",
    "a codec that doubles": b"\x80\x02"
    + b"c_codecs\nencode\n" * 40
    + b"X\x02\x00\x00\x00ab"
    + ENCODED
    + b"X\x03\x00\x00\x00hex\x86R" * 39
    + b".",
    "copies of a long list": b"\x80\x02]q\x01(" + b"K\x01" * 100_000 + b"e0](" + b"ctorch\nSize\nh\x01\x85R" * 5_000 + b"e.",
    "no end": b"\x80\x02](K\x01",
    "an empty stack": b"\x80\x02\x85.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_take_all_stack_or_memory(name: str, archive: Path, tmp_path: Path) -> None:
    path = repacked(archive, tmp_path / "a.pt", lambda record, data: PICKLES[name] if record.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load_checkpoint(path)


def test_records_that_are_not_what_the_pickle_says(archive: Path, tmp_path: Path) -> None:
    def edited(place: str, edit: Callable[[bytes], bytes | None]) -> Callable[[str, bytes], bytes | None]:
        return lambda name, data: edit(data) if name.endswith(place) else data

    for edit in (edited("data/0", lambda data: data[:10]), edited("data/0", lambda _: None), edited("data.pkl", lambda d: d[:300])):
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(repacked(archive, tmp_path / "a.pt", edit))
    bomb = repacked(archive, tmp_path / "a.pt", edited("data/0", lambda _: bytes(10**7)), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed records"):
        load_checkpoint(bomb)


@pytest.mark.parametrize("length", [b"J\x00\x00\x00\x7f", b"J\xff\xff\xff\xff"], ids=["too long", "negative"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_storage_that_lies_about_its_length_is_read_no_further_than_the_file(
    new: bool, length: bytes, state: State, tmp_path: Path
) -> None:
    """torch believes the pickle: it would read past the record's memory."""
    last = {"fc.weight": state["fc.weight"]}
    numel = b"M" + struct.pack("<H", state["fc.weight"].numel())
    path = saved(tmp_path / "a.pt", last, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    assert numel in data
    path.write_bytes(data.replace(numel, length, 1))
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load_checkpoint(path)


END, END64, LOCATOR, ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
DIRECTORY: dict[tuple[bytes, int], str | None] = {
    (END, 0): "without its end",
    (END64, 0): "BadZipFile",
    (END64, 32): "truncated or damaged",
    (END64, 40): "BadZipFile",
    (END64, 44): "list of records of",
    (LOCATOR, 12): "truncated or damaged",
    (ENTRY, 8): "encrypted",
    (ENTRY, 10): "compressed in an unusual way",
    (ENTRY, 20): "two sizes",
    (ENTRY, 42): "truncated or damaged",
    (ENTRY, 12): None,  # the time of writing, which is of no account
    (END, 20): None,  # the length of a comment
}


@pytest.mark.parametrize(("signature", "offset"), DIRECTORY)
def test_damaged_directories(signature: bytes, offset: int, state: State, archive: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "a.pt", bytearray(archive.read_bytes())
    data[data.rindex(signature) + offset] ^= 0xFF
    path.write_bytes(data)
    says = DIRECTORY[signature, offset]
    if says is None:
        assert torch.equal(load_checkpoint(path).model.state_dict()[KEY], state[KEY])
        return
    with pytest.raises(CheckpointError, match=says) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.reason
    assert caught.value.remedy


def test_a_directory_beyond_all_bounds_is_not_parsed(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(with_many_records(archive.read_bytes()))
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *_args, **_more: pytest.fail("it was parsed"))
    with pytest.raises(CheckpointError, match="list of records of 9,200,000 bytes"):
        load_checkpoint(path)


def zipped(**files: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
    return made.getvalue()


FOREIGN = {
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "Keras": zipped(config__json=b"{}", model__weights__h5=b"x"),
    "NumPy": zipped(a__npy=b"x"),
    "ONNX": b"\x08\x08\x12\x07pytorch" + bytes(20),
    "gzip": b"\x1f\x8b" + bytes(30),
    "text file": b"hello",
    "other files": zipped(a__txt=b"x"),
    "TensorFlow Lite": b"\x1c\x00\x00\x00TFL3" + bytes(20),
    "plain pickle": pickle.dumps({"a": 1}, 2),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_whole_file_of_another_making_is_not_to_be_copied_again(what: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(FOREIGN[what])
    with pytest.raises(CheckpointError, match=rf"{what}.*will not help") as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert "again." not in str(caught.value)


def test_a_page_in_place_of_a_file_is_to_be_downloaded(tmp_path: Path) -> None:
    for content in (b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="Download the file itself"):
            load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", "pipe:touch was-run; false"),
        ("std", [0.0, 1.0, 1.0]),
        ("std", torch.ones(3)),
        ("resize", 1_000_000),
        ("labels", ["\ud800", "b", "c"]),
        ("num_classes", True),
        ("depth", 2**70),
        ("dropout", float("nan")),
        ("mean", [[[0.0]]]),
    ],
)
def test_a_spec_with_a_field_of_the_wrong_kind_is_refused_by_its_name(
    field: str, value: object, state: State, tmp_path: Path
) -> None:
    content = {"format": FORMAT, "spec": {**SPEC.to_json(), field: value}, "state_dict": state}
    with pytest.raises(CheckpointError, match=f"damaged description.*{field}"):
        load_checkpoint(saved(tmp_path / "a.pt", content))
    assert not list(Path().glob("was-run"))


def test_the_network_holds_nothing_of_the_file(state: State, tmp_path: Path) -> None:
    """Else a file that is written over would change the network, or end the process."""
    save_checkpoint(tmp_path / "a.pt", untrained_network(SPEC))
    model = load_checkpoint(tmp_path / "a.pt").model
    before = model.fc.weight.detach().clone()
    with (tmp_path / "a.pt").open("r+b") as file:
        file.write(bytes((tmp_path / "a.pt").stat().st_size))
    assert torch.equal(model.fc.weight, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "pipe.pt")
    for path in (tmp_path / "pipe.pt", tmp_path / "link.pt", Path("/dev/zero")):
        with pytest.raises(InputError, match="no regular file"):
            load_checkpoint(path)
    with pytest.raises(InputError, match="zero byte"):
        require_file(Path("a\0b"), "The file")
    with pytest.raises(InputError, match="cannot be opened"):
        require_file(Path("a" * 5000), "The file")


@pytest.mark.parametrize(
    ("opcode", "size"),
    [
        (pickle.BINUNICODE8, struct.pack("<Q", 2**40)),
        (pickle.BINBYTES8, struct.pack("<Q", 2**40)),
        (pickle.BYTEARRAY8, struct.pack("<Q", 2**40)),
        (pickle.BINUNICODE, struct.pack("<I", 2**31 - 1)),
        (pickle.BINSTRING, struct.pack("<i", 2**31 - 1)),
    ],
    ids=["text", "bytes", "bytearray", "short text", "string"],
)
def test_what_is_longer_than_its_file_takes_no_memory(opcode: bytes, size: bytes, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(pickle.PROTO + b"\x04" + opcode + size + b"abc.")
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="but only 4 remain"):
            load_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
