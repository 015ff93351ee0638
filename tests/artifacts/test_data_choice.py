"""Whose word decides which images are opened: the user's, or a note of his own training; never a file's."""

from __future__ import annotations

import ast
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image

import iresnet_export
from iresnet_data.named_data import remark
from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.data_choice import chosen_data, trained_on
from iresnet_export.artifacts.manifest import Weights, manifest_path
from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import calibration_images
from iresnet_export.errors import InputError
from iresnet_export.evaluation import EvalOptions, accuracies
from iresnet_export.exporting import export_artifact
from iresnet_export.verification.fold import fold_sample
from iresnet_export.verification.verify import VerifyOptions, pixels_for
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.files import sha256_of
from iresnet_models.initialization import untrained_network
from iresnet_models.remembered import recall, remember
from iresnet_train import TrainConfig
from iresnet_train.run_folder import RunFolder

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _said_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing has been said or noted yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path.with_name(f"{tmp_path.name}-state")))
    remark.cache_clear()
    yield
    remark.cache_clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """train/ and val/ with 40 images each of ten classes."""
    folder = tmp_path / "photos"
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for index in range(40):
            path = folder / part / f"c{index % 10}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def own(small_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says it was trained on photos."""
    path = tmp_path_factory.mktemp("own") / "own.pt"
    save_checkpoint(path, untrained_network(small_spec, seed=1), config={"data": "photos"})
    return path


def claims(folder: Path) -> list[str]:
    """What a file might name as its data; whatever runs leaves a file `made`."""
    return [
        f"pipe:touch {folder}/made; false",
        "http://127.0.0.1:9/a.tar",
        str(folder),
        "/",
        "x-{0..9}.tar",
        "synthetic:99999999999",
    ]


def naming(spec: ModelSpec, data: str) -> ModelSpec:
    """The spec with these data, whatever its own validation lets through."""
    named = dataclasses.replace(spec)
    object.__setattr__(named, "data", data)
    return named


