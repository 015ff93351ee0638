"""The loader that decodes with DALI against the default one: the same crops and flips, image by image. On processors alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from iresnet_data import spec_for, training_set
from iresnet_models.errors import InputError, UnavailableError
from iresnet_models.spec import ModelSpec
from iresnet_train import TrainConfig, train
from iresnet_train.augmentation import augmented
from iresnet_train.determinism import computation, exactness
from iresnet_train.distributed import World
from iresnet_train.loader import Batch, TrainingLoader

needs_dali = pytest.mark.usefixtures("installed_dali")

SIZE = 48
LIMIT = 0.6
"""Levels: decoders and resamplings differ by 0.2 to 0.32 here; without antialiasing it is 9, with another crop or no flip more."""


@pytest.fixture
def installed_dali() -> None:
    pytest.importorskip("nvidia.dali", reason="the package nvidia-dali-cuda130 is not installed here")


def smooth(seed: int, width: int, height: int) -> Image.Image:
    """Like a photograph: with structure, without noise that every resampling takes differently."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """JPEGs of two classes and of several sizes; and what is decoded by PIL: grey, turned, transparent, of four colours."""
    folder = tmp_path / "photographs"
    for label in range(2):
        for part in ("train", "val"):
            (folder / part / str(label)).mkdir(parents=True)
        for index in range(8):
            smooth(8 * label + index, 180 + 14 * index, 240 - 10 * index).save(folder / f"train/{label}/{index}.jpg", quality=92)
        smooth(label, 64, 64).save(folder / f"val/{label}/0.jpg")
    smooth(20, 80, 60).convert("L").save(folder / "train/0/grey.jpg", quality=92)
    turned = Image.Exif()
    turned[0x0112] = 6
    smooth(21, 80, 60).save(folder / "train/0/turned.jpg", quality=92, exif=turned)
    smooth(22, 80, 60).convert("CMYK").save(folder / "train/1/four-colours.jpg", quality=92)
    layered = smooth(23, 80, 60).convert("RGBA")
    layered.putalpha(128)
    layered.save(folder / "train/1/transparent.png")
    return folder


MakeLoader = Callable[..., TrainingLoader]


@pytest.fixture
def loader(photographs: Path) -> MakeLoader:
    """Of the photographs in batches of 6, by DALI or by the default."""

    def make(
        dali: bool = True, rank: int = 0, size: int = 1, threads: int = 2, seed: int = 3, batch: int = 6, images: int = 20
    ) -> TrainingLoader:
        spec = spec_for(str(photographs), "iresnet", 18, image_size=SIZE, resize=SIZE)
        world = World(rank, size, torch.device("cpu"))
        found = training_set(str(photographs), spec, augmented("crop-flip", spec, SIZE))
        found.images, found.labels = [(list(all_of) * 2)[:images] for all_of in (found.images, found.labels)]
        return TrainingLoader(found, batch, world, seed=seed, batches=_dali(spec, seed, threads) if dali else None)

    return make


def _dali(spec: ModelSpec, seed: int, threads: int) -> Any:
    from iresnet_train.dali import DaliBatches

    return partial(DaliBatches, spec=spec, size=SIZE, seed=seed, device=torch.device("cpu"), threads=threads)


def levels(one: Batch, other: Batch) -> torch.Tensor:
    """How far each image of two batches lies apart on average, in levels of 256."""
    assert one.images is not None
    assert other.images is not None
    return (one.images - other.images).abs().mean((1, 2, 3)) * 255 * 0.226


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in zip(one, other, strict=True))  # type: ignore[arg-type]


@needs_dali
def test_crops_and_flips_are_those_of_the_default_loader(loader: MakeLoader) -> None:
    own, wanted = loader(), loader(dali=False)
    for epoch in range(5):
        pairs = list(zip(own.epoch(epoch), wanted.epoch(epoch), strict=True))
        assert [len(batch.labels) for batch, _ in pairs if batch.labels is not None] == [6, 6, 6, 2]
        for one, other in pairs:
            assert torch.equal(one.labels, other.labels)  # type: ignore[arg-type]
            assert levels(one, other).max() < LIMIT


@needs_dali
def test_an_epoch_is_the_same_for_any_number_of_threads_and_processes(loader: MakeLoader) -> None:
    whole = list(loader().epoch(0))
    assert same(whole, list(loader(threads=1).epoch(0)))
    assert not same(whole, list(loader(seed=4).epoch(0)))
    parts = [list(loader(rank=rank, size=2).epoch(0)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == 3  # of the last two images each process would have one
    for step, batch in enumerate(whole[:3]):
        assert torch.equal(torch.cat([part[step].labels for part in parts]), batch.labels)  # type: ignore[misc, arg-type]
        assert torch.equal(torch.cat([part[step].images for part in parts]), batch.images)  # type: ignore[misc, arg-type]


@needs_dali
def test_a_process_may_have_more_images_of_the_last_batch_than_of_a_full_one(loader: MakeLoader) -> None:
    """The third of five has 2 of 13, and 3 of the 12 that are left of 25."""
    sizes = [[len(batch.labels) for batch in loader(dali, 2, 5, batch=13, images=25).epoch(0)] for dali in (True, False)]  # type: ignore[arg-type]
    assert sizes == [[2, 3], [2, 3]]


@needs_dali
def test_running_out_of_memory_is_no_damaged_file(loader: MakeLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_train.dali import DaliBatches

    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(DaliBatches, "_tensor", full)
    with pytest.raises(torch.OutOfMemoryError):
        list(loader().epoch(0))


@needs_dali
def test_an_epoch_begins_at_any_step_and_may_be_left(loader: MakeLoader) -> None:
    made = loader()
    whole = list(made.epoch(0))
    for _ in made.epoch(0):
        break
    assert same(list(made.epoch(0, first=2)), whole[2:])
    assert list(made.epoch(0, first=4)) == []


@needs_dali
def test_files_that_cannot_be_decoded_are_named_and_left_out(loader: MakeLoader, photographs: Path) -> None:
    """One that is cut off, one that is no image, and two whose tables are broken, so that only decoding shows it."""
    folder = photographs / "train"
    cut = (folder / "0/1.jpg").read_bytes()
    (folder / "0/1.jpg").write_bytes(cut[: len(cut) // 2])
    (folder / "1/2.jpg").write_bytes(b"no image at all")
    for name in ("0/4.jpg", "1/5.jpg"):
        content = (folder / name).read_bytes()
        table = content.index(b"\xff\xc4") + 5
        (folder / name).write_bytes(content[:table] + b"\xff" * 16 + content[table + 16 :])
    found, default = list(loader().epoch(0)), list(loader(dali=False).epoch(0))
    assert sum(len(batch.unreadable) for batch in found) == 4
    for batch, other in zip(found, default, strict=True):
        assert sorted(batch.unreadable) == sorted(other.unreadable)
        assert torch.equal(batch.labels, other.labels)  # type: ignore[arg-type]
        assert levels(batch, other).max() < LIMIT


@needs_dali
def test_the_neighbours_of_a_damaged_file_are_still_decoded_by_dali(
    loader: MakeLoader, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iresnet_train import dali

    path, decoded, real = photographs / "train/0/4.jpg", list[tuple[int, int]](), dali._as_ppm
    path.write_bytes(path.read_bytes().replace(b"\xff\xc4\x00\x1f\x00", b"\xff\xc4\x00\x1f\xff"))
    monkeypatch.setattr(dali, "_as_ppm", lambda image: decoded.append(image.size) or real(image))  # type: ignore[func-returns-value]
    assert sum(len(batch.unreadable) for batch in loader().epoch(0)) == 1
    assert set(decoded) == {(80, 60), (60, 80)}, "those that are no plain JPEGs"


@needs_dali
@pytest.mark.parametrize("files", [("0/3.jpg",), ("0/0.jpg", "0/1.jpg", "0/2.jpg", "0/3.jpg", "1/0.jpg", "1/1.jpg", "1/2.jpg")])
def test_what_dali_alone_cannot_decode_is_decoded_by_pillow(
    files: tuple[str, ...], loader: MakeLoader, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whichever steps it lies, and however far the files of those to come are read."""
    from iresnet_train import dali

    contents = {(photographs / "train" / name).read_bytes() for name in files}
    real = dali._plain_jpeg
    monkeypatch.setattr(dali, "_plain_jpeg", lambda content: dali._File(b"?" * 99, 9, 9) if content in contents else real(content))
    found, default = list(loader().epoch(0)), list(loader(dali=False).epoch(0))
    for batch, other in zip(found, default, strict=True):
        assert torch.equal(batch.labels, other.labels)  # type: ignore[arg-type]
        assert levels(batch, other).max() < LIMIT
        assert batch.unreadable == []


