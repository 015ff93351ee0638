"""Several named outputs: verified each at its place, in every format, and whatever is wrong with one of them is caught."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support import mostly_slow
from torch import nn

import iresnet_export as ie
from iresnet_export.artifacts.artifact import Artifact, record
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.aotinductor.package import PackageOptions
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.registry import format_named
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.errors import InputError
from iresnet_export.exporting import default_output, export_artifact
from iresnet_export.reporting.documents import verify_report
from iresnet_export.reporting.markdown import verify_markdown
from iresnet_export.reporting.tables import further_tables
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models.deployed import values_of
from iresnet_models.files import sha256_of
from iresnet_models.outputs import OUTPUTS
from iresnet_models.preprocessing import Preprocessing, noise_pixels, normalised

pytestmark = pytest.mark.usefixtures("shared_references")

NAMES = ("logits", "layer1", "embedding", "probabilities", "layer2", "layer3", "layer4")
QUICK = VerifyOptions(images=32, batch_sizes=(1, 7))
Model = onnx.ModelProto


def all_of(source: Source, path: Path, **options: Any) -> Artifact:
    format = {".ts": "torchscript", ".pt2": "pt2", ".onnx": "onnx"}[path.suffix]
    return export_artifact(format, source, ExportOptions(outputs=NAMES, **options), output=path)


@pytest.fixture(scope="module")
def original(small_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Folded, with every output."""
    return all_of(small_source, tmp_path_factory.mktemp("outputs") / "all.onnx")


CASES: dict[str, dict[str, Any]] = {
    "a.onnx": {},
    "a.ts": {},
    "a.pt2": {},
    "unfolded.onnx": {"fold": False},
    "one.onnx": {"dynamic_batch": False},
    "half.pt2": {"precision": "bf16"},
    "pixels.onnx": {"with_preprocessing": True},
    "pixels.ts": {"with_preprocessing": True, "precision": "fp16"},
    "unfolded pixels.pt2": {"with_preprocessing": True, "fold": False},
}


@pytest.mark.parametrize(("file", "options"), mostly_slow(list(CASES.items()), 3))
def test_every_format_gives_what_the_network_has(file: str, options: dict[str, Any], small_source: Source, tmp_path: Path) -> None:
    artifact = all_of(small_source, tmp_path / file, **options)
    assert artifact.require_intact().outputs == NAMES
    for found in verify([artifact.path], QUICK).candidates:
        assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")
        assert [output.name for output in found.further] == list(NAMES[1:])
        assert all(output.noise_ratio is not None and output.noise_ratio < NOISE_LIMIT for output in found.further)
    pixels = noise_pixels(small_source.spec, 1 if options.get("dynamic_batch") is False else 3, 5)
    with torch.no_grad():
        inputs = normalised(pixels, small_source.spec)
        exact = dict(zip(OUTPUTS, values_of(small_source.network, inputs, OUTPUTS), strict=True))
    with ie.open(artifact).session() as session:
        assert tuple(session.outputs or ()) == NAMES
        given = session.all_outputs(session.batch_of(pixels, small_source.spec))
        assert given is not None
        close = 1e-5 if options.get("precision", "fp32") == "fp32" else 0.1
        for name, values in zip(NAMES, given, strict=True):
            assert values.dtype is torch.float32
            assert values.shape == exact[name].shape
            assert float((values - exact[name]).norm() / exact[name].norm()) < close, name
        assert torch.equal(session.run(session.batch_of(pixels, small_source.spec)), given[0])


def test_onnx_files_name_them_with_their_shapes(original: Artifact) -> None:
    model = onnx.load(original.path)
    shapes = {
        value.name: [extent.dim_param or extent.dim_value for extent in value.type.tensor_type.shape.dim]
        for value in model.graph.output
    }
    assert list(shapes) == list(NAMES)
    assert shapes["logits"] == shapes["probabilities"] == ["batch", 10]
    assert shapes["embedding"] == ["batch", 512]
    assert shapes["layer1"] == ["batch", 64, 8, 8]
    assert shapes["layer4"] == ["batch", 512, 1, 1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"target": "tensorrt"}, marks=pytest.mark.slow),
        pytest.param({"keep_float": ("stem", "layer1")}, marks=pytest.mark.slow),
        pytest.param({"with_preprocessing": True}, marks=pytest.mark.slow),
    ],
)
def test_codes_give_float32_by_their_own_graph(options: dict[str, Any], small_source: Source, tmp_path: Path) -> None:
    made = {"precision": "int8", "calibration_data": "digits", "calibration_images": 32, "calibrator": "minmax", **options}
    artifact = all_of(small_source, tmp_path / "a.onnx", **made)
    model = onnx.load(artifact.path)
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {TensorProto.FLOAT}
    by_name = {node.output[0]: node for node in model.graph.node}
    for name in ("layer2", "embedding"):
        assert by_name[name].op_type in ("Mul", "Add", "Identity")
        if options.get("target") != "tensorrt":
            sources = {by_name[value].op_type for value in by_name[name].input if value in by_name}
            assert sources & {"DequantizeLinear", "Mul"}
    checked = dataclasses.replace(QUICK, data="digits", max_accuracy_drop=None)
    found = [one for one in verify([artifact.path], checked).candidates if one.status != "skipped"]
    assert found
    for one in found:
        assert (one.status, one.reason) == ("pass", None)
        for output in one.further:
            assert output.noise_ratio is None
            assert output.sqnr_db is not None
            assert output.expected_sqnr_db is not None
            assert output.sqnr_db > output.expected_sqnr_db - 3
    # What is given besides changes no code of the network's own.
    alone = export_artifact("onnx", small_source, ExportOptions(**made), output=tmp_path / "alone.onnx")
    both = (artifact.require_intact().details.quantization, alone.require_intact().details.quantization)
    assert both[0] == both[1]