def test_no_command_opens_what_a_file_names(
    small_source: Source, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from iresnet_data import datasets as module

    def opened(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("opened")

    monkeypatch.setattr(module, "_part", opened)
    for claim in (*claims(tmp_path), str(photos)):
        source = dataclasses.replace(small_source, spec=naming(small_source.spec, claim))
        with pytest.raises(InputError):
            pixels_for(source.spec, VerifyOptions(), source.weights)
        with pytest.raises(InputError):
            fold_sample(source, None)
        with pytest.raises(InputError):
            calibration_images(source, ExportOptions(precision="int8"))
    assert not (tmp_path / "made").exists()


def test_only_one_module_reads_the_data_of_a_spec() -> None:
    """So that a new command cannot open what a file names by handing it on."""
    root = Path(iresnet_export.__file__).parent
    readers = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "data" and "spec" in ast.unparse(node.value):
                readers.add(path.relative_to(root).as_posix())
    assert readers == {"artifacts/data_choice.py"}


def test_checkpoints_and_manifests_of_strangers_are_refused(
    run: Run, copied: Callable[[str], Artifact], small_checkpoint: Path, tmp_path: Path
) -> None:
    artifact = copied("onnx").path
    manifest = json.loads(manifest_path(artifact).read_text(encoding="utf-8"))
    content = torch.load(small_checkpoint, weights_only=True)
    for claim in claims(tmp_path)[:2]:
        torch.save(content | {"spec": content["spec"] | {"data": claim}}, "evil.pt")
        manifest_path(artifact).write_text(json.dumps(manifest | {"spec": manifest["spec"] | {"data": claim}}), encoding="utf-8")
        for command in (
            ("eval", "evil.pt"),
            ("onnx", "--checkpoint", "evil.pt"),
            ("eval", artifact),
            ("verify", artifact),
            ("bench", artifact, "--seconds", "0.01", "--no-limits", "--no-memory"),
        ):
            outcome = run(*command)
            assert outcome.status == 2, (command, outcome.err)
            assert "fault of" not in outcome.err
            assert not (tmp_path / "made").exists(), command


def test_what_a_checkpoint_was_trained_on_is_shown_and_not_opened(
    run: Run, own: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = run("eval", own)
    assert outcome.status == 2
    assert "was trained on photos: name it with --data" in " ".join(outcome.err.split())
    outcome = run("onnx", "--checkpoint", own, "--precision", "int8")
    assert outcome.status == 2
    assert "was trained on photos" in " ".join(outcome.err.split())
    assert "--calibration-data FOLDER" in outcome.err
    source = source_from_checkpoint(own)
    assert source.trained_on == "photos"
    assert run("eval", own, "--data", photos).status == 0


@pytest.mark.parametrize(
    ("details", "shown"),
    [
        ({}, None),
        ({"config": 3}, None),
        ({"config": {"data": 3}}, None),
        ({"config": {"data": "/"}}, None),
        ({"config": {"data": "/secret/photos/"}}, "photos"),
        ({"config": {"data": "C:\\x\\photos"}}, "photos"),
        ({"config": {"data": "a\n\x1b[31mb\ud800"}}, r"a\n\x1b[31mb\ud800"),
        ({"config": {"data": "x" * 10_000}}, "x" * 80),
    ],
)
def test_only_the_last_part_of_a_name_is_shown_in_one_line(details: dict[str, Any], shown: str | None) -> None:
    assert trained_on(details) == shown


def test_the_users_word_goes_before_all(small_spec: ModelSpec, own: Path, photos: Path) -> None:
    weights = Weights("checkpoint", sha256_of(own))
    remember("data", weights.sha256, str(photos))
    assert chosen_data("elsewhere", small_spec, weights) == "elsewhere"
    assert chosen_data("", small_spec, weights) == ""
    assert chosen_data(None, naming(small_spec, "digits"), weights) == "digits"
    assert chosen_data(None, small_spec, weights) == str(photos)
    assert chosen_data(None, small_spec, Weights("untrained", weights.sha256)) is None
    assert chosen_data(None, small_spec, None) is None
    remember("val_data", weights.sha256, str(photos / "val"))
    assert chosen_data(None, small_spec, weights, held_out=True) == str(photos / "val")


@pytest.mark.parametrize(
    "note", ["pipe:touch made", "http://x/a.tar", "digits", "photos", "/x/../photos", "\n", "/" + "x" * 4090 + "{0..1}.tar"]
)
def test_a_note_names_a_place_or_nothing(note: str, small_spec: ModelSpec, own: Path, photos: Path) -> None:
    remember("data", sha256_of(own), note)
    assert chosen_data(None, small_spec, Weights("checkpoint", sha256_of(own))) is None


@pytest.mark.slow
def test_images_of_ones_own_training_are_found_again(
    run: Run, own: Path, photos: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    remember("data", sha256_of(own), str(photos))
    said = f"Images: {photos}, which this checkpoint was trained on."
    assert run("eval", own, "--json", "e.json").status == 0
    assert json.loads(Path("e.json").read_text(encoding="utf-8"))["results"][0]["images"] == 40
    assert caplog.text.count(said) == 1
    images = calibration_images(source_from_checkpoint(own), ExportOptions(precision="int8"))
    assert images.source == "40 training images of photos"
    outcome = run("onnx", "--checkpoint", own, "-o", "m.onnx")
    assert outcome.status == 0, outcome.err
    assert "Over 13 training images of photos" in outcome.out  # a third of them proves the fold
    manifest = manifest_path(Path("m.onnx")).read_text(encoding="utf-8")
    assert json.loads(manifest)["details"]["settings"]["calibration_data"] == "photos"
    assert str(photos) not in manifest
    outcome = run("verify", "m.onnx", "--batch", "1", "--images", "32")
    assert "over 32 held-out images of photos" in outcome.out
    assert run("eval", "m.onnx").status == 0
    shutil.rmtree(photos)
    remark.cache_clear()
    caplog.clear()
    outcome = run("eval", own)
    assert outcome.status == 2
    assert f"no longer in {photos}" in caplog.text
    assert "trained on photos: name it with --data" in " ".join(outcome.err.split())


def test_images_that_nobody_named_are_no_reason_to_fail(own: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What became of them since training: noise does for exports in floating point, and for parity."""
    source = source_from_checkpoint(own)
    remember("data", source.weights.sha256, str(photos))
    (photos / "train" / "another").mkdir()
    shutil.rmtree(photos / "val" / "c0")
    shutil.rmtree(photos / "val" / "c1")
    shutil.rmtree(photos / "val" / "c2")
    artifact = export_artifact("onnx", source, ExportOptions(), output=Path("m.onnx"))
    assert artifact.manifest is not None
    assert artifact.manifest.details.fold is not None
    assert artifact.manifest.details.fold.proof.image_source.endswith("noise")
    pixels, labels, where = pixels_for(source.spec, VerifyOptions(), source.weights)
    assert (len(pixels), labels, where) == (64, None, "64 images of seeded noise")
    assert "Seeded noise is taken in place of these images" in caplog.text
    with pytest.raises(InputError, match="folders of 11 classes"):
        export_artifact("onnx", source, ExportOptions(precision="int8"), output=Path("q.onnx"))
    with pytest.raises(InputError):
        pixels_for(source.spec, VerifyOptions(max_accuracy_drop=1.0), source.weights)


def test_a_run_notes_where_its_images_lie_outside_its_files(
    small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from iresnet_train import run_folder
    from iresnet_train.records import EpochRecord

    def written(path: Path, _network: Any, **details: Any) -> None:
        path.write_text(json.dumps([path.as_posix(), details]), encoding="utf-8")

    monkeypatch.setattr(run_folder, "save_checkpoint", written)

    def finished(name: str, **data: str) -> RunFolder:
        config = TrainConfig(**data, depth=18, result_path=tmp_path / name, device="cpu")  # type: ignore[arg-type]
        folder = RunFolder(config, None, writes=True)
        network: Any = None
        with folder.claimed(), folder.reported(small_spec):
            folder.start()
            folder.save_epoch(network, EpochRecord(1, *(1.0,) * 10))  # type: ignore[arg-type]
        return folder

    folder = finished("a", data="photos", val_data="held/")
    for path in (folder.best_checkpoint, folder.last_checkpoint):
        assert recall("data", sha256_of(path)) == str(tmp_path / "photos")
        assert recall("val_data", sha256_of(path)) == str(tmp_path / "held")
        assert str(tmp_path) not in str(json.loads(path.read_text(encoding="utf-8"))[1])
    for name, data in (("bb", "pipe:cat x"), ("ccc", "https://x/a-{0..1}.tar"), ("dddd", "digits")):
        folder = finished(name, data=data, val_data="digits")
        assert recall("data", sha256_of(folder.last_checkpoint)) is None
        assert recall("val_data", sha256_of(folder.last_checkpoint)) is None


def test_all_unreadable_images_of_an_evaluation_or_calibration_come_in_one_message(own: Path, photos: Path) -> None:
    for part in ("train", "val"):
        for index in range(7):
            (photos / part / "c3" / f"bad{index}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^7 images cannot be read: .*and 2 more") as caught:
        accuracies([own], EvalOptions(data=str(photos), batch_size=8))
    assert str(caught.value).count("bad") == 5
    images = calibration_images(source_from_checkpoint(own), ExportOptions(precision="int8", calibration_data=str(photos)))
    with pytest.raises(InputError, match=r"^7 images cannot be read: .*and 2 more"):
        [*images.held_out(), *images.measuring(images.measured)]


def test_open_artifact_is_not_needed_to_know_a_subject(own: Path) -> None:
    from iresnet_export.evaluation import subject_of

    subject = subject_of(open_artifact(own), None)
    assert subject.trained_on == "photos"
    assert subject.weights == Weights("checkpoint", sha256_of(own))
