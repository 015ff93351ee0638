"""Folded exports: what is left in the graph, that the weights are verified through the fold, and that a wrong fold is refused."""

from __future__ import annotations

import copy
import dataclasses
import functools
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

from iresnet_export.artifacts.artifact import Artifact, open_artifact, record
from iresnet_export.artifacts.manifest import Fold, manifest_path
from iresnet_export.artifacts.source import Source, source_from_checkpoint, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.registry import format_named
from iresnet_export.errors import ArtifactError, ExportError, InputError
from iresnet_export.exporting import _planned, export_artifact
from iresnet_export.system.progress import no_progress
from iresnet_export.verification import fold as fold_module
from iresnet_export.verification.fold import FOLD_LIMIT, FoldSample, fold_sample, proved_fold
from iresnet_export.verification.reference import noise_floor
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models import ModelSpec, Network, save_checkpoint
from iresnet_models.files import write_json
from iresnet_models.folded import FoldedNetwork
from iresnet_models.folding import fold, fold_by_plan
from iresnet_models.folding_decisions import plan_fold, stream_norms
from iresnet_models.folding_plan import FoldPlan
from iresnet_models.initialization import untrained_network

QUICK = VerifyOptions(images=32, batch_sizes=(8,))


@pytest.fixture(autouse=True)
def _nothing_is_proved_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of these tests change how a fold is made."""
    monkeypatch.setattr(fold_module, "_PROVED", {})


def verdict(path: Path) -> Candidate:
    return verify([path], QUICK).candidates[0]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def source_with(change: Callable[[Network], None], path: Path, depth: int = 50, arch: str = "iresnet") -> Source:
    network = untrained_network(ModelSpec(arch, depth, num_classes=10, image_size=32, resize=32), seed=4)
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
    fold = manifest.details.fold
    assert fold is not None
    assert manifest.fold
    assert 0.3 < fold.proof.error_ratio <= FOLD_LIMIT
    assert fold.exactness
    told = manifest.to_json()["details"]["fold"]
    assert told["plan"]["format"] == "iresnet-export/fold/1"
    assert len(json.dumps(told)) < 50_000


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
    fold = artifact.require_intact().details.fold
    assert fold is not None
    assert fold.plan.norms["layer3.3.bn0"].kept == (1, 9)
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


# Folds that are too inexact.


def scales_of_nearly_nothing(share: float, *, least: float = 1e-8) -> Callable[[Network], None]:
    """A share of each stream BatchNorm's channels, whose scale is all but zero."""

    def change(network: Network) -> None:
        generator = torch.Generator().manual_seed(0)
        for site in stream_norms(network):
            site.norm.weight[torch.rand(site.norm.num_features, generator=generator) < share] *= least

    return change


def scales_down_to_nearly_nothing(network: Network) -> None:
    """A fifth of all BatchNorms' channels, over eight decades."""
    generator = torch.Generator().manual_seed(0)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        chosen = torch.rand(norm.num_features, generator=generator) < 0.2
        norm.weight[chosen] *= 10 ** (-8 * torch.rand(norm.num_features, generator=generator))[chosen]


def few(source: Source) -> FoldSample:
    sample = fold_sample(source, None)
    return dataclasses.replace(sample, images=sample.images[:8], others=sample.others[:16])


def whole_ratio(sample: FoldSample) -> float:
    """The error ratio of the fold that keeps nothing, over the images that prove."""
    folded = fold(sample.source.network, sample=sample.images)
    return noise_floor(folded, sample.others, sample.exact, (8,)) / sample.noise_floor


def require_kept(found: Fold, whole: float, most: float, network: Network) -> None:
    """No more than this share of the channels, which is said, and the rest is exact enough."""
    channels = sum(site.norm.num_features for site in stream_norms(network))
    kept = sum(len(norm.kept) for norm in found.plan.norms.values())
    assert 0 < kept < most * channels
    assert found.proof.error_ratio < 1.4
    assert found.kept is not None
    assert found.kept.startswith(f"{kept} of {channels} channels of the stream's BatchNorms keep scale and shift, in ")
    assert found.kept.endswith(f"without them its error is {whole:.3g} times the unfolded network's own, and up to 2 is rounding")


@pytest.mark.slow
def test_what_costs_too_much_precision_is_kept(tmp_path: Path) -> None:
    sample = few(source_with(scales_of_nearly_nothing(0.5), tmp_path / "c.pt", 50, "iresgroupfix"))
    whole = whole_ratio(sample)
    assert whole > 2.2
    folded, found = proved_fold(sample, no_progress)
    require_kept(found, whole, 0.3, sample.source.network)
    assert folded.plan == found.plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "change", "at_least", "most_kept"),
    [(50, scales_of_nearly_nothing(0.8), 4, 0.45), (101, scales_down_to_nearly_nothing, 2.2, 0.15)],
    ids=["most", "a fifth"],
)
def test_hostile_states_are_exported_and_verify(
    depth: int, change: Callable[[Network], None], at_least: float, most_kept: float, tmp_path: Path
) -> None:
    source = source_with(change, tmp_path / "c.pt", depth, "iresgroupfix")
    whole = whole_ratio(fold_sample(source, None))
    assert whole > at_least
    artifact = export_artifact("onnx", source, ExportOptions(), output=tmp_path / "x.onnx")
    found = artifact.require_intact().details.fold
    assert found is not None
    require_kept(found, whole, most_kept, source.network)
    assert verdict(artifact.path).status == "pass"