# Sabotage: what was changed in the file, with a manifest that fits it.


def given_by(name: str, *nodes: onnx.NodeProto) -> Callable[[Model], None]:
    """Has other operations give an output."""

    def spoil(model: Model) -> None:
        for node in model.graph.node:
            node.output[:] = [f"{name}.before" if value == name else value for value in node.output]
        model.graph.node.extend(nodes)

    return spoil


def swapped_names(model: Model) -> None:
    """The values of both stages under each other's names, with the shapes that they have, in the order that the file tells."""
    names = {"layer1": "layer2", "layer2": "layer1"}
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for output in model.graph.output:
        output.name = names.get(output.name, output.name)
    in_order = sorted(copy.deepcopy(list(model.graph.output)), key=lambda output: NAMES.index(output.name))
    del model.graph.output[:]
    model.graph.output.extend(in_order)


SABOTAGE: dict[str, tuple[Callable[[Model], None], str]] = {
    "another tensor of the right shape": (
        given_by("embedding", helper.make_node("Mul", ["embedding.before", "embedding.before"], ["embedding"], name="x")),
        r"its embedding differs from the float64 network by [\d.e+]+ times the fp32 rounding error there",
    ),
    "one without its scale": (
        given_by("embedding", helper.make_node("Identity", ["flatten"], ["embedding"], name="x")),
        "its embedding differs from the float64 network",
    ),
    "names of stages swapped": (swapped_names, r"its layer1 has the shape \(128, 4, 4\) for an image at batch 1, and not"),
    "the logarithm": (
        given_by("probabilities", helper.make_node("LogSoftmax", ["logits"], ["probabilities"], name="x", axis=1)),
        "its probabilities are not the softmax of its logits",
    ),
    "not a number": (
        given_by(
            "layer3",
            helper.make_node("Neg", ["layer3.before"], ["minus"], name="x"),
            helper.make_node("Sqrt", ["minus"], ["layer3"], name="y"),
        ),
        "its layer3 holds NaN or infinite values at batch 1",
    ),
}  # fmt: skip


