from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder

from iresnet_data import digits_spec, evaluation_pixels, evaluation_set, spec_for, training_pixels, training_set
from iresnet_data.datasets import file_content
from iresnet_data.named_data import embedded, place_of
from iresnet_export.prediction import find_images
from iresnet_models import ModelSpec
from iresnet_models.errors import InputError
from iresnet_models.preprocessing import normalised
from iresnet_models.spec import MOST_SYNTHETIC
from iresnet_train import Loader

SMALL = {"image_size": 32, "resize": 32}


def three_classes(folder: Path) -> ModelSpec:
    return spec_for(str(folder), "iresnet", 18, **SMALL)


# The digits


def test_the_split_of_the_digits_is_disjoint_complete_and_stratified() -> None:
    training, held_out = training_set("digits", digits_spec()), evaluation_set("digits", digits_spec())
    assert (len(training), len(held_out)) == (1297, 500)
    # Images are the same objects each time, so that identity tells them apart even where two are equal.
    assert len({id(image) for image in [*training.images, *held_out.images]}) == 1797
    assert np.bincount(held_out.labels).tolist() == [50] * 10
    assert np.array_equal(np.bincount([*training.labels, *held_out.labels]), np.bincount(load_digits().target))


def test_the_held_out_digits_are_the_same_in_all_versions() -> None:
    held_out = evaluation_set("digits", digits_spec())
    digest = hashlib.sha256(bytes(held_out.labels))
    for image in held_out.images:
        digest.update(np.asarray(image).tobytes())
    assert digest.hexdigest() == "1984a5876f78a9aa348fe4b43e512025e5dfc80e0ba0890b6ca09d12be397ddd"


