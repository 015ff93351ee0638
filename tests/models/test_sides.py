"""Images that are no squares: specs, their JSON, pixels, work, and exports of their networks in every format."""

from __future__ import annotations

import json
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
from iresnet_export.artifacts.manifest import Manifest
from iresnet_export.backends.registry import format_named
from iresnet_export.benchmark.work import work_of
from iresnet_models import ModelSpec
from iresnet_models.errors import InputError
from iresnet_models.network import network_from_spec
from iresnet_models.operations import layer_multiply_accumulates, multiply_accumulates
from iresnet_models.preprocessing import noise_pixels, preprocessing, to_pixels
from iresnet_models.spec import SpecOptions, spec_from_json

WIDE = ModelSpec("iresnet", 18, num_classes=10, image_size=(24, 40), resize=44)


def test_squares_are_one_number_as_ever() -> None:
    square = ModelSpec("iresnet", 18, image_size=(32, 32), resize=40)
    assert square == ModelSpec("iresnet", 18, image_size=32, resize=40)
    assert square.to_json()["image_size"] == 32
    assert (square.sides, square.size_in_words, square.longer_side) == ((32, 32), "32", 32)
    assert "crop 32," in square.in_words


def test_others_have_two_also_in_json() -> None:
    assert WIDE.to_json()["image_size"] == [24, 40]
    assert spec_from_json(json.loads(json.dumps(WIDE.to_json()))) == WIDE
    assert (WIDE.height, WIDE.width, WIDE.longer_side) == (24, 40, 40)
    assert "crop 24 x 40," in WIDE.in_words
    assert WIDE.image_shape(as_pixels=True) == (24, 40, 3)
    assert WIDE.image_shape(as_pixels=False) == (3, 24, 40)


@pytest.mark.parametrize(
    ("sides", "resize", "said"),
    [
        ((24, 40), 39, "cropped to 24 x 40"),
        ((0, 40), 44, "cropped to 0 x 40"),
        ((24, 4000), 4000, "image_size is at most 2048"),
        ((24, -1), 44, "cropped to 24 x -1"),
    ],
)
def test_sides_that_cannot_be_are_refused(sides: tuple[int, int], resize: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ModelSpec("iresnet", 18, image_size=sides, resize=resize)


@pytest.mark.parametrize("sides", [[24], [24, 40, 3], ["24", 40], [24.0, 40], True, None])
def test_json_of_other_sides_is_refused(sides: Any) -> None:
    with pytest.raises(InputError, match="image_size"):
        spec_from_json(WIDE.to_json() | {"image_size": sides})


def test_the_resize_keeps_its_proportion_to_the_longer_side() -> None:
    assert ModelSpec("iresnet", 50).with_image_size((224, 448)).resize == 512
    assert WIDE.with_image_size(40).resize == 44


def test_work_is_counted_for_both_sides() -> None:
    assert work_of(network_from_spec(WIDE), WIDE.sides).macs == multiply_accumulates(WIDE)
    assert layer_multiply_accumulates(WIDE)["conv1"] == 12 * 20 * 64 * 3 * 49


@pytest.mark.parametrize("size", [(57, 83), (83, 58), (41, 41), (500, 333)], ids=str)
def test_the_middle_is_cropped_from_the_resized_image(size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(size).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    width, height = (int(44 * side / min(size)) for side in size)
    left, top = round((width - 40) / 2), round((height - 24) / 2)
    wanted = image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 40, top + 24))
    assert np.array_equal(to_pixels(WIDE)(image).numpy(), np.asarray(wanted))
    assert preprocessing(WIDE)(image).shape == (3, 24, 40)


def script_of_the_docs() -> str:
    text = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text(encoding="utf-8")
    return text[text.index("```python\n") + 10 :].partition("```")[0]


