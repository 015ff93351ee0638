"""`eval` from images to report: classes, mistakes with their files, and the classes that another file hurts."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image

from iresnet_data import evaluation_set
from iresnet_data.datasets import LabelledImages
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.source import Source
from iresnet_export.evaluation import EvalOptions, _compared, _identity, accuracies, eval_report
from iresnet_export.reporting.remarks import evaluation_remarks
from iresnet_export.reporting.schemas import EvalReport, Evaluated
from iresnet_export.verification.classes import Predictions
from iresnet_models import save_checkpoint
from iresnet_models.files import names_apart

Run = Callable[..., Outcome]
EVIL = "=<b>\x1b[31m.png"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Path:
    """60 digits in folders of the class that the small network takes them for; three lie in a wrong one."""
    folder = tmp_path_factory.mktemp("data") / "photos" / "val"
    digits = evaluation_set("digits", small_source.spec)
    with torch.no_grad():
        classes = small_source.network(torch.stack([digits[index][0] for index in range(60)])).argmax(1).tolist()
    for number in range(10):
        (folder / f"c{number}").mkdir(parents=True)
    for index, number in enumerate(classes):
        digits.images[index].save(folder / f"c{number}" / f"{index:03}.png")  # type: ignore[union-attr]
    first, second, third = sorted((folder / "c9").iterdir())[:3]
    first.rename(folder / "c1" / EVIL)
    second.rename(folder / "c1" / second.name)
    third.rename(folder / "c0" / third.name)
    return folder.parent


@pytest.fixture(scope="module")
def worse(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> Path:
    """The small network, which recognises one class no more."""
    network = copy.deepcopy(small_source.network)
    with torch.no_grad():
        network.fc.bias[8] -= 100
    path = tmp_path_factory.mktemp("worse") / "worse.pt"
    save_checkpoint(path, network)
    return path


@pytest.fixture(scope="module")
def report(photos: Path, worse: Path, small_checkpoint: Path) -> EvalReport:
    options = EvalOptions(str(photos), mistakes=4, thumbnails=True)
    return eval_report(accuracies([small_checkpoint, worse], options), options)


@pytest.fixture(scope="module")
def results(report: EvalReport) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = report.to_json()["results"]
    return found


def test_all_counts_are_of_the_same_images(results: list[dict[str, Any]]) -> None:
    for one in results:
        right, wrong = (
            sum(entry["right"] for entry in one["classes"]),
            sum(entry["images"] for entry in one["confusions"]["listed"]),
        )
        assert right + wrong == one["images"] == 60
        assert one["top1"] == pytest.approx(100 * right / 60)
        assert sum(entry["images"] for entry in one["calibration"]["bins"]) == 60
        assert [entry["label"] for entry in one["classes"]] == [f"c{entry['class']}" for entry in one["classes"]]
        assert "Infinity" not in json.dumps(one)
        assert "NaN" not in json.dumps(one)
    unseen = next(entry for entry in results[1]["classes"] if not entry["predicted"])
    assert unseen["precision"] is None
    assert results[1]["null_reasons"]["classes.precision"] == "no image was taken for this class"


def test_mistakes_have_their_files_and_pictures(results: list[dict[str, Any]], photos: Path) -> None:
    mistakes = results[0]["mistakes"]
    confidences = [one["confidence"] for one in mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert {Path(one["file"]).parts[:2] for one in mistakes} <= {("val", f"c{number}") for number in range(10)}
    for one in mistakes:
        assert one["file"].endswith(r"=<b>\x1b[31m.png") or (photos / one["file"]).is_file()
        kind, data = one["thumbnail"].split(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (32, 32))
    assert len(mistakes) >= 3, "those that lie in a wrong folder"


def test_the_class_that_a_file_hurts_is_named(report: EvalReport) -> None:
    assert report.results[0].changes is None
    assert report.results[0].null_reasons["changes"] == "the others are compared with it"
    changes = report.results[1].changes
    assert changes is not None
    assert (changes.artifact, changes.backend, changes.listed[0].number) == ("small.pt", "eager", 8)
    line = next(line for line in evaluation_remarks(report.results) if "hurts class" in line)
    assert line.startswith("worse.pt by eager PyTorch beside small.pt by eager PyTorch: hurts class c8: recall 100.0 → 0.0 % (p")


def test_what_each_is_compared_with() -> None:
    """The first in float32, wherever it stands; what was seen over other images with nothing."""
    labels = np.repeat(np.arange(2, dtype=np.int32), 30)
    wrong = np.where(np.arange(60) < 12, 1 - labels, labels)
    judged = [
        (
            Evaluated(artifact, "onnxruntime", "ok", computed_precision=precision),
            Predictions(labels, predicted, np.ones(60, np.float32), images),
        )
        for artifact, precision, predicted, images in (
            ("int8.onnx", "int8", wrong, "a"),
            ("fp32.onnx", "fp32", labels, "a"),
            ("else.onnx", "fp32", labels, "b"),
            ("bf16.onnx", "bf16", labels, "a"),
        )
    ]
    _, int8, fp32, other, bf16 = _compared([(Evaluated("x.engine", "tensorrt", "skipped"), None), *judged])
    assert int8.changes is not None
    assert (int8.changes.artifact, int8.changes.listed[0].only_reference_right, int8.changes.least_images) == ("fp32.onnx", 12, 7)
    assert fp32.null_reasons["changes"] == "the others are compared with it"
    assert other.null_reasons["changes"] == "fp32.onnx was evaluated over other images or classes"
    assert bf16.changes is not None
    assert bf16.changes.listed == ()
    hurt, same = (line.partition(": ")[2] for line in evaluation_remarks([int8, bf16]))
    assert hurt == "hurts class 0: recall 100.0 → 60.0 % (p = 0.00098 of 2 classes)"
    assert same == "no class changes more than chance would (with 2 classes, a loss of 7 images in one would show)"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_predictions_are_a_line_an_image(run: Run, artifacts: dict[str, Artifact], photos: Path, suffix: str) -> None:
    path = Path(f"p{suffix}")
    command = ("eval", artifacts["onnx"].path, "--data", photos, "--backend", "onnxruntime", "--predictions", path)
    for _ in range(2):  # the second replaces the first
        outcome = run(*command, "--json", "eval.json")
        assert outcome.status == 0, outcome.err
    assert "\x1b" not in outcome.out, "a file's name acts on no terminal"
    assert r"val/c1/=<b>\x1b[31m.png" in outcome.out
    text = path.read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text))) if suffix == ".csv" else [json.loads(line) for line in text.splitlines()]
    (found,) = json.loads(Path("eval.json").read_text(encoding="utf-8"))["results"]
    assert len(rows) == 60
    assert sum(row["actual"] == row["predicted"] for row in rows) == round(0.6 * found["top1"])
    assert all(row["file"].startswith(f"val/{row['actual']}/") for row in rows)
    assert np.mean([float(row["confidence"]) for row in rows]) < 1


def test_what_eval_refuses(run: Run, artifacts: dict[str, Artifact], photos: Path) -> None:
    onnx = artifacts["onnx"].path
    for arguments, said in (
        (("--predictions", "p.txt"), "--predictions p.txt ends in neither .csv nor .jsonl; name a file that does."),
        (("--thumbnails",), "--thumbnails puts pictures into a report; name its file with --json."),
        (("--predictions", "e.jsonl", "--json", "e.jsonl"), "both name e.jsonl"),
    ):
        outcome = run("eval", onnx, "--data", photos, *arguments)
        assert (outcome.status, said in outcome.err) == (2, True), outcome.err
    Path("mine.csv").write_text("my,own,data\n", encoding="utf-8")
    outcome = run("eval", onnx, "--data", photos, "--predictions", "mine.csv")
    assert outcome.status == 2
    assert Path("mine.csv").read_text(encoding="utf-8") == "my,own,data\n"


def test_nothing_is_left_of_predictions_that_broke_off(
    run: Run, artifacts: dict[str, Artifact], photos: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "photos"
    shutil.copytree(photos, broken)
    (broken / "val" / "c0" / "zzz.png").write_bytes(b"no image")
    outcome = run("eval", artifacts["onnx"].path, "--data", broken, "--predictions", "p.csv")
    assert outcome.status == 2
    assert "zzz.png" in outcome.err
    assert not Path("p.csv").exists()


def test_files_of_one_name_go_by_their_folders() -> None:
    assert names_apart([Path("runs/a/best.pt"), Path("runs/b/best.pt")]) == ["a/best.pt", "b/best.pt"]
    assert names_apart([Path("a.onnx"), Path("b/c.onnx")]) == ["a.onnx", "c.onnx"]
    assert names_apart([Path("x/a/best.pt"), Path("y/a/best.pt"), Path("y/a/best.pt")]) == [
        "x/a/best.pt",
        "y/a/best.pt",
        "y/a/best.pt",
    ]


def test_images_are_the_same_by_files_labels_and_names() -> None:
    def images(files: list[str], labels: list[int], names: tuple[str, ...]) -> LabelledImages:
        return LabelledImages(files, labels, lambda image: torch.empty(0), names=names)

    plain = ["a", "b"], [0, 1], ("x", "y")
    others = (["a", "c"], *plain[1:]), (plain[0], [1, 0], plain[2]), (*plain[:2], ("y", "x"))
    own = _identity("photos", images(*plain))
    assert own == _identity("photos", images(*plain))
    assert len({own, _identity("others", images(*plain)), *(_identity("photos", images(*one)) for one in others)}) == 5