@pytest.mark.slow
def test_int8_keeps_what_it_has_to_and_verifies(tmp_path: Path) -> None:
    source = source_with(scales_of_nearly_nothing(0.5), tmp_path / "c.pt", 50, "iresgroupfix")
    options = ExportOptions(precision="int8", calibration_data="digits")
    artifact = export_artifact("onnx", source, options, output=tmp_path / "x.onnx")
    fold = artifact.require_intact().details.fold
    assert fold is not None
    assert fold.proof.error_ratio <= FOLD_LIMIT
    assert fold.kept is not None
    assert verdict(artifact.path).status == "pass"


@pytest.mark.slow
def test_the_most_inexact_fold_is_told_from_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its clamp the fold of scales of 1e-6 is wrong by hundreds of noise floors, all of them rounding."""

    source = source_with(scales_of_nearly_nothing(0.05, least=1e-6), tmp_path / "c.pt")
    monkeypatch.setattr(fold_module, "plan_fold", functools.partial(plan_fold, tau=1e30))
    sample = few(source)
    plan = plan_fold(source.network, sample=sample.images, tau=1e30)
    assert noise_floor(fold_by_plan(source.network, plan), sample.others, sample.exact, (8,)) > 100 * sample.noise_floor
    _, fold = proved_fold(sample, no_progress)
    assert fold.proof.error_ratio < 1.4
    assert 0 < sum(len(norm.kept) for norm in fold.plan.norms.values()) < 1000


@pytest.mark.slow
def test_channels_that_other_images_take_beyond_their_bounds_are_kept(tmp_path: Path) -> None:
    source = source_with(scales_of_nearly_nothing(0.05, least=1e-2), tmp_path / "c.pt")
    sample = few(source)
    assert proved_fold(sample, no_progress)[1].kept is None
    _, fold = proved_fold(dataclasses.replace(sample, others=1.5 * sample.others), no_progress)
    assert fold.kept is not None
    assert fold.kept.endswith("other images take some beyond the bound that they were to be folded by")
    assert fold.proof.error_ratio <= FOLD_LIMIT
    assert 0 < sum(len(norm.kept) for norm in fold.plan.norms.values()) < 300


@pytest.mark.slow
def test_what_was_kept_is_said(run: Callable[..., Outcome], tmp_path: Path) -> None:
    def never_off(network: Network) -> None:
        network.layer3[1].bn2.weight[[1, 9]] = 1e-5
        network.layer3[1].bn2.bias[[1, 9]] = 0.7

    source_with(never_off, tmp_path / "c.pt", depth=18)
    outcome = run("onnx", "--checkpoint", "c.pt")
    assert (
        "Folded: 2 of 960 channels of the stream's BatchNorms keep scale and shift, in 1 of 4: a padded convolution reads some "
        "whose ReLU always lets them through. Over 32 images of seeded noise its error is "
    ) in " ".join(outcome.out.split())


def test_the_images_that_prove_did_not_choose(small_source: Source) -> None:
    for data, kind in ((None, "images of seeded noise"), ("digits", "training images of digits")):
        sample = fold_sample(small_source, data)
        assert sample.image_source.endswith(kind)
        chosen, others = ({image.numpy().tobytes() for image in images} for images in (sample.images, sample.others))
        assert (len(chosen), len(others)) == (64, 32)
        assert not chosen & others


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, small_source: Source, tmp_path: Path) -> None:
    network = copy.deepcopy(small_source.network)
    network.layer2[0].conv1.weight.data[3, 0, 0, 0] = value
    source = dataclasses.replace(small_source, network=network)
    for options in (ExportOptions(), ExportOptions(precision="bf16")):
        with pytest.raises(InputError, match="NaN or infinite"):
            export_artifact("onnx", source, options, output=tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "folds"), [("layer4.1.bn2", True), ("bn1", False)])
def test_values_beyond_half_precision_are_in_the_way_only_where_they_stay(name: str, folds: bool, small_source: Source) -> None:
    """A fold moves the last BatchNorm's scale into the classifier; the first convolution's output it cannot make smaller."""
    network = copy.deepcopy(small_source.network)
    norm = network.get_submodule(name)
    assert isinstance(norm, torch.nn.BatchNorm2d)
    for values in (norm.weight.data, norm.bias.data):
        values *= 5e4
    network.fc.weight.data *= 1e-4
    sample = few(dataclasses.replace(small_source, network=network))
    if folds:
        assert proved_fold(sample, no_progress, precision="fp16")[1].proof.own_precision is None
    else:
        with pytest.raises(ExportError, match="over 32 images of seeded noise its values leave the range of fp16"):
            proved_fold(sample, no_progress, precision="fp16")


def vouch(path: Path) -> None:
    from iresnet_models.files import sha256_of

    manifest = open_artifact(path).manifest
    assert manifest is not None
    record(path, dataclasses.replace(manifest, sha256=sha256_of(path)))


@pytest.mark.slow
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
    told = manifest.to_json()
    other = told["details"]["fold"] | {"plan": {"format": "other"}}
    for plan, message in (({}, r"details\.fold\.plan is missing"), (other, r"details\.fold\.plan: This is not the plan of a fold")):
        write_json(manifest_path(output), told | {"details": told["details"] | {"fold": plan}})
        with pytest.raises(ArtifactError, match=message):
            verdict(output)
    record(output, dataclasses.replace(manifest, details=dataclasses.replace(manifest.details, fold=None)))
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_fold_that_is_wrong_by_less_than_rounding_is_refused(
    dtype: torch.dtype, small_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is narrowed to hide it, in whichever type it is wrong."""
    sample = few(small_source)
    real, narrowings = (fold_module.deployed if dtype is torch.bfloat16 else fold_by_plan), []

    def wrong(network: Network, plan: FoldPlan | None, as_type: torch.dtype = torch.float32) -> Any:
        made = real(network, plan, as_type)
        if as_type is dtype and plan is not None:
            (bias,) = (value for name, value in made.named_parameters() if name.endswith("fc.bias"))
            bias.data[0] += torch.finfo(dtype).eps * bias.data[0].abs() if dtype is not torch.float64 else 0.1 * sample.noise_floor
        return made

    monkeypatch.setattr(fold_module, real.__name__, wrong)
    monkeypatch.setattr(fold_module, "narrowed", lambda *arguments: narrowings.append(arguments))
    with pytest.raises(ExportError, match=r"refused: .*fault of iresnet-export"):
        proved_fold(sample, no_progress, precision="bf16")
    assert narrowings == []


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
    assert unfolded.details.settings.calibration_data is None