def test_the_docs_script_holds_for_them_too() -> None:
    source = ie.untrained("iresnet", 18, num_classes=10, image_size=(24, 40))
    ie.export(source, "onnx", output="iresnet50.onnx", fold=False)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (61, 90, 3), dtype=np.uint8)).save("photo.jpg")
    found: dict[str, Any] = {}
    exec(compile(script_of_the_docs(), "docs/preprocessing.md", "exec"), found)
    with Image.open("photo.jpg") as image:
        wanted = preprocessing(source.spec)(image.convert("RGB"))
    assert np.array_equal(found["inputs"].transpose(2, 0, 1), wanted.numpy())
    (identity,) = (json.loads(entry.value) for entry in onnx.load("iresnet50.onnx").metadata_props)
    assert identity["spec"]["image_size"] == [24, 40]
    assert identity["preprocessing"][2].startswith("crop 40 x 24 (width x height): left = round((width - 40) / 2), top = round((he")


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "onnx": ("onnx", {"outputs": ["layer1", "embedding"]}),
    "pixels": ("onnx", {"with_preprocessing": True}),
    "torchscript": ("torchscript", {"with_preprocessing": True, "fold": False}),
    "pt2": ("pt2", {"dynamic_batch": False}),
    "int8": ("onnx", {"precision": "int8", "calibrator": "minmax"}),
}


@pytest.mark.parametrize("name", [*list(CASES)[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in list(CASES)[2:])])
def test_exports_of_them_verify(name: str, tmp_path: Path) -> None:
    format, options = CASES[name]
    source = ie.untrained("iresnet", 18, num_classes=10, image_size=(24, 40))
    artifact = ie.export(source, format, output=tmp_path / f"a{format_named(format).suffix}", **options)
    assert artifact.manifest is not None
    assert artifact.manifest.spec.image_size == (24, 40)
    report = ie.verify(artifact, images=32, batch_sizes=[1, 7])
    assert [(found.status, found.reason, found.coverage) for found in report.candidates] == [
        ("pass", None, "whole file") for _ in report.candidates
    ]
    batch = noise_pixels(source.spec, 1, 3)
    with ie.open(artifact).session() as session:
        assert session.run(session.batch_of(batch, source.spec)).shape == (1, 10)
        with pytest.raises(ie.IResNetError):
            session.run(session.batch_of(batch.transpose(1, 2).contiguous(), source.spec))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("224x", "--image-size takes a side in pixels, or height and width: 224 or 224x320; not '224x'"),
        ("1x2x3", "height and width"),
        ("-3", "height and width"),
        ("0x32", "--image-size takes from 1 to 4096 pixels, not 0x32"),
        ("32x5000", "from 1 to 4096 pixels"),
        ("big", "height and width"),
    ],
)
def test_the_command_refuses_other_texts(given: str, said: str, run: Callable[..., Outcome]) -> None:
    refused = run("torchscript", "--arch", "iresnet", "--depth", 18, f"--image-size={given}", "-o", "a.ts")
    assert refused.status == 2
    assert said in " ".join(refused.err.split())


def test_the_command_takes_both(run: Callable[..., Outcome], small_checkpoint: Path) -> None:
    exports = ("torchscript", "--checkpoint", small_checkpoint, "--no-fold")
    assert run(*exports, "--image-size", "40x24", "-o", "a.ts").status == 0
    assert run(*exports, "--image-size", "40", "-o", "b.ts").status == 0
    wide, square = (Manifest.beside(Path(file)) for file in ("a.ts", "b.ts"))
    assert (wide.spec.image_size, wide.spec.resize, square.spec.image_size) == ((40, 24), 40, 40)
    assert wide.details.settings.spec is not None
    assert wide.details.settings.spec.image_size == (40, 24)
    assert "40 x 24 pixels" in run("inspect", "a.ts").out
    assert SpecOptions(image_size=(40, 40)).image_size == 40, "a square one is one size, however it is said"
    assert run("verify", "a.ts", "--images", "32", "--batch", "1").status == 0
    (script,) = {tuple(torch.jit.load("a.ts")(torch.zeros(1, 3, 40, 24)).shape)}  # type: ignore[no-untyped-call]
    assert script == (1, 10)
