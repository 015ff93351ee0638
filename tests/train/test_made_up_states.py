"""A saved state that is damaged, or made up with a hash that fits, is told, set aside, and the one before is taken."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import with_many_records

from iresnet_models.errors import InputError, PreemptedError
from iresnet_train import Progress, TrainConfig, train
from iresnet_train.saved import SavedState, checked
from iresnet_train.state import FORMAT, StateFolder

MakeConfig = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def stopped_run(digit_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch, with the states of two of its steps."""
    folder = tmp_path_factory.mktemp("stopped") / "run"

    def stop(now: Progress) -> None:
        if now.epoch == 2:
            signal.raise_signal(signal.SIGTERM)

    sizes = {"train_crop_size": 32, "val_resize": 32, "val_crop_size": 32}
    config = TrainConfig(
        str(digit_folder),
        depth=18,
        result_path=folder,
        epochs=3,
        batch_size=36,
        lr=0.01,
        lr_steps=(1,),
        ema_decay=0.5,
        workers=0,
        device="cpu",
        **sizes,
    )
    with pytest.raises(PreemptedError):
        train(config, stop)
    assert len(list((folder / "states").iterdir())) == 2
    return folder


@pytest.fixture
def folder(stopped_run: Path, tmp_path: Path) -> Path:
    """Its states, linked: a test that changes one puts another file in its place."""
    shutil.copytree(stopped_run / "states", tmp_path / "states", copy_function=os.link)
    return tmp_path / "states"


def replace_newest(folder: Path, content: bytes) -> None:
    newest = max(folder.iterdir())
    newest.unlink()
    digest = hashlib.sha256(content).hexdigest()[:16]
    newest.with_name(f"{newest.stem.rpartition('-')[0]}-{digest}.pt").write_bytes(content)