def test_the_source_is_left_as_it_was(small_source: Source, tmp_path: Path) -> None:
    before = copy.deepcopy(small_source.network.state_dict())
    export_artifact("onnx", small_source, ExportOptions(), output=tmp_path / "x.onnx")
    after = small_source.network.state_dict()
    assert all(np.array_equal(before[key].numpy(), after[key].numpy()) for key in before)


@pytest.mark.slow
def test_plain_resnets_fold_too(tmp_path: Path) -> None:
    network = untrained_network(ModelSpec("resnet", 18, num_classes=10, image_size=32, resize=32))
    save_checkpoint(tmp_path / "c.pt", network)
    artifact = export_artifact("onnx", source_from_checkpoint(tmp_path / "c.pt"), ExportOptions(), output=tmp_path / "x.onnx")
    assert operators(artifact.path)["BatchNormalization"] == 0
    assert verdict(artifact.path).status == "pass"


def test_what_was_proved_of_the_same_weights_and_images_is_not_proved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = untrained_source(ModelSpec("iresnet", 18, num_classes=10, image_size=32, resize=32), seed=2)
    first = fold_sample(source, None)
    made, proof = proved_fold(first, no_progress)
    again, known = proved_fold(fold_sample(source, None), no_progress)
    assert known is proof
    assert again is not made
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in again.state_dict().items())
    proved: list[FoldSample] = []

    def proving(sample: FoldSample, *_: Any) -> tuple[FoldedNetwork, Fold]:
        proved.append(sample)
        return made, proof

    monkeypatch.setattr(fold_module, "_proved", proving)

    def is_proved(sample: FoldSample, **asked: Any) -> bool:
        proved.clear()
        proved_fold(sample, no_progress, **asked)
        return proved == [sample]

    assert not is_proved(first)
    assert is_proved(dataclasses.replace(first, anew=True))
    assert is_proved(first, precision="fp16")
    assert is_proved(first, scales=[None, [2.0] * 128, None, None])
    assert is_proved(dataclasses.replace(first, others=first.others[1:]))
    assert is_proved(dataclasses.replace(first, images=first.images.flip(0)))
    assert is_proved(dataclasses.replace(first, image_source="others"))
    monkeypatch.setattr(fold_module, "_PROVED", {})
    monkeypatch.setattr(fold_module, "_MOST_PROVED", 3)
    others = [dataclasses.replace(first, image_source=words) for words in ("one", "two", "three", "four")]
    assert all(map(is_proved, others))
    assert is_proved(others[0]), "the oldest goes"
    assert not is_proved(others[3])
    with torch.no_grad():
        source.own.layer1[0].conv1.weight[0, 0, 0, 0] += 1e-3
    assert is_proved(first)
