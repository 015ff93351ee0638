"""Verification: it passes what is right, and catches what is wrong, by the check that should."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support import mostly_slow

from iresnet_export.artifacts.artifact import Artifact, open_artifact
from iresnet_export.artifacts.source import Source, source_from_checkpoint, untrained_source
from iresnet_export.backends.base import ExportJob, ExportOptions, Session
from iresnet_export.backends.eager import EagerSession
from iresnet_export.backends.registry import runtime_named
from iresnet_export.backends.torchscript.format import TorchScript
from iresnet_export.errors import ArtifactError, CheckFailedError, InputError, StaleManifestError
from iresnet_export.exporting import export_artifact
from iresnet_export.graph.compare import compare
from iresnet_export.reporting.documents import verify_report
from iresnet_export.system.progress import no_progress
from iresnet_export.verification import verify as verify_module
from iresnet_export.verification.criteria import NOISE_LIMIT, Criterion
from iresnet_export.verification.outputs import compare_outputs
from iresnet_export.verification.reference import Reference, in_batches, reference_of, rms
from iresnet_export.verification.verify import Candidate, VerifyOptions, verify
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.initialization import untrained_network
from iresnet_models.preprocessing import noise_pixels, normalised

Copy = Callable[[str], Artifact]
Vouch = Callable[[Path], Artifact]
pytestmark = pytest.mark.usefixtures("shared_references")

QUICK = VerifyOptions(images=32, batch_sizes=(1, 7), backends=("onnxruntime", "torchscript", "tensorrt"))


def verdict(path: Path, options: VerifyOptions = QUICK) -> Candidate:
    return verify([path], options).candidates[0]


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_unaltered_artifacts_pass(name: str, artifacts: dict[str, Artifact]) -> None:
    found = verdict(artifacts[name].path)
    assert (found.status, found.reason) == ("pass", None)
    assert found.weights is not None
    assert found.weights.compared > 11_000_000
    assert found.weights.worst_ulp == 0
    assert found.outputs is not None
    assert 0 < found.outputs.noise_ratio < NOISE_LIMIT
    assert found.outputs.top1_agreement == 1
    assert found.outputs.batch_sizes == (1, 7)


def edited(path: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString())


def node_named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def set_attribute(model: onnx.ModelProto, node: str, name: str, value: Any) -> None:
    found = node_named(model, node)
    kept = [attribute for attribute in found.attribute if attribute.name != name]
    del found.attribute[:]
    found.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def change_weight(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], None]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def one_percent(values: np.ndarray) -> None:
    values[17, 5, 1, 2] *= 1.01


def one_bit(values: np.ndarray) -> None:
    values.view(np.uint32)[3] ^= 1


def swap_channels(values: np.ndarray) -> None:
    values[[2, 9]] = values[[9, 2]]


@pytest.mark.parametrize(
    ("edit", "expected"),
    mostly_slow(
        [
            (lambda m: change_weight(m, "layer3.0.conv2.weight", one_percent), r"layer3\.0\.conv2\.weight\[17, 5, 1, 2\] is"),
            (lambda m: change_weight(m, "layer2.1.bn1.bias", one_bit), r"layer2\.1\.bn1\.bias\[3\] is"),
            (
                lambda m: change_weight(m, "layer4.1.conv1.weight", swap_channels),
                r"layer4\.1\.conv1\.weight\[2, 0, 0, 0\] .*more in this",
            ),
            (lambda m: set_attribute(m, "layer2.0.bn1", "epsilon", 1e-3), r"layer2\.0\.bn1: eps is 0\.001"),
            (lambda m: set_attribute(m, "layer2.0.conv1", "strides", [1, 2]), r"layer2\.0\.conv1: stride is \(1, 2\)"),
            (lambda m: set_attribute(m, "layer1.1.conv1", "pads", [0, 1, 2, 1]), r"layer1\.1\.conv1: padding is \(0, 1, 2, 1\)"),
            (lambda m: set_attribute(m, "bn1", "training_mode", 1), r"bn1: training_mode is 1"),
            (lambda m: m.graph.node.remove(node_named(m, "layer2.0.bn2")), "where the network has layer2.0.bn2"),
        ],
        4,
    ),
    ids=["weight", "bit", "channels", "epsilon", "stride", "padding", "training", "layer"],
)
def test_the_weights_check_catches(edit: Callable[[onnx.ModelProto], None], expected: str, copied: Copy, vouch: Vouch) -> None:
    path = copied("onnx").path
    edited(path, edit)
    found = verdict(vouch(path).path)
    assert found.status == "fail"
    assert found.reason is not None
    assert found.weights is not None
    assert not found.weights.passed
    assert re.search(expected, found.reason), found.reason


def relu_of_block_1_out_of_place(model: onnx.ModelProto) -> None:
    add = node_named(model, "layer3.1.add")
    add.input[list(add.input).index("layer3.1.relu")] = "layer3.0.add"


def relu_removed(model: onnx.ModelProto) -> None:
    node_named(model, "layer2.1.conv2").input[0] = "layer2.1.bn1"


@pytest.mark.parametrize(
    "edit",
    [
        relu_of_block_1_out_of_place,
        relu_removed,
        lambda m: set_attribute(m, "layer2.0.downsample.0", "ceil_mode", 1),
        lambda m: set_attribute(m, "layer2.0.downsample.0", "pads", [1, 1, 1, 2]),
        lambda m: set_attribute(m, "layer2.0.downsample.0", "strides", [1, 1]),
    ],
    ids=["relu in place", "relu removed", "ceil", "pool padding", "pool stride"],
)
@pytest.mark.slow
def test_graph_and_outputs_catch(edit: Callable[[onnx.ModelProto], None], copied: Copy, vouch: Vouch) -> None:
    """What is wrong here is in no layer with weights; some of it the runtime already refuses to load."""
    path = copied("onnx").path
    edited(path, edit)
    found = verdict(vouch(path).path)
    assert found.weights is not None
    assert found.weights.passed
    assert found.status == "fail"
    assert found.graph is not None
    assert found.graph.first_difference is not None
    assert ("rounding error" in str(found.reason)) or (found.outputs is None)


def test_a_changed_file_fails_by_its_hash(copied: Copy) -> None:
    path = copied("onnx").path
    edited(path, lambda m: change_weight(m, "fc.bias", one_bit))
    found = verdict(path)
    assert (found.status, found.outputs) == ("fail", None)
    assert "not the file that its manifest tells of" in str(found.reason)


def test_an_artifact_of_an_earlier_checkpoint_fails(
    copied: Copy, small_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied("onnx").path
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of another user"))  # who remembers no other place of the right one
    save_checkpoint(tmp_path / "small.pt", untrained_network(small_spec, seed=2))
    found = verdict(path)
    assert found.status == "fail"
    assert "exported from another checkpoint" in str(found.reason)


@pytest.mark.slow
def test_wrong_torchscript_weights_are_named(small_source: Source, copied: Copy, vouch: Vouch) -> None:
    artifact = copied("torchscript")
    other = copy.deepcopy(small_source.network)
    with torch.no_grad():
        other.layer3[1].conv2.weight[7, 7, 0, 1] *= 1.01
    TorchScript().write(ExportJob(other, other.spec, artifact.path, ExportOptions()))
    found = verdict(vouch(artifact.path).path)
    assert found.status == "fail"
    assert "layer3.1.conv2.weight[7, 7, 0, 1]" in str(found.reason)


def test_an_export_whose_weights_are_wrong_takes_no_place(
    small_source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = TorchScript.write

    def lossy(self: TorchScript, job: ExportJob) -> dict[str, Any]:
        rounded: Any = copy.deepcopy(job.network)
        with torch.no_grad():
            rounded.fc.weight.copy_(rounded.fc.weight.half().float())
        return original(self, dataclasses.replace(job, network=rounded))

    monkeypatch.setattr(TorchScript, "write", lossy)
    with pytest.raises(CheckFailedError, match=r"fc\.weight\[0, 0\]"):
        export_artifact("torchscript", small_source, ExportOptions(), output=tmp_path / "x.ts")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def reference(small_source: Source) -> Reference:
    return reference_of("r", small_source, noise_pixels(small_source.spec, 40, 0), "noise", (1, 7), no_progress)


def test_the_reference_is_float64_and_the_floor_is_rounding(reference: Reference, small_source: Source) -> None:
    double = copy.deepcopy(small_source.network).double()
    with torch.inference_mode():
        expected = double(normalised(reference.pixels, reference.source.spec).double()).numpy()
    assert reference.logits.dtype == np.float64
    np.testing.assert_allclose(reference.logits, expected, rtol=1e-12, atol=1e-12)
    assert 1e-8 < reference.noise_floor / rms(expected) < 1e-4
    assert next(small_source.network.parameters()).dtype == torch.float32, "the source was changed"


def fp32(reference: Reference) -> Criterion:
    """What float32 outputs are held against."""
    return Criterion("fp32", len(reference.pixels), noise_floor=reference.noise_floor)


class Spoiled(Session):
    """Eager PyTorch, with something done to its outputs."""

    def __init__(self, source: Source, spoil: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.device = torch.device("cpu")
        self._inner, self._spoil = EagerSession(copy.deepcopy(source.network), self.device), spoil

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return self._spoil(self._inner.run(batch).clone())


def at(index: tuple[int, int], value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def spoil(logits: torch.Tensor) -> torch.Tensor:
        logits[index] = value
        return logits

    return spoil


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda logits: logits, None),
        (at((0, 3), float("nan")), "NaN or infinite"),
        (at((0, 0), float("inf")), "NaN or infinite"),
        (lambda logits: logits[:, :9], r"shape \(40, 9\) and not \(40, 10\)"),
        (lambda logits: logits.half().float(), "times its own fp32 rounding error"),
        (lambda logits: logits * 1.001, "times its own fp32 rounding error"),
        (lambda logits: logits.flip(0), r"at batch 7 .*times its own"),
    ],
    ids=["unaltered", "nan", "inf", "shape", "half", "scaled", "order within a batch"],
)
def test_outputs_that_are_wrong(
    spoil: Callable[[torch.Tensor], torch.Tensor], reason: str | None, reference: Reference, small_source: Source
) -> None:
    report = compare_outputs(Spoiled(small_source, spoil), reference, fp32(reference), (1, 7), no_progress)
    if reason is None:
        assert report.reason is None
    else:
        assert re.search(reason, str(report.reason)), report.reason


def test_one_half_precision_layer_shows(reference: Reference, small_source: Source) -> None:
    class Halved(torch.nn.Module):
        def __init__(self, layer: torch.nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.half().float()).half().float()

    network = copy.deepcopy(small_source.network)
    network.layer3[0].conv1 = Halved(network.layer3[0].conv1)
    report = compare_outputs(EagerSession(network, torch.device("cpu")), reference, fp32(reference), (7,), no_progress)
    assert report.noise_ratio > 10 * NOISE_LIMIT


def test_the_last_batch_is_filled_up_and_cut() -> None:
    images = torch.arange(10.0).reshape(10, 1, 1, 1)
    sizes: list[int] = []

    def run(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch.flatten(1)

    assert torch.equal(in_batches(run, images, 4), images.flatten(1))
    assert sizes == [4, 4, 4]


def test_a_network_that_gives_nan_is_no_reference(small_spec: ModelSpec) -> None:
    source = untrained_source(small_spec, 0)
    with torch.no_grad():
        source.network.bn1.running_var.fill_(-1.0)
    with pytest.raises(CheckFailedError, match="nothing to compare with"):
        reference_of("r", source, noise_pixels(source.spec, 32, 0), "noise", (8,), no_progress)


def test_too_few_images_are_refused(small_source: Source) -> None:
    with pytest.raises(InputError, match="at least 32 images"):
        reference_of("r", small_source, torch.zeros(8, 3, 32, 32), "noise", (1,), no_progress)


@pytest.mark.slow
def test_static_batches_are_verified_at_theirs(small_source: Source, tmp_path: Path) -> None:
    options = ExportOptions(dynamic_batch=False, batch=5)
    artifact = export_artifact("onnx", small_source, options, output=tmp_path / "five.onnx")
    found = verdict(artifact.path)
    assert found.status == "pass"
    assert found.outputs is not None
    assert found.outputs.batch_sizes == (5,)
    (inside,) = verify([artifact.path], dataclasses.replace(QUICK, localise=True, backends=("onnxruntime",))).candidates
    assert (inside.status, inside.reason) == ("pass", None)
    assert inside.localisation is not None
    assert inside.localisation.first is None
    assert all(entry.ratio is not None for entry in inside.localisation.places)


def test_what_keeps_one_from_looking_inside_takes_no_verdict_away(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(verify_module, "localise", fails)
    options = dataclasses.replace(QUICK, localise=True, backends=("onnxruntime",))
    (found,) = verify([artifacts["onnx"].path], options).candidates
    assert found.status == "pass"
    assert found.reason == "where it departs could not be looked for: RuntimeError: out of memory"


def test_what_outputs_are_held_against_is_computed_once_for_all_backends(
    artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not runtime_named("openvino").is_installed():
        pytest.skip("openvino is not installed")
    calls: list[str] = []
    compute = verify_module.criterion_for
    monkeypatch.setattr(verify_module, "criterion_for", lambda *given: (calls.append("once"), compute(*given))[1])
    found = verify([artifacts["onnx"].path], dataclasses.replace(QUICK, backends=("onnxruntime", "openvino")))
    assert [candidate.status for candidate in found.candidates] == ["pass", "pass"]
    assert calls == ["once"]


def test_a_session_elsewhere_leaves_the_network_where_it_is(small_source: Source) -> None:
    EagerSession(small_source.network, torch.device("meta"))
    assert {parameter.device.type for parameter in small_source.network.parameters()} == {"cpu"}


def test_foreign_artifacts_are_verified_against_a_checkpoint(small_source: Source, small_checkpoint: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "theirs.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.onnx.export(
            small_source.network, (torch.randn(2, 3, 32, 32),), dynamo=True, dynamic_shapes={"x": {0: batch}}, verbose=False
        )
    assert program is not None
    program.save(str(foreign))
    with pytest.raises(ArtifactError, match="--checkpoint"):
        verdict(foreign)
    options = VerifyOptions(checkpoint=small_checkpoint, images=32, batch_sizes=(1, 7))
    found = verdict(foreign, options)
    assert found.status == "pass", found.reason
    assert found.weights is not None
    assert not found.weights.matched  # torch's exporter fuses BatchNorm away: the outputs decide
    edited(foreign, lambda m: change_weight(m, m.graph.initializer[0].name, lambda values: np.negative(values, out=values)))
    assert verdict(foreign, options).status == "fail"


@pytest.mark.slow
def test_foreign_artifacts_that_match_layer_by_layer_have_their_weights_compared(
    copied: Copy, small_checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "foreign.onnx"
    shutil.copy(copied("onnx").path, path)
    edited(path, lambda m: change_weight(m, "layer3.0.conv2.weight", one_percent))
    found = verdict(path, VerifyOptions(checkpoint=small_checkpoint, images=32, batch_sizes=(7,)))
    assert found.status == "fail"
    assert "layer3.0.conv2.weight[17, 5, 1, 2]" in str(found.reason)


def test_a_stale_parent_is_no_parent(copied: Copy, tmp_path: Path) -> None:

    from iresnet_export.artifacts.manifest import Parent

    artifact = copied("onnx")
    manifest = artifact.require_intact()
    child = dataclasses.replace(artifact, manifest=dataclasses.replace(manifest, parent=Parent(artifact.path.name, "0" * 64)))
    with pytest.raises(StaleManifestError, match="built from another"):
        child.parent()


def test_several_artifacts_share_their_reference(artifacts: dict[str, Artifact]) -> None:
    verification = verify([artifact.path for artifact in artifacts.values()], QUICK)
    assert len(verification.references) == 1
    assert verification.passed


def test_skipped_is_not_passed(artifacts: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    from iresnet_export.backends.onnxruntime.runtime import OnnxRuntime
    from iresnet_export.errors import UnavailableError

    def absent(*_arguments: object, **_options: object) -> Session:
        raise UnavailableError("not here")

    monkeypatch.setattr(OnnxRuntime, "load", absent)
    alone = verify([artifacts["onnx"].path], QUICK)
    assert (alone.candidates[0].status, alone.passed) == ("skipped", False)
    both = verify([artifacts["onnx"].path, artifacts["torchscript"].path], dataclasses.replace(QUICK, backends=()))
    assert both.passed


def test_the_report_has_every_key_and_a_reason_for_every_null(artifacts: dict[str, Artifact]) -> None:
    verification = verify([artifacts["onnx"].path], QUICK)
    document = json.loads(json.dumps(verify_report(verification, QUICK).to_json(), allow_nan=False))
    assert document["schema"] == "iresnet-export/verify/1"
    assert document["passed"] is True
    assert {"versions", "hardware", "commit", "command"} <= document["environment"].keys()
    (reference,) = document["references"]
    assert {"id", "arch", "depth", "checkpoint_sha256", "images", "noise_floor"} <= reference.keys()
    assert reference["noise_floor"]["fp32"] > 0
    (candidate,) = document["candidates"]
    assert {
        "artifact",
        "backend",
        "precision",
        "computed_precision",
        "reference",
        "batch_sizes",
        "status",
        "reason",
        "weights",
    } <= set(candidate)
    assert {"noise_ratio", "max_abs", "max_rel", "cosine", "sqnr_db", "top1_agreement", "first_divergence"} <= set(candidate)
    nulls = {key for key, value in candidate.items() if value is None and key != "reason"}
    assert nulls == set(candidate["null_reasons"])


def test_attributes_and_tensors_that_do_not_belong_are_seen(small_source: Source) -> None:
    from iresnet_export.graph.ir import Graph, Node
    from iresnet_export.graph.network import graph_of_network

    def differing(nodes: list[Node]) -> str:
        return str(compare(whole, Graph(nodes)).first_difference)

    whole = graph_of_network(small_source.network)
    layers = list(whole.nodes)
    surplus = dataclasses.replace(layers[0], tensors={**layers[0].tensors, "bias": np.zeros(64, np.float32)})
    assert "conv1 has a bias" in differing([surplus, *layers[1:]])
    assert "the artifact 40" in differing(layers[:-1])
    short = dataclasses.replace(
        layers[-1], tensors={"weight": layers[-1].tensors["weight"][:5], "bias": layers[-1].tensors["bias"]}
    )
    assert "has the shape (5, 512)" in differing([*layers[:-1], short])
    broken = layers[-1].tensors["bias"].copy()
    broken[2] = np.nan
    nan = dataclasses.replace(layers[-1], tensors={**layers[-1].tensors, "bias": broken})
    assert "fc.bias[2] is nan" in differing([*layers[:-1], nan])


def test_open_artifact_of_a_checkpoint_verifies_as_itself(small_checkpoint: Path) -> None:
    found = verdict(small_checkpoint, VerifyOptions(checkpoint=small_checkpoint, images=32, batch_sizes=(7,)))
    assert found.status == "pass"
    assert open_artifact(small_checkpoint).format == "checkpoint"
    assert source_from_checkpoint(small_checkpoint).spec.name == "iresnet18"