def saved_as(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def require_the_one_before(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = sorted(path.name for path in folder.iterdir())
    states = StateFolder(folder)
    with caplog.at_level("WARNING", "iresnet_train"):
        found = states.newest(checked)
    assert found is not None
    assert (found.position.epoch, found.position.step) == (0, 2)
    assert "is damaged: " in caplog.text
    assert "The one before is taken" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == names
    states.set_aside()
    assert [path.suffix for path in sorted(folder.iterdir())] == [".pt", ".damaged"]


class _Calls:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def _compressed(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    return out.getvalue()


KINDS = ("half", "empty", "noise", "pickle", "code", "list", "compressed", "cut zip", "bytes without bound", "many records")


@pytest.mark.parametrize("kind", KINDS)
def test_no_state_at_all(kind: str, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = max(folder.iterdir()).read_bytes()
    content = {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "noise": os.urandom(1000),
        "pickle": pickle.dumps({"format": FORMAT}),
        "code": saved_as({"format": FORMAT, "config": _Calls(os.mkdir, "it-ran")}),
        "list": saved_as([1, 2]),
        "compressed": _compressed(saved_as({"format": FORMAT})),
        "cut zip": whole[:-30],
        # torch's own reader of weights makes it
        "bytes without bound": saved_as({"format": FORMAT, "config": _Calls(bytearray, 2**45)}),
        "many records": with_many_records(whole),
    }[kind]
    replace_newest(folder, content)
    require_the_one_before(folder, caplog)
    assert not Path("it-ran").exists()


def test_a_folder_and_a_pipe_in_the_place_of_a_state(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = max(folder.iterdir())
    newest.unlink()
    os.mkfifo(newest)
    require_the_one_before(folder, caplog)


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = to

    return change


def _nested() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


WEIGHT, VARIANCE = "layer1.0.conv1.weight", "bn1.running_var"
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no position": lambda state: state.pop("position"),
    "no learner": lambda state: state.pop("learner"),
    "a foreign key": _set("foreign", to=1),
    "config a list": _set("config", to=[1]),
    "config a ring": _set("config", "arch", to=_nested()),
    "config of an unknown setting": _set("config", "colour", to="red"),
    "a rate that is no number": _set("config", "lr", to=float("nan")),
    "a rate that is text": _set("config", "lr", to="0.1"),
    "a batch beyond bounds": _set("config", "batch_size", to=10**12),
    "another arch": _set("config", "arch", to="resnet"),
    "a network of 10^18 classes": _set("spec", "num_classes", to=10**18),
    "a network that there is not": _set("spec", "depth", to=17),
    "position text": _set("position", to="2"),
    "a step before the first": _set("position", "step", to=-1),
    "a step and a half": _set("position", "step", to=1.5),
    "an epoch beyond the end": _set("position", "epoch", to=10**9),
    "seconds that are none": _set("position", "seconds", to=float("inf")),
    "counts that are text": _set("position", "counted", to={"images": "3"}),
    "records of other epochs": _set("records", to=[]),
    "a record without its loss": lambda state: state["records"][0].pop("val_loss"),
    "a record that is no number": lambda state: state["records"][0].update(val_acc1=float("nan")),
    "a record of text": lambda state: state["records"][0].update(lr="high"),
    "unreadable numbers": _set("unreadable", to=[1]),
    "a computation of lists": _set("computation", to={"threads": [1]}),
    "a file elsewhere": _set("unsaved", to={"../../x": "why"}),
    "learner empty": _set("learner", to={}),
    "learner none": _set("learner", to=None),
    "model a tensor": _set("learner", "model", to=torch.zeros(1)),
    "a weight missing": lambda state: state["learner"]["model"].pop(WEIGHT),
    "a weight too many": _set("learner", "model", "extra", to=torch.zeros(1)),
    "a weight that is text": _set("learner", "model", WEIGHT, to="weight"),
    "a weight of another shape": _set("learner", "model", WEIGHT, to=torch.zeros(3)),
    "a weight of another type": lambda state: state["learner"]["model"].update({WEIGHT: state["learner"]["model"][WEIGHT].half()}),
    "a weight that stands for terabytes": _set("learner", "model", WEIGHT, to=torch.zeros(1).expand(10**12)),
    "a weight without values": lambda state: state["learner"]["model"].update(
        {WEIGHT: torch.empty_like(state["learner"]["model"][WEIGHT], device="meta")}
    ),
    "a sparse weight": lambda state: state["learner"]["model"].update({WEIGHT: state["learner"]["model"][WEIGHT].to_sparse()}),
    "a weight that is no number": lambda state: state["learner"]["model"][WEIGHT].fill_(torch.nan),
    "a variance below zero": lambda state: state["learner"]["model"][VARIANCE].fill_(-1),
    "momenta of other weights": lambda state: state["learner"]["moments"]["momentum_buffer"].pop(WEIGHT),
    "an infinite momentum": lambda state: state["learner"]["moments"]["momentum_buffer"][WEIGHT].fill_(torch.inf),
    "no average": _set("learner", "average", to=None),
    "an average of fewer": lambda state: state["learner"]["average"].pop(WEIGHT),
    "a scaler of text": _set("learner", "scaler", to={"scale": "big", "_growth_tracker": 0}),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_what_does_not_fit_together_is_damaged(name: str, stopped_run: Path, folder: Path) -> None:
    state = torch.load(max(folder.iterdir()), weights_only=True)
    assert isinstance(checked(state), SavedState)
    CHANGES[name](state)
    with pytest.raises(InputError) as caught:
        checked(state)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_run_goes_on_from_the_state_before(
    stopped_run: Path, digit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(stopped_run, tmp_path / "run")
    states = tmp_path / "run" / "states"
    state = torch.load(max(states.iterdir()), weights_only=True)
    state["learner"]["model"][WEIGHT].fill_(torch.nan)
    replace_newest(states, saved_as(state))
    told: list[Progress] = []
    with caplog.at_level("INFO", "iresnet_train"):
        from iresnet_train.resumption import config_of_run

        config = config_of_run(tmp_path / "run", data=str(digit_folder))
        assert config is not None
        train(config, told.append)
    assert (told[0].epoch, told[0].step) == (2, 1)
    assert "holds values that are not finite. The one before is taken." in caplog.text
    assert len(list(states.glob("*.damaged"))) == 1
