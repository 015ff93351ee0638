from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from iresnet_data import evaluation_set
from iresnet_models import load_checkpoint
from iresnet_models.errors import InputError, UnavailableError
from iresnet_train import Loader, Progress, TrainConfig, config_for, evaluate, train

MakeConfig = Callable[..., TrainConfig]
COLUMNS = "epoch,train_loss,train_acc1,train_acc5,val_loss,val_acc1,val_acc5,lr,seconds,images_per_second,"
COLUMNS += "data_wait_share,ema_val_acc1,ema_val_acc5"

LEARNS: dict[str, Any] = {"batch_size": 9, "lr_steps": (), "momentum": 0.5, "augmentation": "affine"}
"""What a run of a few epochs on the little folder learns with."""


def rows(log: Path) -> list[dict[str, str]]:
    with log.open(newline="") as file:
        return list(csv.DictReader(file))


def state(path: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return weights


def same(one: Path, other: Path) -> bool:
    first, second = state(one), state(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_two_epochs_on_the_digits_learn_and_leave_checkpoints_that_rebuild_the_network(tmp_path: Path) -> None:
    result = train(config_for("digits", epochs=2, result_path=tmp_path / "run", device="cpu"))
    assert result.val_acc1 > 80  # chance is 10
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        ".lock",
        "best.pt",
        "last.pt",
        "log.csv",
        "states",
        "train.json",
    ]
    log = rows(result.log)
    assert ",".join(log[0]) == COLUMNS
    assert [row["epoch"] for row in log] == ["1", "2"]
    assert float(log[1]["train_loss"]) < float(log[0]["train_loss"])
    assert all(0 <= float(row["train_acc1"]) <= float(row["train_acc5"]) <= 100 for row in log)
    assert max(float(row["val_acc1"]) for row in log) == pytest.approx(result.val_acc1, rel=1e-5)
    for path, accuracy in ((result.best, result.val_acc1), (result.last, float(log[-1]["val_acc1"]))):
        checkpoint = load_checkpoint(path)
        assert (checkpoint.spec.name, checkpoint.spec.num_classes, checkpoint.spec.data) == ("iresnet18", 10, "digits")
        again = evaluate(checkpoint.model, Loader(evaluation_set("digits", checkpoint.spec), 100))
        assert again.images == 500
        assert again.top1 == pytest.approx(accuracy, rel=1e-5)
        assert again.top1 == checkpoint.details["val_acc1"]
    assert load_checkpoint(result.last).details["epoch"] == 2
    assert load_checkpoint(result.best).details["epoch"] == result.best_epoch


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_digits_preset_reaches_98_percent(seed: int, tmp_path: Path) -> None:
    assert train(config_for("digits", seed=seed, result_path=tmp_path, device="cpu")).val_acc1 >= 98


@pytest.mark.slow
def test_image_folders_are_trained_on(tiny_config: MakeConfig, digit_folder: Path) -> None:
    result = train(tiny_config(epochs=4, **LEARNS))
    checkpoint = load_checkpoint(result.last)
    assert (checkpoint.spec.labels, checkpoint.spec.image_size, checkpoint.spec.data) == (("0", "1", "2"), 32, None)
    assert result.val_acc1 > 70  # chance is 33
    config = checkpoint.details["config"]
    assert (config["data"], config["result_path"], config["epochs"]) == ("digits-as-files", "run", 4)
    assert str(digit_folder.parent).encode() not in result.last.read_bytes()


def test_progress_is_told_after_every_step(tiny_config: MakeConfig) -> None:
    told: list[Progress] = []
    train(tiny_config(), told.append)
    assert [(now.epoch, now.step) for now in told] == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4)]
    assert {(now.epochs, now.steps) for now in told} == {(2, 4)}
    # The step at epoch 1 takes effect after one whole epoch.
    assert [now.lr for now in told] == pytest.approx([0.01] * 4 + [0.001] * 4)
    assert [now.val_acc1 is None for now in told] == [True] * 4 + [False] * 4
    assert all(now.loss > 0 and now.images_per_second > 0 for now in told)


@pytest.mark.slow
def test_a_seed_gives_the_same_weights_bit_by_bit(tiny_config: MakeConfig, tmp_path: Path) -> None:
    one = train(tiny_config(result_path=tmp_path / "1", dropout=0.2))
    torch.manual_seed(1234)
    two = train(tiny_config(result_path=tmp_path / "2", dropout=0.2))
    other = train(tiny_config(result_path=tmp_path / "3", dropout=0.2, seed=1))
    assert same(one.last, two.last)
    assert not same(one.last, other.last)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12 and 3.13: PyTorch's workers are forked
@pytest.mark.slow
def test_a_seed_gives_the_same_weights_with_workers_too(tiny_config: MakeConfig, tmp_path: Path) -> None:
    one, two = (train(tiny_config(result_path=tmp_path / name, epochs=1, lr_steps=(), workers=2)) for name in "12")
    assert same(one.last, two.last)