@needs_dali
def test_a_decoder_that_never_works_ends_the_run(loader: MakeLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_train import dali

    monkeypatch.setattr(dali, "_plain_jpeg", lambda content: dali._File(b"?" * 99, 9, 9))
    monkeypatch.setattr(dali, "_as_ppm", lambda image: dali._File(b"?" * 99, 9, 9))
    with pytest.raises(UnavailableError, match=r"DALI cannot go on: .*Leave out --loader dali"):
        list(loader().epoch(0))


@needs_dali
def test_which_files_are_left_to_pillow(photographs: Path) -> None:
    from iresnet_train.dali import _plain_jpeg

    train_files = photographs / "train"
    plain = {path.name for path in train_files.glob("*/*") if _plain_jpeg(path.read_bytes()) is not None}
    assert plain == {f"{index}.jpg" for index in range(8)} | {"grey.jpg"}
    content = (train_files / "0/0.jpg").read_bytes()
    assert _plain_jpeg(content[:-2]) is None
    assert _plain_jpeg(content + bytes(3)) is not None


@needs_dali
def test_a_step_of_which_nothing_can_be_read(loader: MakeLoader, photographs: Path) -> None:
    for path in (photographs / "train").glob("*/*"):
        path.write_bytes(b"")
    for batch in loader().epoch(0):
        assert batch.images is None
        assert batch.labels is None
        assert batch.unreadable


@needs_dali
def test_a_run_ends_in_the_same_weights_resumed_or_not(photographs: Path, tmp_path: Path) -> None:
    def config(name: str, **values: Any) -> TrainConfig:
        sizes: dict[str, Any] = {"train_crop_size": SIZE, "val_crop_size": SIZE, "val_resize": SIZE, "batch_size": 6}
        here: dict[str, Any] = {"device": "cpu", "workers": 0, "result_path": tmp_path / name, "loader": "dali"}
        return TrainConfig(str(photographs), depth=18, epochs=2, lr_steps=(), **sizes, **here, **values)

    def interrupt(now: Any) -> None:
        if (now.epoch, now.step) == (2, 2):
            raise KeyboardInterrupt

    whole = train(config("whole"))
    with pytest.raises(KeyboardInterrupt):
        train(config("parts", checkpoint_every="1"), interrupt)
    parts = train(config("parts", checkpoint_every="1", resume="yes"))
    one, other = (torch.load(result.last, weights_only=True)["state_dict"] for result in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)


@needs_dali
def test_a_run_that_goes_on_with_the_other_loader_says_so() -> None:
    world = World(0, 1, torch.device("cpu"))
    before, now = computation(world, "fp32"), computation(world, "fp32", "dali")
    assert "with decoder DALI" in exactness(now, before, fixed=True)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"augmentation": "trivial"}, "not with trivial and 0"),
        ({"random_erasing": 0.1}, "without random erasing"),
        ({"data": "digits"}, "the images of digits are none"),
        ({"data": "synthetic:100"}, "DALI decodes files"),
        ({"loader": "ffcv"}, "loader is one of torch, dali"),
    ],
)
def test_what_dali_does_not_do_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TrainConfig(**({"data": "photographs", "loader": "dali"} | values))


@pytest.fixture
def without_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nvidia.dali", None)


@pytest.mark.usefixtures("without_dali")
def test_without_the_package_the_error_says_what_to_install(loader: MakeLoader) -> None:
    with pytest.raises(UnavailableError, match=r"pip install 'iresnet-export\[dali\]'"):
        loader()