def spoiled(original: Artifact, path: Path, spoil: Callable[[Model], None]) -> Path:
    model = onnx.load(original.path)
    spoil(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("name", mostly_slow(SABOTAGE, 2))
def test_a_wrong_output_fails(name: str, original: Artifact, small_checkpoint: Path, tmp_path: Path) -> None:
    spoil, caught = SABOTAGE[name]
    path = spoiled(original, tmp_path / "all.onnx", spoil)
    record(path, dataclasses.replace(original.require_intact(), sha256=sha256_of(path), size_bytes=path.stat().st_size))
    options = dataclasses.replace(QUICK, checkpoint=small_checkpoint)
    for found in verify([path], options).candidates:
        assert found.status == "fail"
        assert "whole file" in str(found.reason) or "graph" in str(found.reason)
        assert re.search(caught, str(found.reason)), found.reason


@pytest.mark.parametrize("told", [NAMES[:-1], ("logits",), (*NAMES[:1], *NAMES[2:], NAMES[1])])
def test_a_manifest_that_tells_of_other_outputs_fails(
    told: tuple[Any, ...], original: Artifact, small_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "all.onnx"
    path.write_bytes(original.path.read_bytes())
    record(path, dataclasses.replace(original.require_intact(), outputs=told))
    (found,) = verify([path], dataclasses.replace(QUICK, checkpoint=small_checkpoint, backends=("onnxruntime",))).candidates
    assert found.status == "fail"
    assert "the file says of itself that outputs is" in str(found.reason)


def test_a_manifest_and_a_file_that_both_tell_of_more_outputs_fail(
    small_source: Source, small_checkpoint: Path, tmp_path: Path
) -> None:
    """The file's own word is made to fit; what it gives is not."""
    artifact = export_artifact("onnx", small_source, ExportOptions(), output=tmp_path / "a.onnx")
    manifest, model = artifact.require_intact(), onnx.load(artifact.path)
    (entry,) = model.metadata_props
    entry.value = json.dumps(json.loads(entry.value) | {"outputs": ["logits", "embedding"]})
    artifact.path.write_bytes(model.SerializeToString())
    size = artifact.path.stat().st_size
    told = dataclasses.replace(manifest, outputs=("logits", "embedding"), sha256=sha256_of(artifact.path), size_bytes=size)
    record(artifact.path, told)
    for found in verify([artifact.path], dataclasses.replace(QUICK, checkpoint=small_checkpoint)).candidates:
        assert found.status == "fail"
        assert "it gives logits, and not logits, embedding" in str(found.reason)


@pytest.mark.parametrize("outputs", [["embedding", "logits"], ["logits", "logits"], ["logits", "layer9"], [], "logits"])
def test_manifests_hold_only_outputs_that_can_be(outputs: Any, original: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "all.onnx"
    path.write_bytes(original.path.read_bytes())
    told = original.require_intact().to_json() | {"outputs": outputs}
    path.with_name("all.onnx.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match="output"):
        verify([path], QUICK)


def foreign(path: Path, checkpoint: Path, **options: Any) -> list[Candidate]:
    return verify([path], dataclasses.replace(QUICK, checkpoint=checkpoint, **options)).candidates


def test_our_file_without_its_manifest_is_compared_at_every_place(
    original: Artifact, small_checkpoint: Path, tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right.onnx", tmp_path / "wrong.onnx"
    right.write_bytes(original.path.read_bytes())
    for found in foreign(right, small_checkpoint):
        assert (found.status, found.reason) == ("pass", None)
        assert [output.name for output in found.further] == list(NAMES[1:])
    spoil, caught = SABOTAGE["one without its scale"]
    for found in foreign(spoiled(original, wrong, spoil), small_checkpoint):
        assert found.status == "fail"
        assert re.search(caught, str(found.reason))


def test_outputs_come_in_the_order_that_a_file_tells(original: Artifact, small_checkpoint: Path, tmp_path: Path) -> None:
    """Who reads them by number would take one for another."""

    def reordered(model: Model) -> None:
        first, *others = copy.deepcopy(list(model.graph.output))
        del model.graph.output[:]
        model.graph.output.extend([first, *reversed(others)])

    for found in foreign(spoiled(original, tmp_path / "all.onnx", reordered), small_checkpoint):
        assert found.status == "fail"
        assert f"it gives logits, {NAMES[-1]}, " in str(found.reason)


def test_outputs_of_others_are_said_not_to_be_compared(original: Artifact, small_checkpoint: Path, tmp_path: Path) -> None:
    path, model = tmp_path / "foreign.onnx", onnx.load(original.path)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    for found in foreign(path, small_checkpoint):
        assert (found.status, found.reason, found.further) == ("pass", None, ())
        assert found.notices[0].startswith(
            "only its first output was compared: it gives 6 others (layer1, embedding, probabilities"
        )


# Reports, commands and other networks.


def test_the_report_names_each_output(original: Artifact, small_checkpoint: Path, tmp_path: Path) -> None:
    path = spoiled(original, tmp_path / "all.onnx", SABOTAGE["one without its scale"][0])
    record(path, dataclasses.replace(original.require_intact(), sha256=sha256_of(path), size_bytes=path.stat().st_size))
    options = dataclasses.replace(QUICK, checkpoint=small_checkpoint, backends=("onnxruntime",))
    report = verify_report(verify([path], options), options)
    told = report.to_json()["candidates"][0]["further_outputs"]
    assert [entry["name"] for entry in told] == list(NAMES[1:])
    assert all(entry["expected_sqnr_db"] is None and "expected_sqnr_db" in entry["null_reasons"] for entry in told)
    (made,) = further_tables(report.candidates)
    verdicts = {row[2].text: row[3].text for row in made.rows}
    assert verdicts == {**dict.fromkeys(NAMES[1:], "passed"), "embedding": "failed"}
    assert "| all.onnx | ONNX Runtime | embedding | failed |" in verify_markdown(report)
    assert further_tables([]) == []


def test_commands_take_them(run: Callable[..., Any], small_checkpoint: Path, tmp_path: Path) -> None:
    export = ("onnx", "--checkpoint", small_checkpoint, "--no-fold", "-o", "a.onnx")
    made = run(*export, "--outputs", "layer4, embedding")
    assert made.status == 0
    assert "Outputs: logits, layer4, embedding." in made.out
    assert "gives" in (shown := run("inspect", "a.onnx").out)
    assert "logits, layer4, embedding" in shown
    checked = run("verify", "a.onnx", "--backend", "onnxruntime", "--images", "32", "--batch", "1,7")
    assert checked.status == 0
    assert "Outputs beside the logits" in checked.out
    assert run("eval", "a.onnx", "--data", "digits", "--backend", "onnxruntime").status == 0
    for given, said in (("layer9", "There is no output 'layer9'"), ("layer4,layer4", "named more than once"), ("", "no output ''")):
        refused = run(*export[:-1], "b.onnx", "--outputs", given)
        assert refused.status == 2
        assert said in " ".join(refused.err.split())
        assert not Path("b.onnx").exists()
    other = run(*export, "--outputs", "embedding")
    assert other.status == 2, "a file of another recipe is not replaced"


def test_default_places_tell_them_apart(small_source: Source) -> None:
    onnx_format = format_named("onnx")
    plain, pixels = ExportOptions(), ExportOptions(with_preprocessing=True)
    assert plain.given == ("logits",)
    assert pixels.given == ("logits", "probabilities")
    assert ExportOptions(with_preprocessing=True, outputs=("embedding",)).given == ("logits", "embedding")
    names = [
        default_output(onnx_format, small_source, dataclasses.replace(options, outputs=outputs)).name
        for options in (plain, pixels)
        for outputs in ((), ("probabilities",), ("layer1", "embedding"))
    ]
    assert names == [
        "iresnet18.onnx", "iresnet18-probabilities.onnx", "iresnet18-layer1-embedding.onnx",
        "iresnet18-pre.onnx", "iresnet18-pre.onnx", "iresnet18-pre-layer1-embedding.onnx",
    ]  # fmt: skip


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).flatten(1))


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_other_networks_give_probabilities_and_no_places(format: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = ie.from_module(Small(), preprocessing=Preprocessing(image_size=16, resize=16), name="small")
    artifact = ie.export(source, format, output=tmp_path / f"a.{format}", outputs=["probabilities"])
    report = ie.verify(artifact, source=source, images=32, batch_sizes=[1, 7])
    for found in report.candidates:
        assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")
        assert [output.name for output in found.further_outputs] == ["probabilities"]
    with pytest.raises(InputError, match="small is of no family of this project, and where its embedding would be is not known"):
        ie.export(source, format, output=tmp_path / f"b.{format}", outputs=["embedding"])


def test_predictions_come_from_the_logits(original: Artifact, artifacts: dict[str, Artifact]) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    (plain,), (many,) = (list(ie.predict(artifact, "photo.png")) for artifact in (artifacts["onnx"], original))
    assert [entry.label for entry in plain.top] == [entry.label for entry in many.top]
    assert [entry.probability for entry in plain.top] == pytest.approx([entry.probability for entry in many.top], rel=1e-3)


@pytest.mark.slow
@pytest.mark.compiler
def test_packages_give_them_too(small_source: Source, tmp_path: Path) -> None:
    options = PackageOptions(outputs=("embedding", "layer1"))
    artifact = export_artifact("aotinductor", small_source, options, output=tmp_path / "a.aoti.pt2")
    assert artifact.parent().require_intact().outputs == artifact.require_intact().outputs == ("logits", "embedding", "layer1")
    (found,) = verify([artifact.path], QUICK).candidates
    assert (found.status, found.reason, found.coverage) == ("pass", None, "parent")
    assert [output.name for output in found.further] == ["embedding", "layer1"]
    record(artifact.path, dataclasses.replace(artifact.require_intact(), outputs=("logits", "embedding")))
    (told,) = verify([artifact.path], QUICK).candidates
    assert told.status == "fail"
    assert "outputs" in str(told.reason)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_have_them_as_bindings(precision: Any, small_source: Source, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(
        flavour="tensorrt_rtx",
        precision=precision,
        target="tensorrt",
        outputs=NAMES,
        calibration_data="digits",
        calibration_images=32,
    )
    artifact = export_artifact("engine", small_source, options, output=tmp_path / "a.engine")
    assert artifact.require_intact().outputs == NAMES
    assert [value.name for value in onnx.load(artifact.parent().path).graph.output] == list(NAMES)
    (found,) = verify([artifact.path], dataclasses.replace(QUICK, quick=True)).candidates
    assert found.reason is None or "without --quick" in found.reason


def test_the_script_in_the_docs_gives_what_it_names() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
    script = page.partition("\n## Outputs\n")[2].partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(compile(script, "outputs.py", "exec"), found)  # the page's own text
    shapes = [tuple(found[name].shape) for name in ("logits", "embedding", "layer4")]
    assert shapes == [(4, 10), (4, 512), (4, 512, 1, 1)]