def test_digits_are_the_bundled_pixels_as_8_bit_images() -> None:
    found = [
        np.asarray(image).tobytes() + bytes([label])
        for part in (training_set("digits", digits_spec()), evaluation_set("digits", digits_spec()))
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    bunch = load_digits()
    expected = [
        bytes(int(value * 255 / 16 + 0.5) for value in image.ravel()) + bytes([label])
        for image, label in zip(bunch.images, bunch.target, strict=True)
    ]
    assert sorted(found) == sorted(expected)
    image = evaluation_set("digits", digits_spec()).images[0]
    assert isinstance(image, Image.Image)
    assert (image.mode, image.size) == ("L", (8, 8))


def test_the_digits_are_normalised_to_mean_0_and_deviation_1() -> None:
    pixels, _ = training_pixels("digits", digits_spec(), 2000)
    inputs = normalised(pixels, digits_spec())
    assert inputs.shape == (1297, 3, 32, 32)
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02


def test_networks_of_other_classes_are_not_evaluated_on_the_digits() -> None:
    for spec in (ModelSpec("iresnet", 50), ModelSpec("iresnet", 18, num_classes=10, labels=tuple("abcdefghij"))):
        with pytest.raises(InputError, match="The classes of the digits are 0 to 9"):
            evaluation_set("digits", spec)


# From an image to a tensor


def test_an_input_is_what_the_spec_says_computed_by_hand() -> None:
    spec = ModelSpec("iresnet", 18, num_classes=10, image_size=24, resize=28, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    data = evaluation_set("digits", spec)
    image = data.images[7]
    assert isinstance(image, Image.Image)
    pixels = np.asarray(image.convert("RGB").resize((28, 28), Image.Resampling.BILINEAR))[2:26, 2:26]
    expected = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    tensor, label = data[7]
    assert tensor.dtype == torch.float32
    assert label == data.labels[7]
    np.testing.assert_allclose(tensor.numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_digits_saved_as_files_give_the_same_tensors(tmp_path: Path) -> None:
    held_out = evaluation_set("digits", digits_spec())
    for index in range(40):
        image, label = held_out.images[index], held_out.labels[index]
        (tmp_path / str(label)).mkdir(exist_ok=True)
        assert isinstance(image, Image.Image)
        image.save(tmp_path / str(label) / f"{index:03}.png")
    files = evaluation_set(str(tmp_path), digits_spec())
    places = [int(Path(str(path)).stem) for path in files.images]
    assert sorted(places) == list(range(40))
    for at, place in enumerate(places):
        assert torch.equal(files[at][0], held_out[place][0])
        assert files[at][1] == held_out[place][1]


# Folders


def test_a_folder_is_read_as_torchvision_reads_it(digit_folder: Path) -> None:
    spec = three_classes(digit_folder)
    assert (spec.num_classes, spec.labels, spec.data) == (3, ("0", "1", "2"), None)
    for part, found in (("train", training_set(str(digit_folder), spec)), ("val", evaluation_set(str(digit_folder), spec))):
        reference = ImageFolder(str(digit_folder / part))
        assert list(zip(found.images, found.labels, strict=True)) == reference.samples


def test_classes_are_numbered_by_the_training_part(digit_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(digit_folder, tmp_path / "d")
    shutil.rmtree(tmp_path / "d" / "val" / "1")
    for spec in (three_classes(digit_folder), ModelSpec("iresnet", 18, num_classes=3)):
        assert set(evaluation_set(str(tmp_path / "d"), spec).labels) == {0, 2}


def test_a_folder_of_classes_alone_is_evaluated_as_it_is(digit_folder: Path) -> None:
    spec = three_classes(digit_folder)
    alone = evaluation_set(str(digit_folder / "val"), spec)
    assert alone.images == evaluation_set(str(digit_folder), spec).images


def test_hidden_folders_are_no_classes(digit_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(digit_folder, tmp_path / "d")
    (tmp_path / "d" / "train" / ".cache").mkdir()
    assert three_classes(tmp_path / "d").labels == ("0", "1", "2")


def remove_root(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_train(folder: Path) -> None:
    shutil.rmtree(folder / "train")


def remove_val(folder: Path) -> None:
    shutil.rmtree(folder / "val")


def empty_train(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    (folder / "train").mkdir()


def empty_class(folder: Path) -> None:
    for file in (folder / "train" / "1").iterdir():
        file.rename(file.with_suffix(".txt"))


def foreign_class(folder: Path) -> None:
    (folder / "val" / "2").rename(folder / "val" / "seven")


def be_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("images")


def open_both(folder: Path) -> None:
    spec = three_classes(folder)
    training_set(str(folder), spec)
    evaluation_set(str(folder), spec)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove_root, ["does not exist", "train/ and val/", "'digits'"]),
        (be_a_file, ["is a file", "train/ and val/"]),
        (remove_train, ["no folder train/", "train/ and val/"]),
        (remove_val, ["none named val/", "train/ and val/"]),
        (empty_train, ["holds no folders, but 0 images", "a folder of images for every class"]),
        (empty_class, ["folders without images: 1", ".png"]),
        (foreign_class, ["no classes of the network", "seven", "0, 1, 2"]),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    spoil: Callable[[Path], None], says: list[str], digit_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "d"
    shutil.copytree(digit_folder, folder)
    spoil(folder)
    with pytest.raises(InputError) as caught:
        open_both(folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in ["d", *says]:
        assert part in message


def test_another_number_of_classes_is_refused(digit_folder: Path) -> None:
    with pytest.raises(InputError, match="holds folders of 3 classes, but this iresnet50 has 1000"):
        evaluation_set(str(digit_folder), ModelSpec("iresnet", 50))


# Choosing images


def test_images_are_chosen_by_the_seed() -> None:
    spec = digits_spec()
    images, labels = evaluation_pixels("digits", spec, 40, seed=3)
    again, _ = evaluation_pixels("digits", spec, 40, seed=3)
    other, _ = evaluation_pixels("digits", spec, 40, seed=4)
    assert images.shape == (40, 32, 32, 3)
    assert images.dtype == torch.uint8
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    held_out = evaluation_set("digits", spec)
    rows = {held_out[index][0].numpy().tobytes(): held_out.labels[index] for index in range(len(held_out))}
    assert labels is not None
    assert [rows[image.numpy().tobytes()] for image in normalised(images, spec)] == labels.tolist()


def test_all_images_are_taken_where_there_are_fewer(digit_folder: Path) -> None:
    spec = three_classes(digit_folder)
    held_out, labels = evaluation_pixels(str(digit_folder), spec, 1000)
    training, _ = training_pixels(str(digit_folder), spec, 1000)
    assert (len(held_out), len(training)) == (24, 72)
    assert labels is not None
    assert sorted(labels.tolist()) == [0] * 8 + [1] * 8 + [2] * 8
    with pytest.raises(InputError, match="not 0"):
        evaluation_pixels(str(digit_folder), spec, 0)


def test_images_for_calibration_are_training_pixels() -> None:
    spec = digits_spec()
    chosen, labels = training_pixels("digits", spec, 100, seed=1)
    training = training_set("digits", spec)
    rows = {training[index][0].numpy().tobytes(): training.labels[index] for index in range(len(training))}
    assert [rows[image.numpy().tobytes()] for image in normalised(chosen, spec)] == labels.tolist()


def test_a_folder_of_images_without_classes_has_no_labels(digit_folder: Path) -> None:
    folder = digit_folder / "val" / "0"
    images, labels = evaluation_pixels(str(folder), ModelSpec("iresnet", 50), 5)
    assert images.shape == (5, 224, 224, 3)
    assert labels is None
    with pytest.raises(InputError, match="holds no folders, but 8 images"):
        evaluation_set(str(folder), three_classes(digit_folder))


def test_an_unreadable_image_is_named(digit_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(digit_folder, tmp_path / "d")
    bad = tmp_path / "d" / "val" / "0" / "bad.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"bad\.png cannot be read"):
        evaluation_pixels(str(tmp_path / "d"), three_classes(digit_folder), 1000)


# What files may name, and what is bounded


def test_files_may_name_embedded_data_alone(tmp_path: Path) -> None:
    for name in ("digits", "synthetic", "synthetic:5000", f"synthetic:{MOST_SYNTHETIC}"):
        assert embedded(name) == name
    made = tmp_path / "made"
    for name in (str(tmp_path), f"pipe:touch {made}; false", "http://127.0.0.1:9/a.tar", "x-{0..3}.tar", "", "digits/", "Digits"):
        with pytest.raises(InputError, match="a file may only name embedded data"):
            embedded(name)
    assert not made.exists()


@pytest.mark.parametrize(
    "name",
    ["synthetic:0", "synthetic:99999999999", "synthetic:" + "0" * 1_000_000 + "1", "synthetic:٣", "synthetic:-1", "synthetic:x"],
)
def test_synthetic_data_are_bounded(name: str) -> None:
    for use in (embedded, lambda data: training_set(data, ModelSpec("iresnet", 18))):
        with pytest.raises(InputError, match="is no synthetic data set") as caught:
            use(name)
        assert len(str(caught.value)) < 300


def test_synthetic_images_take_no_memory() -> None:
    found = training_set(f"synthetic:{MOST_SYNTHETIC}", ModelSpec("iresnet", 18))
    assert len(found) == len(found.labels) == MOST_SYNTHETIC
    assert found.labels[MOST_SYNTHETIC - 1] == (MOST_SYNTHETIC - 1) % 1000
    assert found.images[MOST_SYNTHETIC - 1] is found.images[(MOST_SYNTHETIC - 1) % 64]
    with pytest.raises(IndexError):
        found.labels[MOST_SYNTHETIC]


def test_places_are_folders_and_local_shards_alone(tmp_path: Path) -> None:
    assert place_of("digits") is place_of("synthetic:3") is place_of("pipe:x") is place_of("https://x/a.tar") is None
    assert place_of("photos/") == str(tmp_path / "photos")
    assert place_of("a/../t-{0..3}.tar") == str(tmp_path / "t-{0..3}.tar")


# What lies beside images


def test_hidden_files_are_no_images_anywhere(digit_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(digit_folder, folder)
    for part in ("train", "val"):
        (folder / part / "0" / "._0.png").write_bytes(b"\0\5\26\7")
        (folder / part / "0" / ".ipynb_checkpoints").mkdir()
        (folder / part / "0" / ".ipynb_checkpoints" / "0.png").write_bytes(b"")
        (folder / part / "1" / "deep").mkdir()
        next((folder / part / "1").glob("*.png")).rename(folder / part / "1" / "deep" / "x.JFIF")
    spec = three_classes(folder)
    training, held_out = training_set(str(folder), spec), evaluation_set(str(folder), spec)
    assert (len(training), len(held_out)) == (72, 24)
    assert training.left_out is held_out.left_out is None
    assert len(evaluation_pixels(str(folder), spec, 100)[0]) == len(find_images([folder / "val"])) == 24


def test_what_is_left_out_is_told(digit_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(digit_folder, folder)
    for name in ("0/a.heic", "1/b.HEIC", "1/notes.txt", "loose.png", "README.md"):
        (folder / "train" / name).write_bytes(b"")
    found = training_set(str(folder), three_classes(folder))
    assert found.left_out is not None
    assert "Left out: 3 files that end in .heic, .txt (pillow-heif reads .heic)." in found.left_out
    assert "Left out: 1 images in" in found.left_out
    assert len(found) == 72


def test_classes_without_held_out_images_are_a_warning(
    digit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "d"
    shutil.copytree(digit_folder, folder)
    spec = three_classes(folder)
    shutil.rmtree(folder / "val" / "2")
    for file in (folder / "val" / "1").iterdir():
        file.rename(file.with_suffix(".txt"))
    held_out = evaluation_set(str(folder), spec)
    assert set(held_out.labels) == {0}
    assert "has no images of 2 of the 3 classes (1, 2)" in caplog.text
    shutil.rmtree(folder / "val" / "0")
    with pytest.raises(InputError, match="folders without images: 1"):
        evaluation_set(str(folder), spec)


def test_all_unreadable_images_come_in_one_message(digit_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(digit_folder, folder)
    spec = three_classes(folder)
    for part in ("train", "val"):
        for index in range(7):
            (folder / part / "1" / f"bad{index}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^7 images cannot be read: .*and 2 more") as caught:
        evaluation_pixels(str(folder), spec, 1000)
    assert str(caught.value).count("bad") == 5
    with pytest.raises(InputError, match=r"^7 images cannot be read: .*and 2 more"):
        list(Loader(evaluation_set(str(folder), spec), 4))
    told: list[str] = []
    assert sum(len(labels) for _, labels in Loader(evaluation_set(str(folder), spec), 4, on_unreadable=told.append)) == 24
    assert len(told) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="file names that are no text are Linux's")
def test_names_that_are_no_text(digit_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(digit_folder, folder)
    strange = folder / "train" / "0" / os.fsdecode(b"\xff\n[x].png")
    strange.write_bytes(b"")
    with pytest.raises(InputError, match=r"\\udcff\\n\[x\].png cannot be read"):
        training_pixels(str(folder), three_classes(folder), 100)
    strange.unlink()
    (folder / "train" / os.fsdecode(b"\xff")).mkdir()
    with pytest.raises(InputError, match=r"\\udcff is no name of a class"):
        three_classes(folder)


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
def test_a_pipe_among_images_is_unreadable(digit_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    shutil.copytree(digit_folder, folder)
    spec = three_classes(folder)
    os.mkfifo(folder / "val" / "0" / "a.png")
    os.mkfifo(folder / "train" / "0" / "a.png")
    for find in (evaluation_pixels, training_pixels):
        with pytest.raises(InputError, match=r"a\.png cannot be read \(it is a named pipe"):
            find(str(folder), spec, 1000)
    with pytest.raises(InputError, match=r"a\.png cannot be read \(it is a named pipe"):
        file_content(str(folder / "val" / "0" / "a.png"))
