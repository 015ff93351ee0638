from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from PIL import Image

from iresnet_data import evaluation_set, shard_index, spec_for, training_set
from iresnet_data import shards as module
from iresnet_data.datasets import LabelledImages
from iresnet_data.shards import Shards, expanded
from iresnet_models import ModelSpec
from iresnet_models.errors import InputError, UnavailableError
from iresnet_train import train

SMALL = {"image_size": 32, "resize": 32}


def write_shards(folder: Path, images: LabelledImages, name: str, count: int) -> None:
    """The images of a folder, dealt to `count` shards."""
    for shard in range(count):
        with tarfile.open(folder / f"{name}-{shard:02}.tar", "w") as archive:
            for index in range(shard, len(images), count):
                content = Path(str(images.images[index])).read_bytes()
                for ending, data in (("png", content), ("cls", str(images.labels[index]).encode())):
                    info = tarfile.TarInfo(f"{index:04}.{ending}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(digit_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    spec = spec_for(str(digit_folder), "iresnet", 18, **SMALL)
    write_shards(folder, training_set(str(digit_folder), spec), "train", 4)
    write_shards(folder, evaluation_set(str(digit_folder), spec), "val", 2)
    return folder


def test_shards_hold_what_the_folder_holds(shards: Path, digit_folder: Path) -> None:
    spec = spec_for(str(shards), "iresnet", 18, **SMALL)
    assert (spec.num_classes, spec.labels) == (3, None)
    for find in (training_set, evaluation_set):
        ours, files = find(str(shards), spec), find(str(digit_folder), spec)
        assert len(ours) == len(files)
        assert sorted(ours.labels) == sorted(files.labels)
        expected = {files[index][0].numpy().tobytes(): files[index][1] for index in range(len(files))}
        assert {ours[index][0].numpy().tobytes(): ours[index][1] for index in range(len(ours))} == expected


def test_names_of_classes_come_from_a_file(shards: Path) -> None:
    (shards / "classes.txt").write_text("zero\none\ntwo\n")
    assert spec_for(str(shards), "iresnet", 18, **SMALL).labels == ("zero", "one", "two")


def test_the_order_is_complete_and_goes_through_few_shards_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "indexed", lambda path: (path, [(f"{at}.jpg", 0, 0, 0) for at in range(10)]))
    for shard in range(20):
        (tmp_path / f"train-{shard:02}.tar").write_bytes(b"")
    order = Shards(str(tmp_path), "train").order(torch.Generator().manual_seed(0))
    assert sorted(order) == list(range(200))
    assert len({index // 10 for index in order[:80]}) == 8
    assert order != Shards(str(tmp_path), "train").order(torch.Generator().manual_seed(1))
    assert order == Shards(str(tmp_path), "train").order(torch.Generator().manual_seed(0))


def test_patterns() -> None:
    assert expanded("a/t-{08..10}.tar") == ["a/t-08.tar", "a/t-09.tar", "a/t-10.tar"]
    assert expanded("{0..1}/{0..1}.tar") == ["0/0.tar", "0/1.tar", "1/0.tar", "1/1.tar"]
    assert expanded("x.tar") == ["x.tar"]
    with pytest.raises(InputError, match="smaller number first"):
        expanded("{3..1}.tar")


def test_shards_come_through_commands_and_from_servers(shards: Path) -> None:
    expected = Shards(str(shards), "val")
    piped = Shards(f"pipe:cat {shards}/val-{{00..01}}.tar", "val")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(shards))

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        fetched = Shards(f"{address}/val-{{00..01}}.tar", "val")
        with pytest.raises(UnavailableError, match=r"val-09.tar cannot be fetched .*404"):
            Shards(f"{address}/val-09.tar", "val")
        server.shutdown()
    Shards(f"{address}/val-{{00..01}}.tar", "val")  # from the cache
    for found in (piped, fetched):
        assert found.labels == expected.labels
        for ours, theirs in zip(found.images, expected.images, strict=True):
            assert ours.opened().tobytes() == theirs.opened().tobytes()
    with pytest.raises(UnavailableError, match="status 7"):
        Shards("pipe:exit 7", "val")


def test_bad_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Shards(str(tmp_path / "x-{0..1}.tar"), "train")
    (tmp_path / "train-0.tar").write_bytes(b"no archive" * 1000)
    with pytest.raises(InputError, match=r"train-0.tar is damaged"):
        Shards(str(tmp_path), "train")
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(InputError, match=r"only one of the two, such as ./a"):
        Shards(str(tmp_path), "train")
    with pytest.raises(InputError, match="no shards named val"):
        Shards(str(tmp_path), "val")


@pytest.mark.parametrize("damage", ["header", "cut at a header", "cut in a header", "cut in an image", "end", "joined"])
def test_a_shard_that_breaks_off_is_refused_and_loses_no_images(damage: str, shards: Path) -> None:
    path = shards / "train-00.tar"
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    third, last = members[2].offset, members[-1]
    end = last.offset_data + 512  # of the last file, which is a class
    path.write_bytes(
        {
            "header": content[: third + 20] + b"x" + content[third + 21 :],
            "cut at a header": content[:third],
            "cut in a header": content[: third + 100],
            "cut in an image": content[: members[2].offset_data + 10],
            "end": content[:end],
            "joined": content + content,
        }[damage]
    )
    with pytest.raises(InputError, match=r"train-00.tar is damaged \((its list|unexpected end).*Remove it"):
        Shards(str(shards), "train")


@pytest.mark.parametrize("zeros", [512, 1024, 3 << 20])
def test_a_shard_may_end_in_any_number_of_zeros(zeros: int, shards: Path) -> None:
    path = shards / "train-00.tar"
    expected = Shards(str(shards), "train").labels
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    path.write_bytes(path.read_bytes()[:end] + bytes(zeros))
    assert Shards(str(shards), "train").labels == expected


@pytest.mark.parametrize("chunked", [False, True])
def test_a_download_that_breaks_off_is_not_kept(chunked: bool, shards: Path) -> None:
    whole = (shards / "val-00.tar").read_bytes()
    sent = len(whole) // 2

    class Server(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write((f"{len(whole):x}\r\n".encode() if chunked else b"") + whole[:sent])
            if chunked and sent == len(whole):
                self.wfile.write(b"\r\n0\r\n\r\n")

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/val-00.tar"
        with pytest.raises(UnavailableError, match=r"val-00.tar cannot be fetched \(.*(bytes came|bytes read)"):
            Shards(address, "val")
        sent = len(whole)
        assert len(Shards(address, "val").images) == 12  # fetched again, not the half of it
        server.shutdown()


def test_a_tar_beside_a_folder_is_no_shard(digit_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(digit_folder, tmp_path / "data")
    (tmp_path / "data" / "train.tar").write_bytes(b"what the folder was unpacked from")
    spec = spec_for(str(tmp_path / "data"), "iresnet", 18, **SMALL)
    assert len(training_set(str(tmp_path / "data"), spec)) == 72


def test_networks_of_fewer_classes_are_refused(shards: Path) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="have the class 2, but this iresnet18 has 2"):
        evaluation_set(str(shards), replace(spec_for(str(shards), "iresnet", 18, **SMALL), num_classes=2))


def test_a_damaged_image_is_named_by_its_shard(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "val-0.tar", "w") as archive:
        for name, content in (("a.png", b"broken"), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(InputError, match=r"val-0.tar/a.png cannot be read"):
        Shards(str(tmp_path), "val").images[0].opened()


@pytest.mark.slow
def test_training_on_shards(shards: Path, tiny_config: Any) -> None:
    result = train(tiny_config(data=str(shards), epochs=1, lr_steps=()))
    assert result.epochs == 1
    pattern = {"data": f"{shards}/train-{{00..03}}.tar", "epochs": 1, "lr_steps": (), "overwrite": True}
    with pytest.raises(InputError, match="--val-data"):
        tiny_config(**pattern)
    again = train(tiny_config(**pattern, val_data=f"{shards}/val-{{00..01}}.tar"))
    assert again.val_acc1 == result.val_acc1


def test_images_are_what_pillow_reads(shards: Path, digit_folder: Path) -> None:
    member = Shards(str(shards), "train").images[0]
    paths = sorted((digit_folder / "train" / "0").iterdir())
    assert member.opened().tobytes() == Image.open(paths[0]).convert("RGB").tobytes()


def png(level: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, "png")
    return file.getvalue()


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def shard_of(folder: Path, *members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> Shards:
    with tarfile.open(folder / "train-0.tar", "w", format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return Shards(str(folder), "train")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a.PNG", "a.CLS"], [2]),
        (["d/a.jfif", "d/a.Cls", "e/a.png", "e/a.cls"], [2, 2]),
        (["a.png", "a.cls", "a.seg.png", "a.json", "a.txt"], [2]),  # other files of the sample, as WebDataset has them
        (["a" * 150 + ".png", "a" * 150 + ".cls"], [2]),  # a long name, in a header of its own
    ],
)
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_samples_are_told_apart_as_webdataset_does(names: list[str], labels: list[int], format: int, tmp_path: Path) -> None:
    members = [member(name, b"\xef\xbb\xbf2\r\n" if name.lower().endswith("cls") else png()) for name in names]
    found = shard_of(tmp_path, *members, member("folder", type=tarfile.DIRTYPE), format=format)
    assert found.labels == labels
    assert all(image.opened().size == (8, 8) for image in found.images)


@pytest.mark.parametrize(
    "content", [b"-1", b"", b"one", b"1.0", b"1_0", b"+1", b"1000000", b"9" * 40, b"\xff\xfe", b"0\n1", b"\xb2"]
)
def test_a_class_is_a_number(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train-0.tar, a.cls holds .* not the number of a class: 0 to 999999"):
        shard_of(tmp_path, member("a.png", png()), member("a.cls", content))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([member("a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "a.png is a symbolic link and no file"),
        ([member("a.cls", type=tarfile.SYMTYPE, linkname="b.cls")], "a.cls is a symbolic link and no file"),
        ([member("a.png", type=tarfile.LNKTYPE, linkname="a.png")], "a.png is a hard link and no file"),
        ([member("a.png", type=tarfile.CHRTYPE)], "a.png is a device and no file"),
        ([member("a.png", type=tarfile.FIFOTYPE)], "a.png is a named pipe and no file"),
        (
            [member("a.png", png(), pax_headers={"GNU.sparse.map": "0,5", "GNU.sparse.size": "9", "GNU.sparse.name": "a.png"})],
            "a.png is a sparse file and no file",
        ),
        ([member("a.png", png()), member("a.png", png())], "a.png is the second under this name"),
        ([member("a.png", png()), member("a.bmp", png())], "a.bmp is the second under this name"),
        ([member("a.cls", b"0"), member("a.cls", b"1")], "a.cls is the second under this name"),
        ([member("a.b.png", png()), member("a.b.cls", b"0")], "a.b.png has a dot within"),
        ([member("x.png", png()), member("x.cls", b"0"), member("a.b.cls", b"0")], "a.b.cls has a dot within"),
        ([member("a.png", png()), member("a.txt", b"0")], "only one of the two, such as ./a"),
        ([member("a\n.png", png())], r"such as ./a\n."),
        ([member(".png", png()), member(".cls", b"0")], "there is none"),
    ],
)
def test_what_is_no_sample_is_refused_by_name(members: list[tuple[tarfile.TarInfo, bytes]], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        shard_of(tmp_path, *members)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """A negative size leads tarfile back to where it was."""
    path = tmp_path / "train-0.tar"
    for size in (-1024, -512, 1 << 40, 1 << 62):
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
            archive.addfile(member("a.cls", b"0")[0], io.BytesIO(b"0"))
            archive.addfile(member("a.png", png())[0], io.BytesIO(png()))
        content = bytearray(path.read_bytes())
        content[1024 + 124 : 1024 + 136] = (size % (1 << 96)).to_bytes(12, "big")
        content[1024 + 124] |= 0x80
        content[1024 + 148 : 1024 + 156] = b" " * 8
        content[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(content[1024:1536])
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"train-0.tar is damaged"):
            Shards(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("text", "names"),
    [(b"\xef\xbb\xbfzero\r\none\r\n two \r\n\r\n", ("zero", "one", "two")), ("été\nb\nc".encode(), ("été", "b", "c"))],
)
def test_names_of_classes_from_other_editors(text: bytes, names: tuple[str, ...], shards: Path) -> None:
    (shards / "classes.txt").write_bytes(text)
    assert Shards(str(shards), "train").names == names


@pytest.mark.parametrize(
    ("text", "says"),
    [(b"a\n\nb", "line 2 is empty"), (b"a\nb\na", "'a' comes twice"), (b"", "line 1 is empty"), (b"\xff\xfea", "text in UTF-8")],
)
def test_names_of_classes_that_are_none(text: bytes, says: str, shards: Path) -> None:
    (shards / "classes.txt").write_bytes(text)
    with pytest.raises(InputError, match=f"classes.txt .*{says}"):
        Shards(str(shards), "train")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a-{0..9999999999999999}.tar", "stands for 10,000,000,000,000,000 shards"),
        ("{0..999}{0..999}{0..999}.tar", "stands for 1,000,000,000 shards or more"),
        ("{0..{0..99999}}.tar", "stands for"),
        ("{0" + "0" * 3000 + "..1}.tar", "more than 18 digits"),
        ("{0..1}" * 500 + ".tar", "shards or more"),
        ("{0..0}" * 1_000_000 + ".tar", "up to 4096 characters"),
        ("a\0.tar", "without NUL"),
    ],
)
def test_patterns_are_bounded_before_they_are_written_out(pattern: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        expanded(pattern)
    assert len(str(caught.value)) < 5000


def test_braces_within_braces() -> None:
    assert expanded("{0..{1..2}}.tar") == ["0.tar", "1.tar", "0.tar", "1.tar", "2.tar"]
    assert expanded("{a}{.tar") == ["{a}{.tar"]


@pytest.mark.parametrize("data", ["a\0b", "x" * 5000, "x" * 5000 + ".tar", "", " ", "pipe:" + "x" * 5000])
def test_names_that_no_data_can_have(data: str) -> None:
    for find in (spec_for, training_set):
        with pytest.raises(InputError, match="Data go by the name of"):
            find(data, *(("iresnet", 18) if find is spec_for else (ModelSpec("iresnet", 18),)))  # type: ignore[operator]


def test_names_that_are_too_long_for_the_file_system() -> None:
    for data in ("x" * 300, "x" * 300 + "/y.tar", "x/" * 2000):
        with pytest.raises(InputError, match=r"cannot be (opened|read) \(|does not exist"):
            training_set(data, ModelSpec("iresnet", 18))


def test_without_a_cache_shards_are_read_anew_and_nothing_can_be_fetched(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Shards(str(shards), "train").labels
    Path("file").touch()
    monkeypatch.setenv("IRESNET_EXPORT_CACHE", "file")
    shard_index._index_of.cache_clear()
    assert Shards(str(shards), "train").labels == expected
    with pytest.raises(UnavailableError, match=r"cache folder file/shards cannot be written .*IRESNET_EXPORT_CACHE"):
        Shards(f"pipe:cat {shards}/val-00.tar", "val")


@pytest.mark.parametrize(
    "kept",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        b'{"images": []}',
        b'{"images": [[1, 2, 3, 4]]}',
        b'{"images": [["a.png", 512, 10, -1]]}',
        b'{"images": [["a.png", -512, 10, 1]]}',
        b'{"images": [["a.png", 0, 1e9, 1]]}',
        b'{"images": [["a.png", 0, 1000000000, 1]]}',
        b'{"images": [["a.png", 0, true, 1]]}',
    ],
)
def test_a_damaged_index_is_made_anew(kept: bytes, shards: Path) -> None:
    expected = Shards(str(shards), "train")
    for path in (Path(os.environ["IRESNET_EXPORT_CACHE"]) / "shards").glob("*.json"):
        path.write_bytes(kept)
    shard_index._index_of.cache_clear()
    again = Shards(str(shards), "train")
    assert (again.images, again.labels) == (expected.images, expected.labels)
    assert all(json.loads(path.read_bytes()) for path in (Path(os.environ["IRESNET_EXPORT_CACHE"]) / "shards").glob("*.json"))


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-0.tar")
    with pytest.raises(InputError, match="it is a named pipe and no file"):
        Shards(str(tmp_path), "train")
    with pytest.raises(InputError, match="it is a named pipe and no file"):
        Shards(str(tmp_path / "train-{0..0}.tar"), "train")


def test_a_shard_that_changes_while_it_is_in_use_is_named(shards: Path) -> None:
    image = Shards(str(shards), "train").images[-1]
    Path(image.shard).write_bytes(b"short")
    with pytest.raises(InputError, match="shorter while it was in use"):
        image.opened()
    Path(image.shard).unlink()
    with pytest.raises(InputError, match="cannot be read any more"):
        image.opened()


def test_what_is_no_address_is_wrong_use() -> None:
    for address in ("http://[::1/a.tar", "what://x/a.tar"):
        with pytest.raises(InputError, match=r"a\.tar is no address"):
            Shards(address, "train")