def test_a_run_that_is_there_is_not_replaced_unasked(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"already holds a run \(best\.pt\).*--force"):
        train(tiny_config())
    assert (tmp_path / "run" / "best.pt").read_bytes() == b"precious"
    result = train(tiny_config(overwrite=True, epochs=1, lr_steps=()))
    assert load_checkpoint(result.best).details["epoch"] == 1


def test_bad_data_leave_no_folder_behind(tiny_config: MakeConfig, digit_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(digit_folder / "train", tmp_path / "data" / "train")
    with pytest.raises(InputError, match="none named val/"):
        train(tiny_config(data=str(tmp_path / "data")))
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_to_is_known_at_once(tiny_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        train(tiny_config(result_path=tmp_path / "file" / "run"), lambda now: pytest.fail("a step was taken"))


def test_a_gpu_that_is_not_there(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="--device cpu"):
        train(tiny_config(device="cuda"))


def test_a_last_batch_of_a_single_image_is_left_out(tiny_config: MakeConfig) -> None:
    told: list[Progress] = []
    train(tiny_config(batch_size=71, epochs=1, lr_steps=()), told.append)  # 72 images: 71 and 1
    assert [now.steps for now in told] == [1]


def test_a_single_image_is_not_enough(tiny_config: MakeConfig, digit_folder: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "data" / part / "0").mkdir(parents=True)
        shutil.copy(next((digit_folder / "val" / "0").iterdir()), tmp_path / "data" / part / "0")
    with pytest.raises(InputError, match="has 1 training images"):
        train(tiny_config(data=str(tmp_path / "data")))


@pytest.mark.slow
def test_fine_tuning_starts_from_what_was_learned(tiny_config: MakeConfig, tmp_path: Path) -> None:
    """A run that moves nothing keeps what another one learned."""
    first = train(tiny_config(epochs=3, **LEARNS))
    second = train(tiny_config(result_path=tmp_path / "tuned", pretrained=first.last, lr=1e-12, epochs=1, lr_steps=()))
    fresh = train(tiny_config(result_path=tmp_path / "fresh", lr=1e-12, epochs=1, lr_steps=()))
    losses = [float(rows(result.log)[-1]["train_loss"]) for result in (first, second, fresh)]
    assert losses[1] < 0.85 * losses[2]
    assert load_checkpoint(second.last).details["config"]["pretrained"] == "last.pt"


def test_the_best_epoch_is_kept(tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_train import loop
    from iresnet_train.metrics import Evaluation

    scores = iter([3, 9, 9, 5])
    monkeypatch.setattr(loop, "evaluate_each", lambda predictions, loader, combined: [Evaluation(10, next(scores), 10, 1.0)])
    result = train(tiny_config(epochs=4, lr_steps=()))
    assert (result.val_acc1, result.best_epoch, result.epochs) == (90.0, 2, 4)
    assert load_checkpoint(result.best).details["epoch"] == 2
    assert load_checkpoint(result.last).details["epoch"] == 4


def test_a_log_that_cannot_be_written_leaves_the_old_one_whole(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iresnet_train import run_folder

    class KilledError(BaseException):
        pass

    write, calls = run_folder.write_bytes, 0

    def killed(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KilledError
        write(path, data)

    monkeypatch.setattr(run_folder, "write_bytes", killed)
    with pytest.raises(KilledError):
        train(tiny_config())
    assert [row["epoch"] for row in rows(tmp_path / "run" / "log.csv")] == ["1"]


def test_synthetic_images_need_no_files(tiny_config: MakeConfig) -> None:
    told: list[Progress] = []
    result = train(tiny_config(data="synthetic:40", epochs=1, lr_steps=()), told.append)
    assert load_checkpoint(result.last).spec.num_classes == 1000
    assert [now.steps for now in told] == [3, 3, 3]
    with pytest.raises(InputError, match="synthetic:5000"):
        train(tiny_config(data="synthetic:many", overwrite=True))


@pytest.mark.slow
def test_the_report_tells_the_run(tiny_config: MakeConfig) -> None:
    result = train(tiny_config(ema_decay=0.5, export_ema=True), environment={"about": "this machine"})
    report = json.loads(result.report.read_text())
    assert (report["schema"], report["status"]) == ("iresnet-export/train/1", "done")
    assert report["environment"] == {"about": "this machine"}
    assert report["network"] == {"arch": "iresnet", "depth": 18, "num_classes": 3, "image_size": 32}
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2]
    assert ",".join(report["epochs"][0]) == COLUMNS
    assert report["best"] == {"epoch": result.best_epoch, "val_acc1": result.val_acc1}
    # What is exported is the average, and so is what "best" means.
    scores = [epoch["ema_val_acc1"] for epoch in report["epochs"]]
    assert result.val_acc1 == max(scores)
    checkpoint = load_checkpoint(result.last)
    again = evaluate(checkpoint.model, Loader(evaluation_set(tiny_config().data, checkpoint.spec), 24))
    assert again.top1 == scores[-1]


def test_curves_for_tensorboard(tiny_config: MakeConfig, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = train(tiny_config(log=("tensorboard",)))
    events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("val_acc1")]
    expected = [(int(row["epoch"]), pytest.approx(float(row["val_acc1"]), rel=1e-4)) for row in rows(result.log)]
    assert found == expected
