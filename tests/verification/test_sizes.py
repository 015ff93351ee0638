"""Files that take images of any size: verified at three, and wrong at none without being caught."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from conftest import Outcome
from torch import nn

import iresnet_export as ie
from iresnet_export.artifacts.artifact import Artifact, record
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.pt2.reading import load_program
from iresnet_export.errors import ArtifactError, InputError
from iresnet_export.exporting import export_artifact
from iresnet_export.reporting.documents import verify_report
from iresnet_export.reporting.markdown import verify_markdown
from iresnet_export.reporting.remarks import references_in_words
from iresnet_export.reporting.tables import sizes_tables
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_export.verification.sizes import other_sides
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models import ModelSpec
from iresnet_models.files import sha256_of
from iresnet_models.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("shared_references")

QUICK = VerifyOptions(images=32, batch_sizes=(1, 7))
SIZES = [(16, 16), (40, 49)]


@pytest.fixture(scope="module")
def free(small_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    options = ExportOptions(dynamic_size=True, outputs=("layer1", "embedding"))
    return export_artifact("onnx", small_source, options, output=tmp_path_factory.mktemp("sizes") / "free.onnx")


@pytest.mark.parametrize(
    ("sides", "free", "others"),
    [
        (224, (32, 448), ((32, 32), (280, 337))),
        ((224, 320), (32, 640), ((32, 32), (280, 481))),
        (32, (16, 64), ((16, 16), (40, 49))),
        (2048, (32, 2048), ((32, 32), (2048, 2048))),
    ],
)
def test_which_sizes_are_free_and_which_are_verified(sides: Any, free: tuple[int, int], others: Any) -> None:
    spec = ModelSpec("iresnet", 18).with_image_size(sides)
    assert spec.free_sides == free
    assert other_sides(spec) == others


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "a.ts": ("torchscript", {"with_preprocessing": True}),
    "a.pt2": ("pt2", {"outputs": ("layer1",)}),
    "one.pt2": ("pt2", {"dynamic_batch": False, "precision": "bf16"}),
    "pixels.onnx": ("onnx", {"with_preprocessing": True, "fold": False}),
    "a.aoti.pt2": ("aotinductor", {"outputs": ("embedding",)}),
}
MARKS = {"one.pt2": [pytest.mark.slow], "pixels.onnx": [pytest.mark.slow], "a.aoti.pt2": [pytest.mark.slow, pytest.mark.compiler]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in CASES])
def test_each_format_is_verified_at_three_sizes(name: str, small_source: Source, tmp_path: Path) -> None:
    format, options = CASES[name]
    made = ExportOptions(dynamic_size=True, **options)
    artifact = export_artifact(format, small_source, made, output=tmp_path / name)
    assert artifact.require_intact().sides == (16, 64)
    for found in verify([artifact.path], QUICK).candidates:
        compared = "parent" if format == "aotinductor" else "whole file"
        assert (found.status, found.reason, found.coverage) == ("pass", None, compared)
        assert [size.image_size for size in found.sizes] == SIZES
        assert all(size.noise_ratio is not None and size.noise_ratio < NOISE_LIMIT for size in found.sizes)
        assert all([output.name for output in size.further_outputs] == list(made.given[1:]) for size in found.sizes)
    with ie.open(artifact).session() as session:
        for height, width, fits in ((40, 49, True), (16, 64, True), (15, 40, False), (40, 65, False)):
            shape = (1, height, width, 3) if session.with_preprocessing else (1, 3, height, width)
            batch = torch.zeros(shape, dtype=torch.uint8 if session.with_preprocessing else torch.float32)
            if fits:
                assert session.run(batch).shape == (1, 10)
            else:
                with pytest.raises(ArtifactError, match=f"takes images of 16 to 64 pixels a side, not of {height} x {width}"):
                    session.run(batch)


def test_programs_refuse_other_sizes_themselves(small_source: Source, tmp_path: Path) -> None:
    artifact = export_artifact("pt2", small_source, ExportOptions(dynamic_size=True, fold=False), output=tmp_path / "a.pt2")
    module = load_program(artifact.path).module()
    assert module(torch.zeros(2, 3, 64, 17)).shape == (2, 10)
    with pytest.raises(AssertionError, match="Guard failed"):
        module(torch.zeros(2, 3, 65, 17))


def test_graphs_have_symbols_for_height_and_width(free: Artifact, small_source: Source, tmp_path: Path) -> None:
    def shapes(model: onnx.ModelProto) -> dict[str, list[Any]]:
        ends = (*model.graph.input, *model.graph.output)
        return {end.name: [dim.dim_param or dim.dim_value for dim in end.type.tensor_type.shape.dim] for end in ends}

    assert shapes(onnx.load(free.path)) == {
        "input": ["batch", 3, "height", "width"],
        "logits": ["batch", 10],
        "layer1": ["batch", 64, "layer1_height", "layer1_width"],
        "embedding": ["batch", 512],
    }
    for found in verify([free.path], QUICK).candidates:
        assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")
        assert [size.image_size for size in found.sizes] == SIZES


@pytest.mark.slow
def test_codes_are_held_to_their_own_graph_and_what_they_cost_is_said(small_source: Source, tmp_path: Path) -> None:
    """Ranges that were measured at 32 pixels say little of other sizes of a network that was never trained: too little at one."""
    options = ExportOptions(
        precision="int8", calibration_data="digits", calibration_images=32, calibrator="minmax", dynamic_size=True
    )
    artifact = export_artifact("onnx", small_source, options, output=tmp_path / "a.onnx")
    for found in verify([artifact.path], dataclasses.replace(QUICK, data="digits")).candidates:
        assert [size.reason is None for size in found.sizes] == [True, False]
        assert found.status == "fail"
        assert str(found.reason).startswith("for images of 40 x 49 pixels: at batch 1 ")
        assert found.notices[0].startswith("ranges were measured at 32 pixels: signal to noise is ")
        assert [size.noise_ratio for size in found.sizes] == [None, None]
        assert all(size.sqnr_db is not None for size in found.sizes)


def test_what_is_wrong_at_another_size_alone_is_caught(free: Artifact, small_checkpoint: Path, tmp_path: Path) -> None:
    """The largest of one value is their average: at 32 pixels nothing shows."""
    path, model = tmp_path / "free.onnx", onnx.load(free.path)
    (pool,) = [node for node in model.graph.node if node.op_type == "GlobalAveragePool"]
    pool.op_type = "GlobalMaxPool"
    path.write_bytes(model.SerializeToString())
    record(path, dataclasses.replace(free.require_intact(), sha256=sha256_of(path), size_bytes=path.stat().st_size))
    options = dataclasses.replace(QUICK, checkpoint=small_checkpoint, backends=("onnxruntime",))
    verification = verify([path], options)
    (found,) = verification.candidates
    assert found.status == "fail"
    assert found.outputs is not None
    assert found.outputs.reason is None
    assert "for images of 40 x 49 pixels: at batch 1 the outputs differ from the float64 network" in str(found.reason)
    assert "16 x 16" not in str(found.reason)
    report = verify_report(verification, options)
    (made,) = sizes_tables(report.candidates)
    assert [(row[2].text, row[3].text) for row in made.rows] == [("16 x 16", "passed"), ("40 x 49", "failed")]
    assert "| free.onnx | ONNX Runtime | 40 x 49 | failed |" in verify_markdown(report)
    references = list(references_in_words(report))
    for reference, size in zip(references, ("32", "16", "40 x 49"), strict=True):
        assert f" at {size} pixels; " in reference
    told = report.to_json()["candidates"][0]["other_sizes"]
    assert [entry["image_size"] for entry in told] == [[16, 16], [40, 49]]


def test_a_manifest_that_tells_of_one_size_fails(free: Artifact, small_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "free.onnx"
    path.write_bytes(free.path.read_bytes())
    record(path, dataclasses.replace(free.require_intact(), sides=None))
    for found in verify([path], dataclasses.replace(QUICK, checkpoint=small_checkpoint)).candidates:
        assert found.status == "fail"
        assert "takes images of 32 by 32, and the file takes 3 by height by width" in str(found.reason)


@pytest.mark.parametrize("sides", [[1, 64], [16, 65], [64, 16], [16], "any"])
def test_manifests_hold_only_sides_that_are_free(sides: Any, free: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "free.onnx"
    path.write_bytes(free.path.read_bytes())
    told = free.require_intact().to_json() | {"sides": sides}
    path.with_name("free.onnx.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match="sides"):
        verify([path], QUICK)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sides": [1, 60000]}, r"sides is \[1, 60000\], and the checkpoint that it is \[16, 64\]"),
        ({"mean": [0.0, 0.0, 0.0]}, r"mean is \[0.0, 0.0, 0.0\], and the checkpoint that it is \["),
        ({"labels": [*"abcdefghij"]}, None),
    ],
)
def test_what_a_file_without_a_manifest_says_of_its_images_is_the_checkpoints_word(
    changed: dict[str, Any], words: str | None, free: Artifact, small_checkpoint: Path, tmp_path: Path
) -> None:
    """`predict` prepares them by the former. The checkpoint has no labels, so that none contradict it."""
    path, model = tmp_path / "free.onnx", onnx.load(free.path)
    (entry,) = model.metadata_props
    told = json.loads(entry.value)
    (told if "sides" in changed else told["spec"]).update(changed)
    entry.value = json.dumps(told)
    path.write_bytes(model.SerializeToString())
    options = dataclasses.replace(QUICK, checkpoint=small_checkpoint, backends=("onnxruntime",))
    (found,) = verify([path], options).candidates
    assert found.status == ("pass" if words is None else "fail")
    assert re.search(words or "^None$", str(found.reason))


def test_what_cannot_be_free_is_refused(small_source: Source, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine files take images of one size; leave out --dynamic-size"):
        ie.export(small_source, "engine", output=tmp_path / "a.engine", dynamic_size=True)
    with pytest.raises(InputError, match="leave out --dynamic-size or --with-preprocessing"):
        ie.export(small_source, "pt2", output=tmp_path / "a.pt2", dynamic_size=True, with_preprocessing=True)
    assert list(tmp_path.iterdir()) == []


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_other_networks_are_free_where_they_allow_it(format: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = ie.from_module(Small(), preprocessing=Preprocessing(image_size=16, resize=16), name="small")
    artifact = ie.export(source, format, output=tmp_path / f"a.{format}", dynamic_size=True)
    report = ie.verify(artifact, source=source, images=32, batch_sizes=[1, 7])
    for found in report.candidates:
        assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")
        assert [size.image_size for size in found.other_sizes] == [(8, 8), (20, 25)]


class Fixed(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.reshape(len(x), 3, 16, 16))


def test_a_network_of_one_size_is_refused(tmp_path: Path) -> None:
    source = ie.from_module(Fixed(), preprocessing=Preprocessing(image_size=16, resize=16), name="fixed")
    with pytest.raises(ie.IResNetError, match=r"torch\.export refused the network"):
        ie.export(source, "pt2", output=tmp_path / "a.pt2", dynamic_size=True)


def test_the_commands_take_it(run: Callable[..., Outcome], small_checkpoint: Path) -> None:
    made = run("torchscript", "--checkpoint", small_checkpoint, "--no-fold", "--dynamic-size", "-o", "a.ts")
    assert made.status == 0
    assert "Images of 16 to 64 pixels a side." in made.out
    assert "16 to 64 pixels a side" in run("inspect", "a.ts").out
    checked = run("verify", "a.ts", "--images", "32", "--batch", "1")
    assert checked.status == 0
    assert "Images of other sizes" in checked.out
    assert "40 x 49" in checked.out
    assert run("eval", "a.ts", "--data", "digits").status == 0
