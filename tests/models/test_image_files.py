"""Which image files a folder has, and what is said of what is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from iresnet_models.errors import InputError
from iresnet_models.image_files import image_files, image_suffixes, left_out, printable
from iresnet_models.preprocessing import load_image, unreadable

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and links of POSIX")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_in(folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in image_files(folder).paths]


def test_hidden_files_and_folders_are_passed_over_and_others_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "b.JFIF", "a.jpg", "._a.jpg", ".DS_Store", ".ipynb_checkpoints/a-checkpoint.jpg", "n.txt", "deep/.h/x.png")
    touch(tmp_path, "deep/c.png", "deep/README", "deep.jpg/d.gif", "m.HEIC")
    assert names_in(tmp_path) == ["a.jpg", "b.JFIF", "deep/c.png", "deep.jpg/d.gif"]
    assert image_files(tmp_path).others == Counter({".txt": 1, "": 1, ".heic": 1})
    assert image_files(tmp_path, deep=False).paths == (str(tmp_path / "a.jpg"), str(tmp_path / "b.JFIF"))


def test_what_is_left_out_is_said_once_with_its_endings() -> None:
    assert left_out(Counter()) is None
    assert left_out(Counter({".txt": 1})) == "Left out: 1 file that ends in .txt."
    said = left_out(Counter({".heic": 2, ".txt": 1, "": 1}))
    assert said == "Left out: 4 files that end in .heic, nothing, .txt (pillow-heif reads .heic)."
    many = left_out(Counter({f".{index:020}": 1 for index in range(1000)}))
    assert many is not None
    assert len(many) < 200
    assert "1000 files" in many


def test_heic_is_an_image_where_a_plugin_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.heic")
    image_suffixes.cache_clear()
    registered: list[str] = []
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: registered.append("heif")))
    monkeypatch.setattr(Image, "registered_extensions", lambda: {".heic": "HEIF"})
    try:
        assert names_in(tmp_path) == ["a.heic"]
    finally:
        image_suffixes.cache_clear()
    assert registered == ["heif"]


@posix
def test_links_are_followed_and_a_folder_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path / "data", "a.png", "deep/b.png")
    touch(tmp_path / "else", "c.png")
    (tmp_path / "data" / "deep" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "self").symlink_to("self")
    (tmp_path / "data" / "z").symlink_to(tmp_path / "else")
    (tmp_path / "data" / "zz").symlink_to(tmp_path / "else")
    assert [Path(name).name for name in names_in(tmp_path / "data")] == ["a.png", "b.png", "c.png"]


@posix
def test_folders_nested_deeper_than_python_calls_itself(tmp_path: Path) -> None:
    for _ in range((4000 - len(str(tmp_path))) // 2):
        os.mkdir("d")
        os.chdir("d")  # the fixture of all tests goes back
    Path("a.png").touch()
    os.chdir(tmp_path)
    try:
        assert len(image_files(".").paths) == 1
    finally:
        subprocess.run(["rm", "-r", "d"], check=True)  # Python's own way to remove them calls itself too


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(path: str) -> None:  # root, who may run the tests, may read everything
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(InputError, match=r"cannot be searched \(Permission denied\)"):
        image_files(tmp_path)
    with pytest.raises(InputError, match="cannot be searched"):
        image_files(tmp_path / "gone")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    os.chdir(path.parent)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_dangling(path: Path) -> None:
    path.symlink_to("gone.jpg")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


@posix
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_pipe, "it is a named pipe and no file"),
        (make_socket, "it is a socket and no file"),
        (make_device, "it is a device and no file"),
        (make_dangling, "it is a link to a file that is not there"),
        (make_loop, "symbolic links"),
        (Path.mkdir, "it is a folder and no file"),
        (Path.touch, "it is empty"),
    ],
)
def test_what_is_no_image_is_unreadable_and_never_opened(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    make(path)
    caught: list[str] = []

    def read() -> None:
        try:
            load_image(path)
        except InputError as error:
            caught.append(str(error))

    reader = threading.Thread(target=read, daemon=True)  # opening a pipe would wait for ever
    reader.start()
    reader.join(timeout=20)
    assert caught
    assert says in caught[0]
    if make is not Path.mkdir:
        assert image_files(tmp_path).paths == (str(path),), "listed, so that it is said"


@pytest.mark.parametrize("size", [(1, 201), (201, 1), (60, 60_000)])
def test_images_that_resizing_would_blow_up_are_refused(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("1", size).save(tmp_path / "strip.png")
    with pytest.raises(InputError, match=r"strip\.png cannot be read \(it is .* 200 times the shorter"):
        load_image(tmp_path / "strip.png")
    Image.new("1", (1, 200)).save(tmp_path / "strip.png")
    assert load_image(tmp_path / "strip.png").size == (1, 200)


def test_a_format_without_a_limit_of_its_own_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_models import preprocessing

    monkeypatch.setattr(preprocessing, "_MOST_PIXELS", 99)
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"10 x 10 pixels large, and those of more than 99"):
        load_image(tmp_path / "a.png")


def test_a_damaged_exif_leaves_the_image_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    def broken(_image: Image.Image) -> None:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), pixels)
    monkeypatch.setattr(Image.Image, "getexif", lambda _image: {0x0112: [6]})
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), pixels)


@pytest.mark.skipif("not __import__('PIL.features').features.check('avif')", reason="this Pillow reads no AVIF")
def test_avif_is_an_image_where_pillow_reads_it(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.avif")
    assert names_in(tmp_path) == ["a.avif"]
    assert load_image(tmp_path / "a.avif").size == (8, 8)


def test_names_are_printed_in_one_line() -> None:
    assert printable(Path("a") / "b\n[red].png") == r"a/b\n[red].png"
    assert printable(os.fsdecode(b"\xff.png") if os.name == "posix" else "\udcff.png") == r"\udcff.png"
    assert printable("Bäume/猫 1.jpg") == "Bäume/猫 1.jpg"


def test_unreadable_images_come_in_one_message() -> None:
    reasons = [f"The image {name}.png cannot be read (it is empty). Remove it or replace it." for name in "abcdefg"]
    assert str(unreadable(reasons[:1])) == reasons[0]
    message = str(unreadable(reasons))
    assert message.startswith("7 images cannot be read: a.png cannot be read (it is empty); b.png")
    assert "e.png" in message
    assert "f.png" not in message
    assert message.endswith("; and 2 more. Remove or replace them.")
