"""How images are prepared and classes called: what a checkpoint says, what options say in its place, and what artifacts record."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Outcome
from PIL import Image

import iresnet_export as ie
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.manifest import manifest_path
from iresnet_export.errors import InputError
from iresnet_models import ModelSpec
from iresnet_models.files import sha256_of
from iresnet_models.initialization import untrained_network
from iresnet_models.preprocessing import load_image, preprocessing
from iresnet_models.spec import NetworkSpec

Run = Callable[..., Outcome]
SAID = ("--image-size", 32, "--resize", 41, "--interpolation", "bicubic", "--mean", "0.5,0.4,0.3", "--std", "0.2,0.25,0.3")
NAMES = [f"class {number}" for number in range(10)]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict, which says nothing of images."""
    path = tmp_path_factory.mktemp("bare") / "bare.pth"
    torch.save(untrained_network(ModelSpec("iresnet", 18, num_classes=10), seed=1).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def exported(bare: Path) -> Artifact:
    said: dict[str, Any] = {"image_size": 32, "resize": 41, "interpolation": "bicubic", "labels": NAMES}
    return ie.export(ie.load(bare, **said), "onnx", output=bare.parent / "said.onnx", fold=False)


@pytest.fixture
def photo() -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (57, 83, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    return Path("photo.png")


def test_what_is_taken_where_a_file_does_not_say_is_told(
    bare: Path, photo: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    from iresnet_data.named_data import remark

    for command in (("onnx", "--checkpoint", bare, "--image-size", 32, "--no-fold"), ("predict", bare, photo, "--image-size", 32)):
        remark.cache_clear()
        caplog.clear()
        assert run(*command).status == 0
        (line,) = (entry.getMessage() for entry in caplog.records)
        assert "does not say how its images were prepared: resize 37, crop 32, bilinear, mean 0.485, 0.456, 0.406" in line
        assert "--interpolation" in line
    assert "not said; taken are resize 256" in run("inspect", bare).out
    remark.cache_clear()
    caplog.clear()
    assert run("predict", bare, photo, *SAID).status == 0
    assert caplog.records == [], "all was said"


def test_our_own_checkpoints_say_it_themselves(
    small_checkpoint: Path, photo: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert run("predict", small_checkpoint, photo).status == 0
    assert caplog.records == []


def test_options_are_recorded_and_used(bare: Path, photo: Path, run: Run) -> None:
    Path("names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    assert run("onnx", "--checkpoint", bare, *SAID, "--labels", "names.txt", "--no-fold", "-o", "a.onnx").status == 0
    spec = json.loads(Path("a.onnx.json").read_text())["spec"]
    assert (spec["resize"], spec["image_size"], spec["interpolation"], spec["mean"]) == (41, 32, "bicubic", [0.5, 0.4, 0.3])
    said = json.loads(Path("a.onnx.json").read_text())["details"]["settings"]["spec"]
    assert {*said} == {"image_size", "resize", "interpolation", "mean", "std", "labels_sha256"}
    found = ie.verify("a.onnx", checkpoint=bare, quick=True)
    assert found.passed
    assert found.candidates[0].notices == (
        "set by options of its export, and not by its checkpoint: image size, resize, interpolation, mean, std, labels",
    )
    assert "class " in run("predict", "a.onnx", photo, "--resize", 41).out
    for command in (("predict", "a.onnx", photo), ("eval", "a.onnx", "--data", "digits"), ("verify", "a.onnx")):
        outcome = run(*command, "--resize", 40)
        assert outcome.status == 2
        assert "records resize 41, and not 40" in outcome.err


def test_another_preparation_gives_other_outputs(bare: Path, photo: Path) -> None:
    """Of the same weights and the same photograph."""
    sizes = ({"resize": 41}, {"resize": 45}, {"resize": 41, "interpolation": "bicubic"})
    found = [next(ie.predict(bare, photo, image_size=32, **said)).top[0].probability for said in sizes]
    assert len(set(found)) == 3


def edited(artifact: Artifact, folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """A copy whose spec was changed in the manifest and in the file alike, with a manifest that fits; and its recorded options."""
    model = onnx.load(artifact.path)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "iresnet-export")
    document = json.loads(manifest_path(artifact.path).read_text())
    change(document["spec"], document["details"]["settings"]["spec"])
    entry.value = json.dumps(json.loads(entry.value) | {"spec": document["spec"]})
    path = folder / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    document |= {"sha256": sha256_of(path), "size_bytes": path.stat().st_size, "file": path.name}
    manifest_path(path).write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda spec, _: spec.update(resize=40), "resize is 40"),
        (lambda spec, _: spec.update(interpolation="bilinear"), "interpolation is 'bilinear'"),
        (lambda spec, _: spec.update(mean=[0.5, 0.5, 0.5]), "mean is"),
        (lambda spec, _: spec.update(labels=NAMES[::-1]), "labels is"),
        (lambda _, recorded: recorded.pop("resize"), "resize is 41"),
        (lambda _, recorded: recorded.update(resize=20), "options that cannot be"),
    ],
)
def test_a_spec_that_neither_checkpoint_nor_options_gave_is_reported(
    change: Callable[..., None], said: str, exported: Artifact, bare: Path, tmp_path: Path
) -> None:
    (found,) = ie.verify(edited(exported, tmp_path, change), checkpoint=bare, quick=True).candidates
    assert found.status == "fail"
    assert said in (found.reason or "")


def test_foreign_files_are_prepared_as_options_say(exported: Artifact, bare: Path, tmp_path: Path, photo: Path) -> None:
    model = onnx.load(exported.path)
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    said: dict[str, Any] = {"image_size": 32, "resize": 41, "interpolation": "bicubic", "labels": NAMES}
    (theirs,) = ie.predict(path, photo, checkpoint=bare, **said)
    (ours,) = ie.predict(exported, photo)
    assert theirs.top == ours.top
    assert ie.verify(path, checkpoint=bare, images=32, batch_sizes=[4], backends="onnxruntime", **said).passed


@pytest.mark.parametrize(
    ("text", "found"),
    [("cat\ndog\n", ("cat", "dog")), ("\ufeffcat\r\ndog", ("cat", "dog")), ('["cat", "a\\nb"]', ("cat", "a\nb"))],
)
def test_labels_are_lines_or_json(text: str, found: tuple[str, ...]) -> None:
    from iresnet_export.cli.options import labels_from

    Path("labels").write_bytes(text.encode())
    assert labels_from(Path("labels")) == found


@pytest.mark.parametrize("content", [b"", b"a\n\nb", b"[1, 2]", b"[", b"\xff\xfe\x00", b"[" * 10_000, b'["a"]' + b" " * (5 << 20)])
def test_what_lists_no_labels(content: bytes) -> None:
    from iresnet_export.cli.options import labels_from

    Path("labels").write_bytes(content)
    with pytest.raises(InputError, match="labels") as caught:
        labels_from(Path("labels"))
    assert "\n" not in str(caught.value)


def script_of_the_docs() -> str:
    text = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text(encoding="utf-8")
    return text[text.index("```python\n") + 10 :].partition("```")[0]


@pytest.mark.parametrize("size", [(57, 83), (83, 58), (41, 41), (500, 333), (45, 32), (1000, 41)], ids=str)
def test_the_docs_script_gives_predicts_inputs(size: tuple[int, int], exported: Artifact) -> None:
    """Bit for bit, from odd and even sides, landscape and portrait, turned by EXIF."""
    pixels = np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save("photo.jpg", exif=exif)
    shutil.copy(exported.path, "iresnet50.onnx")
    found: dict[str, Any] = {}
    exec(compile(script_of_the_docs(), "docs/preprocessing.md", "exec"), found)
    assert exported.manifest is not None
    spec: NetworkSpec = exported.manifest.spec
    wanted = preprocessing(spec)(load_image(Path("photo.jpg")))
    assert np.array_equal(found["inputs"].transpose(2, 0, 1), wanted.numpy())
    with ie.open(exported).session("onnxruntime") as session:
        assert np.array_equal(found["logits"], session.run(wanted[None]).numpy())
    (prediction,) = ie.predict(exported, "photo.jpg", batch_size=1)
    exact = np.exp(found["logits"].astype(np.float64))
    assert prediction.top[0].probability == pytest.approx(float((exact / exact.sum()).max()), rel=1e-12)


def test_the_file_says_the_steps_in_words(exported: Artifact) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    steps = json.loads(metadata["iresnet-export"])["preprocessing"]
    assert [step.split()[0] for step in steps] == ["decode", "resize", "crop", "scale,", "transpose"]
    assert "Image.Resampling.BICUBIC" in steps[1]
    assert "int(41 * longer / shorter), rounded down" in steps[1]
