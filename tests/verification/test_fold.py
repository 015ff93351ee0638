"""Folded exports: what is left in the graph, that the weights are verified through the fold, and that a wrong fold is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import Outcome
from onnx import numpy_helper

from iresnet_export.artifacts.artifact import Artifact, manifest_path, open_artifact, record
from iresnet_export.artifacts.source import Source, source_from_checkpoint
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.registry import format_named
from iresnet_export.errors import ArtifactError, ExportError
from iresnet_export.exporting import _planned, export_artifact
from iresnet_export.verification import fold as fold_module
from iresnet_export.verification.fold import FOLD_LIMIT
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models import ModelSpec, Network, save_checkpoint
from iresnet_models.folded import FoldedNetwork
from iresnet_models.initialization import untrained_network

QUICK = VerifyOptions(images=32, batch_sizes=(8,))


def verdict(path: Path) -> Candidate:
    return verify([path], QUICK).candidates[0]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def source_with(change: Callable[[Network], None], path: Path, depth: int = 50) -> Source:
    network = untrained_network(ModelSpec("iresnet", depth, num_classes=10, image_size=32, resize=32), seed=4)
    with torch.no_grad():
        change(network)
    save_checkpoint(path, network)
    return source_from_checkpoint(path)


def negative_scales(network: Network) -> None:
    network.layer2[2].bn0.weight[[3, 5]] *= -1
    network.layer3[5].bn2.weight[7] *= -1


def channels_that_never_switch(network: Network) -> None:
    """In front of a padded 3x3 convolution (depth 34), where a constant cannot go into the bias: the affine stays."""
    network.layer3[3].bn0.weight[[1, 9]] = 1e-5
    network.layer3[3].bn0.bias[[1, 9]] = 0.7


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory, small_source: Source) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("folded")
    names = {"torchscript": "small.ts", "onnx": "small.onnx"}
    return {name: export_artifact(name, small_source, ExportOptions(), output=folder / file) for name, file in names.items()}


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_folded_artifacts_verify(name: str, folded: dict[str, Artifact]) -> None:
    found = verdict(folded[name].path)
    assert (found.status, found.reason) == ("pass", None)
    assert found.weights is not None
    assert found.weights.worst_ulp <= 0.5


def test_the_manifest_holds_plan_and_proof_and_nothing_large(folded: dict[str, Artifact]) -> None:
    manifest = folded["onnx"].require_intact()
    details = manifest.details["fold"]
    assert manifest.fold
    assert 0.3 < details["proof"]["error_ratio"] <= FOLD_LIMIT
    assert details["plan"]["format"] == "iresnet-export/fold/1"
    assert details["exactness"]
    assert len(json.dumps(details)) < 50_000


def test_positive_scales_leave_one_addition_per_block_and_nothing_else(tmp_path: Path) -> None:
    source = source_with(lambda network: None, tmp_path / "c.pt")
    artifact = export_artifact("onnx", source, ExportOptions(), output=tmp_path / "x.onnx")
    assert operators(artifact.path) == {
        "Conv": 53,
        "Relu": 49,
        "Add": 16,
        "MaxPool": 4,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }


@pytest.mark.parametrize("name", [pytest.param("torchscript", marks=pytest.mark.slow), "onnx"])
def test_negative_scales_leave_one_multiplication_in_front_of_their_relu(name: str, tmp_path: Path) -> None:
    source = source_with(negative_scales, tmp_path / "c.pt", depth=34)
    output = tmp_path / ("x.onnx" if name == "onnx" else "x.ts")
    export_artifact(name, source, ExportOptions(), output=output)
    if name == "onnx":
        found = operators(output)
        assert (found["Mul"], found["Add"], found["BatchNormalization"]) == (2, 16, 0)
    assert verdict(output).status == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_kept_affines_are_exported_and_read_back(name: str, tmp_path: Path) -> None:
    source = source_with(channels_that_never_switch, tmp_path / "c.pt", depth=34)
    output = tmp_path / ("x.onnx" if name == "onnx" else "x.ts")
    artifact = export_artifact(name, source, ExportOptions(), output=output)
    kept = artifact.require_intact().details["fold"]["plan"]["norms"]["layer3.3.bn0"]["kept"]
    assert kept == [1, 9]
    assert verdict(output).status == "pass"
    if name == "onnx":
        found = operators(output)
        assert (found["Mul"], found["Add"], found["BatchNormalization"]) == (1, 17, 0)
        model = onnx.load(output)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("affine0.factor"))
        values = numpy_helper.to_array(tensor).copy()
        values[0, 4] *= 1.01
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        output.write_bytes(model.SerializeToString())
        vouch(output)
        assert "layer3.3.affine0.factor.constant[0, 4, 0, 0]" in str(verdict(output).reason)


def vouch(path: Path) -> None:
    from iresnet_models.files import sha256_of

    manifest = open_artifact(path).manifest
    assert manifest is not None
    record(path, dataclasses.replace(manifest, sha256=sha256_of(path)))


def test_one_folded_weight_changed_by_a_percent_is_named(small_source: Source, tmp_path: Path) -> None:
    output = tmp_path / "x.onnx"
    export_artifact("onnx", small_source, ExportOptions(), output=output)
    model = onnx.load(output)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "layer3.0.conv2.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[17, 5, 1, 2] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    output.write_bytes(model.SerializeToString())
    vouch(output)
    found = verdict(output)
    assert found.status == "fail"
    assert "layer3.0.conv2.weight[17, 5, 1, 2]" in str(found.reason)


def test_a_manifest_without_its_plan_is_no_proof(small_source: Source, tmp_path: Path) -> None:
    output = tmp_path / "x.onnx"
    artifact = export_artifact("onnx", small_source, ExportOptions(), output=output)
    manifest = artifact.require_intact()
    about = manifest.details["fold"]
    other = about | {"plan": {"format": "other"}}
    for plan, message in (({}, r"details\.fold\.plan is missing"), (other, r"details\.fold\.plan: This is not the plan of a fold")):
        record(output, dataclasses.replace(manifest, details={**manifest.details, "fold": plan}))
        with pytest.raises(ArtifactError, match=message):
            verdict(output)
    record(output, dataclasses.replace(manifest, details={}))
    found = verdict(output)
    assert found.status == "fail"
    assert "no plan of it" in str(found.reason)
    assert manifest_path(output).exists()


@pytest.mark.parametrize(
    ("layer", "place"),
    [("conv1", "stem"), ("layer3.1.conv2", r"stage 3 block 1 \(end\)"), ("fc", "classifier")],
)
def test_a_fold_that_is_wrong_is_refused_and_its_place_named(
    layer: str, place: str, small_source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = fold_module.fold_by_plan

    def wrong(*arguments: Any) -> FoldedNetwork:
        made = real(*arguments)
        made.get_parameter(f"{layer}.bias").data.add_(1e-3)
        return made

    monkeypatch.setattr(fold_module, "fold_by_plan", wrong)
    with pytest.raises(ExportError, match=rf"refused: .* it departs in {place}.*--no-fold"):
        export_artifact("onnx", small_source, ExportOptions(), output=tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_bounds_that_were_measured_over_noise_are_said(run: Callable[..., Outcome], tmp_path: Path) -> None:
    def dead_channel(network: Network) -> None:
        network.layer3[3].bn0.weight[2] = 0.0
        network.layer3[3].bn0.bias[2] = -1.0

    source_with(dead_channel, tmp_path / "bounded.pt", depth=34)
    source_with(lambda network: None, tmp_path / "free.pt", depth=18)
    outcome = run("onnx", "--checkpoint", "bounded.pt")
    assert outcome.status == 0
    assert "--calibration-data FOLDER" in outcome.err
    outcome = run("onnx", "--checkpoint", "bounded.pt", "--calibration-data", "digits", "-o", "x.onnx")
    assert "--calibration-data FOLDER" not in outcome.err
    assert "training images of digits" in outcome.out
    assert "--calibration-data" not in run("onnx", "--checkpoint", "free.pt", "-o", "y.onnx").err


@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_a_parent_folded_by_other_images_is_not_the_same(name: str, small_source: Source, tmp_path: Path) -> None:
    """So that `trt` and `pt2 --compile` make theirs anew where --calibration-data is given."""
    noise, digits, unfolded = (
        _planned(format_named(name), small_source, options, tmp_path / "x")
        for options in (
            ExportOptions(),
            ExportOptions(calibration_data="digits"),
            ExportOptions(calibration_data="digits", fold=False),
        )
    )
    assert noise.same_recipe(noise)
    assert not noise.same_recipe(digits)
    assert "calibration_data" not in unfolded.details["settings"]


def test_the_source_is_left_as_it_was(small_source: Source, tmp_path: Path) -> None:
    before = copy.deepcopy(small_source.network.state_dict())
    export_artifact("onnx", small_source, ExportOptions(), output=tmp_path / "x.onnx")
    after = small_source.network.state_dict()
    assert all(np.array_equal(before[key].numpy(), after[key].numpy()) for key in before)


def test_plain_resnets_fold_too(tmp_path: Path) -> None:
    network = untrained_network(ModelSpec("resnet", 18, num_classes=10, image_size=32, resize=32))
    save_checkpoint(tmp_path / "c.pt", network)
    artifact = export_artifact("onnx", source_from_checkpoint(tmp_path / "c.pt"), ExportOptions(), output=tmp_path / "x.onnx")
    assert operators(artifact.path)["BatchNormalization"] == 0
    assert verdict(artifact.path).status == "pass"
