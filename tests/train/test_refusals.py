"""A run that is refused leaves everything as it was; `--resume` alone knows its settings, and more epochs go on."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Outcome

from iresnet_models import load_checkpoint
from iresnet_models.errors import InputError, UnavailableError
from iresnet_train import Progress, TrainConfig, learner, train

MakeConfig = Callable[..., TrainConfig]
SMALL = ["--depth", "18", "--train-crop-size", "32", "--val-resize", "32", "--val-crop-size", "32", "--device", "cpu"]
ONCE = ["--epochs", "1", "--batch-size", "36", "--lr", "0.01", "--workers", "0", "--lr-steps", "1"]


@pytest.fixture(scope="module")
def finished(digit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch of two steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    sizes = {"train_crop_size": 32, "val_resize": 32, "val_crop_size": 32}
    train(
        TrainConfig(
            str(digit_folder),
            depth=18,
            result_path=folder,
            epochs=1,
            batch_size=36,
            lr=0.01,
            lr_steps=(1,),
            workers=0,
            device="cpu",
            **sizes,
        )
    )
    return folder


@pytest.fixture
def finished_run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "r", copy_function=os.link)  # files are replaced, never written into
    return tmp_path / "r"


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_ino) for path in folder.rglob("*") if path.is_file()}


def test_refusals_change_nothing(finished_run: Path, digit_folder: Path, run: Callable[..., Outcome], tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    for part in ("train", "val"):
        for digit in "01":
            shutil.copytree(digit_folder / part / digit, fewer / part / digit)
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    whole = [*SMALL, *ONCE, "--data", digit_folder]
    before = content(finished_run)
    for arguments, says in (
        (["--resume", "--data", digit_folder, "--lr", "0.5"], "other settings: lr 0.5 (was 0.01)"),
        (["--resume", "--data", digit_folder, "--preset", "digits"], "other settings: "),
        (["--resume", "--data", digit_folder, "--arch", "resnet"], "other settings: arch resnet"),
        (["--resume", "--data", fewer], "classes of"),
        (["--resume", "--data", tmp_path / "nowhere"], "does not exist"),
        (["--auto-resume", *whole, "--lr", "0.5"], "other settings: lr 0.5"),
        (whole, "already holds a run"),
        (["--force", *whole, "--data", tmp_path / "nowhere"], "does not exist"),
        (["--force", *whole, "--pretrained", tmp_path / "bad.pt"], "bad.pt"),
        (["--force", *whole, "--lr", "nan"], "lr has to be"),
        (["--force", *whole, "--batch-size", "2", "--accumulate", "2"], "fewer than the two"),
    ):
        outcome = run("train", *arguments, "--result-path", finished_run)
        assert outcome.status == 2, (arguments, outcome.err)
        assert says in outcome.err
        assert content(finished_run) == before, arguments


def test_a_refused_run_leaves_no_folder(run: Callable[..., Outcome], digit_folder: Path, tmp_path: Path) -> None:
    assert run("train", "--resume", "--data", digit_folder, "--result-path", tmp_path / "a" / "b").status == 2
    assert run("train", *SMALL, "--data", tmp_path / "none", "--result-path", tmp_path / "a" / "b").status == 2
    assert not (tmp_path / "a").exists()
    (tmp_path / "own").mkdir()
    assert run("train", *SMALL, "--data", tmp_path / "none", "--result-path", tmp_path / "own").status == 2
    assert list((tmp_path / "own").iterdir()) == []


def test_a_run_that_cannot_take_its_first_step_replaces_none(
    finished_run: Path, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to\nmore")

    before = content(finished_run)
    monkeypatch.setattr(learner, "cross_entropy", full)
    with pytest.raises(UnavailableError, match=r"not enough memory for steps of 18 images of 32 pixels.*--accumulate 2") as caught:
        train(tiny_config(result_path=finished_run, overwrite=True))
    assert "\n" not in str(caught.value)
    assert content(finished_run) == before


@pytest.mark.slow
def test_resume_alone_goes_on_and_more_epochs_extend(
    finished_run: Path, run: Callable[..., Outcome], tiny_config: MakeConfig, digit_folder: Path
) -> None:
    """As if the run had been of two epochs from its beginning: the schedule of steps does not depend on their number."""
    outcome = run("train", "--resume", "--result-path", finished_run, "--data", digit_folder)
    assert outcome.status == 0, outcome.err
    assert "This run of 1 epochs is finished" in outcome.err
    assert run("train", "--resume", "--result-path", finished_run, "--data", digit_folder, "--epochs", "2").status == 0
    outcome = run("train", "--resume", "--result-path", finished_run, "--data", digit_folder, "--epochs", "1")
    assert outcome.status == 2
    assert "2 epochs are done or begun: it cannot end after 1" in outcome.err
    whole = train(tiny_config(batch_size=36))
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (whole.last, finished_run / "last.pt"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert load_checkpoint(finished_run / "last.pt").details["epoch"] == 2


@pytest.mark.slow
def test_where_the_images_are_is_remembered_outside_the_run(
    tiny_config: MakeConfig, run: Callable[..., Outcome], digit_folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    train(tiny_config(epochs=1, batch_size=72, lr_steps=(), val_data=str(digit_folder / "val")))
    outcome = run("train", "--resume", "--result-path", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "with 24 held out" in outcome.err
    (tmp_path / "run").rename(moved)
    outcome = run("train", "--resume", "--result-path", moved)
    assert outcome.status == 2
    assert "trained on images in digits-as-files" in outcome.err
    assert "Name them with --data" in outcome.err
    assert not any(str(digit_folder).encode() in path.read_bytes() for path in moved.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ([], r"holds 1 file; training needs train/ and val/.* Sort the images"),
        (["cat", "dog"], r"holds the folders cat/, dog/ and 1 file; .* If these are the classes, say --val-split 0.2"),
        (["Train", "val"], r"Rename Train/ to train/"),
        (["training", "val"], r"Rename training/ to train/"),
        (["train", "valid"], r"Rename valid/ to val/, or name it: --val-data .*/valid"),
        (["train", "Test"], r"Rename Test/ to val/"),
        (["train"], r"holds the folder train/ and 1 file; .* none named val/.* --val-data"),
        ([f"c{number}" for number in range(9)], r"c4/ and 4 more folders"),
    ],
)
def test_folders_of_another_layout(folders: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    for name in folders:
        (tmp_path / "photos" / name).mkdir()
    with pytest.raises(InputError, match=says):
        train(TrainConfig(str(tmp_path / "photos"), device="cpu", depth=18))


def test_another_length_of_a_cosine_is_said(tiny_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    values = {"lr_schedule": "cosine", "lr_steps": (), "batch_size": 36, "data": "synthetic:36"}
    train(tiny_config(epochs=1, **values))
    with caplog.at_level("WARNING", "iresnet_train"):
        train(tiny_config(epochs=2, resume="yes", **values))
    assert "cosine schedule now spans 2 epochs in place of 1: the learning rate goes on at 0.005, where" in caplog.text


def test_embedded_data_need_not_be_named(
    tiny_config: MakeConfig, run: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_config(epochs=1, lr_steps=(), batch_size=36, data="synthetic:36"))
    assert run("train", "--resume", "--result-path", tmp_path / "run").status == 0
    monkeypatch.chdir(tmp_path)
    outcome = run("train", "--resume")
    assert outcome.status == 2
    assert "runs/iresnet50 holds no saved state" in outcome.err
    assert "Name --data" in run("train").err


def test_places_that_cannot_be_written_to(tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import filelock

    for number, error, says in (
        (errno.EROFS, InputError, "cannot be made or written to"),
        (errno.EACCES, InputError, "cannot be made or written to"),
        (errno.ENOSPC, UnavailableError, "disk of the result path .* is full"),
        (errno.ENOLCK, UnavailableError, "has no locks"),
    ):

        def fail(self: Any, number: int = number, **options: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(filelock.FileLock, "acquire", fail)
        with pytest.raises(error, match=says):
            train(tiny_config(), lambda now: pytest.fail("a step was taken"))
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="cannot be made"):
        train(tiny_config(result_path=tmp_path / ("x" * 300)))


def test_a_folder_in_use_keeps_its_report(tiny_config: MakeConfig, tmp_path: Path) -> None:
    def second(now: Progress) -> None:
        before = (tmp_path / "run" / "train.json").read_bytes()
        with pytest.raises(InputError, match="Another process is training"):
            train(tiny_config(epochs=1, lr_steps=(), seed=1, overwrite=True))
        assert (tmp_path / "run" / "train.json").read_bytes() == before
        assert (tmp_path / "run" / ".lock").exists()

    train(tiny_config(epochs=1, lr_steps=(), batch_size=72), second)


LACKS = [
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"), "--workers 0.*--shm-size"),
    (RuntimeError("unable to mmap 640 bytes from file </torch_1>: Cannot allocate memory (12)"), "--workers 0.*--shm-size"),
    (RuntimeError("unable to open shared memory object </torch_1> in read-write mode: Too many"), "--workers 0.*--shm-size"),
    (OSError(errno.EMFILE, "Too many open files"), "--workers 0.*ulimit -n"),
    (RuntimeError("received 0 items of ancdata"), "--workers 0.*ulimit -n"),
    (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), "fewer --workers than 0"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "fewer --workers than 0"),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
    (RuntimeError("can't start new thread"), "ulimit -u"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "--accumulate 2"),
    (MemoryError(), "--accumulate 2"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "--accumulate 2"),
    (RuntimeError("could not create a primitive"), "--accumulate 2"),
]


@pytest.mark.parametrize(("error", "says"), LACKS, ids=lambda value: str(value)[:40])
def test_what_is_lacking_is_named(error: Exception, says: str) -> None:
    from iresnet_train.distributed import World
    from iresnet_train.trouble import lacks_named

    with pytest.raises(UnavailableError, match=says), lacks_named(TrainConfig("d"), World(0, 1, torch.device("cpu")), 0):
        raise error
    assert UnavailableError.exit_status == 3


@pytest.mark.parametrize(
    "error", [RuntimeError("something else"), OSError(errno.ENOSPC, "full"), InputError("can't allocate memory")]
)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    from iresnet_train.distributed import World
    from iresnet_train.trouble import lacks_named

    with pytest.raises(type(error)) as caught, lacks_named(TrainConfig("d"), World(0, 1, torch.device("cpu")), 0):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "values",
    [
        *(
            {name: value}
            for name in ("lr", "clip_norm", "mixup", "cutmix", "weight_decay", "lr_reduce_factor")
            for value in (1e308,)
        ),
        *(
            {name: float("nan")}
            for name in ("lr", "clip_norm", "mixup", "weight_decay", "momentum", "ema_decay", "lr_reduce_factor")
        ),
        *({name: 10**12} for name in ("epochs", "batch_size", "accumulate", "workers", "train_crop_size", "ema_every")),
        *({name: 10**12} for name in ("val_resize", "max_corrupt", "warmup_epochs")),
        {"val_resize": 10**12, "val_crop_size": 10**12},
        {"seed": 2**63},
        {"mixup": 1e-300},
        {"lr_steps": tuple(range(1, 2000))},
        {"checkpoint_every": "1e999m"},
        {"checkpoint_every": "9" * 400},
        {"checkpoint_every": "9" * 400 + "m"},
        {"checkpoint_every": "٣m"},
    ],
    ids=str,
)
def test_numbers_beyond_sense_are_refused_before_they_take_memory(values: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig("folder", **values)
    assert len(str(caught.value)) < 300
