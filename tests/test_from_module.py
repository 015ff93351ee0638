"""Networks of no family of ours, given from Python: torchvision's MobileNetV3 and vision transformer."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image
from torch import Tensor, nn
from torchvision.models import MobileNetV3, VisionTransformer, ViT_B_16_Weights, mobilenet_v3_large, vit_b_16
from torchvision.models.mobilenetv3 import InvertedResidualConfig

import iresnet_export as ie
from iresnet_export.benchmark.work import work_of
from iresnet_export.verification.verify import Candidate, VerifyOptions
from iresnet_export.verification.verify import verify as verified
from iresnet_models import build_model
from iresnet_models.spec import NetworkSpec, spec_from_json

ROOT = Path(__file__).parents[1]
IMAGES = ie.Preprocessing(image_size=32, resize=36)
WEIGHT, ACTIVATION = "features.2.block.0.0.weight", "features.3.block.0.2"


def mobilenet() -> nn.Module:
    """MobileNetV3 of three blocks: depthwise convolutions, squeeze and excitation, ReLU, hard swish, a shortcut."""
    torch.manual_seed(0)
    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 3, 32, 24, False, "RE", 2, 1, 1.0),
        InvertedResidualConfig(24, 5, 48, 24, True, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(blocks, 64, num_classes=10)


def transformer() -> nn.Module:
    torch.manual_seed(0)
    made = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)
    nn.init.normal_(made.heads.head.weight)  # it begins as zeros
    return made


@pytest.fixture(scope="module")
def mobile() -> ie.Source:
    return ie.from_module(mobilenet(), preprocessing=IMAGES, labels=list("abcdefghij"), name="mobilenet")


@pytest.fixture(scope="module")
def vision() -> ie.Source:
    return ie.from_module(transformer(), preprocessing=IMAGES)


@pytest.fixture(scope="module")
def mobile_onnx(mobile: ie.Source, tmp_path_factory: pytest.TempPathFactory) -> ie.Artifact:
    return ie.export(mobile, "onnx", output=tmp_path_factory.mktemp("mobile") / "m.onnx")


@pytest.fixture(scope="module")
def vision_onnx(vision: ie.Source, tmp_path_factory: pytest.TempPathFactory) -> ie.Artifact:
    return ie.export(vision, "onnx", output=tmp_path_factory.mktemp("vision") / "v.onnx")


@pytest.fixture(scope="module")
def vision_pt2(vision: ie.Source, tmp_path_factory: pytest.TempPathFactory) -> ie.Artifact:
    return ie.export(vision, "pt2", output=tmp_path_factory.mktemp("vision") / "v.pt2")


def candidate(artifact: ie.Artifact | Path, source: ie.Source, **options: Any) -> Candidate:
    """The verdict on one artifact, by one runtime."""
    path = artifact.path if isinstance(artifact, ie.Artifact) else artifact
    if path.suffix == ".onnx" and not options.get("quick"):
        options["backends"] = ("onnxruntime",)
    (found,) = verified([path], VerifyOptions(source=source, batch_sizes=(1, 7), images=32, **options)).candidates
    return found


def altered(artifact: ie.Artifact, folder: Path, change: Callable[[onnx.ModelProto], None], *, manifest: bool) -> Path:
    """A copy of an ONNX file that was changed, with a manifest that vouches for it or without any."""
    model, path = onnx.load(artifact.path), folder / "altered.onnx"
    change(model)
    onnx.save(model, path)
    if manifest:
        told = json.loads(artifact.path.with_name(artifact.path.name + ".json").read_text())
        told |= {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size_bytes": path.stat().st_size}
        path.with_name(path.name + ".json").write_text(json.dumps(told))
    return path


def change_weight(change: Callable[[np.ndarray[Any, Any]], None]) -> Callable[[onnx.ModelProto], None]:
    def changed(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == WEIGHT)
        values = numpy_helper.to_array(tensor).copy()
        change(values)
        tensor.CopyFrom(numpy_helper.from_array(values, WEIGHT))

    return changed


def one_ulp(values: np.ndarray[Any, Any]) -> None:
    values.flat[5] = np.nextafter(values.flat[5], np.float32(9))


def swapped_channels(values: np.ndarray[Any, Any]) -> None:
    values[[3, 4]] = values[[4, 3]]


def other_activation(model: onnx.ModelProto) -> None:
    swish = next(node for node in model.graph.node if node.op_type == "HardSwish" and ACTIVATION in str(node.metadata_props))
    swish.op_type = "Relu"


def test_an_onnx_export_is_rebuilt_and_compared_whole(mobile: ie.Source, mobile_onnx: ie.Artifact) -> None:
    found = candidate(mobile_onnx, mobile, localise=True)
    assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")
    assert found.weights is not None
    used = {name: value for name, value in mobile.network.state_dict().items() if value.is_floating_point()}
    assert found.weights.compared == sum(value.numel() for value in used.values())
    assert found.outputs is not None
    assert found.outputs.noise_ratio is not None
    assert found.outputs.noise_ratio < 2.5
    assert found.localisation is not None
    assert found.localisation.first is None
    ratios = {entry.place: entry.ratio for entry in found.localisation.places}
    assert {"features.0.0", ACTIVATION, "features.3.block.2.fc1", "avgpool", "classifier.3"} <= ratios.keys()
    assert None not in ratios.values()


def test_what_is_written_names_weights_and_modules_and_no_place(mobile: ie.Source, mobile_onnx: ie.Artifact) -> None:
    model = onnx.load(mobile_onnx.path)
    stored = {tensor.name for tensor in model.graph.initializer}
    assert {name for name, value in mobile.network.state_dict().items() if value.is_floating_point()} <= stored
    whole = mobile_onnx.path.read_bytes()
    assert str(Path(torch.__file__).parents[1]).encode() not in whole
    assert str(ROOT).encode() not in whole
    assert b"line " not in whole  # of a source file
    assert mobile_onnx.manifest is not None
    assert (mobile_onnx.manifest.weights.kind, mobile_onnx.manifest.fold) == ("module", False)
    assert mobile_onnx.manifest.spec == mobile.spec


@pytest.mark.parametrize("change", [one_ulp, swapped_channels])
@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.slow
def test_a_changed_weight_is_named(
    mobile: ie.Source, mobile_onnx: ie.Artifact, tmp_path: Path, change: Callable[[Any], None], manifest: bool
) -> None:
    path = altered(mobile_onnx, tmp_path, change_weight(change), manifest=manifest)
    found = candidate(path, mobile, quick=True)
    assert found.status == "fail"
    index = "[0, 5, 0, 0]" if change is one_ulp else "[3, 0, 0, 0]"
    assert (found.reason or "").startswith(f"weights: {WEIGHT}{index} is ")


@pytest.mark.parametrize(
    ("change", "place"), [(change_weight(swapped_channels), WEIGHT.removesuffix(".weight")), (other_activation, ACTIVATION)]
)
@pytest.mark.slow
def test_where_it_departs_is_named_by_its_module(
    mobile: ie.Source, mobile_onnx: ie.Artifact, tmp_path: Path, change: Callable[[onnx.ModelProto], None], place: str
) -> None:
    found = candidate(altered(mobile_onnx, tmp_path, change, manifest=False), mobile)
    assert found.status == "fail"
    assert found.localisation is not None
    assert found.localisation.first == place
    assert (found.reason or "").endswith(f"it departs in {place}")


@pytest.mark.slow
def test_another_activation_makes_another_file(mobile: ie.Source, mobile_onnx: ie.Artifact, tmp_path: Path) -> None:
    found = candidate(altered(mobile_onnx, tmp_path, other_activation, manifest=True), mobile, quick=True)
    assert found.status == "fail"
    assert "op_type is 'Relu' and not 'HardSwish'" in (found.reason or "")


def test_a_weight_that_nothing_computes_with_is_not_taken_for_the_networks(
    mobile: ie.Source, mobile_onnx: ie.Artifact, tmp_path: Path
) -> None:
    """The right numbers under the right name, and others that are used in their place."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == WEIGHT)
        values = numpy_helper.to_array(tensor).copy()
        one_ulp(values)
        model.graph.initializer.append(numpy_helper.from_array(values, "used"))
        for node in model.graph.node:
            node.input[:] = ["used" if name == WEIGHT else name for name in node.input]
        model.graph.node.insert(0, onnx.helper.make_node("Identity", [WEIGHT], ["unused"], name="unused"))

    found = candidate(altered(mobile_onnx, tmp_path, change, manifest=False), mobile, quick=True)
    assert found.weights is not None
    assert not found.weights.passed
    assert f"not comparable by name: 1 of 62 tensors ({WEIGHT})" in str(found.weights.first_difference)


def test_weights_that_an_exporter_fused_are_not_comparable(mobile: ie.Source, tmp_path: Path) -> None:
    path = tmp_path / "optimised.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(mobile.network, (torch.zeros(2, 3, 32, 32),), dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=False)
    (found,) = verified([path], VerifyOptions(source=mobile, batch_sizes=(2,), images=32, backends=("onnxruntime",))).candidates
    assert (found.status, found.coverage) == ("pass", "outputs")
    assert found.weights is not None
    assert not found.weights.passed
    assert found.weights.compared > 0
    assert "not comparable by name" in " ".join(found.notices)


@pytest.mark.slow
def test_a_vision_transformer_by_both_formats(vision: ie.Source, vision_onnx: ie.Artifact, vision_pt2: ie.Artifact) -> None:
    for artifact in (vision_onnx, vision_pt2):
        found = candidate(artifact, vision, localise=True)
        assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")
        assert found.weights is not None
        assert found.weights.compared == sum(value.numel() for value in vision.network.parameters())
        assert found.localisation is not None
        places = {entry.place: entry.ratio for entry in found.localisation.places}
        layers = [f"encoder.layers.encoder_layer_{number}" for number in range(2)]
        assert {*layers, *(f"{layer}.self_attention" for layer in layers), "conv_proj", "heads.head"} <= places.keys()
        assert None not in places.values()


@pytest.mark.slow
def test_the_same_weights_computed_otherwise_fail(vision: ie.Source, tmp_path: Path) -> None:
    """The hash of a module's state says nothing of its activations: the file and its outputs do."""
    other = transformer()
    other.get_submodule("encoder.layers.encoder_layer_1.mlp")[1] = nn.ReLU()  # type: ignore[operator]
    artifact = ie.export(ie.from_module(other, preprocessing=IMAGES), "pt2", output=tmp_path / "other.pt2")
    found = candidate(artifact, vision)
    assert found.status == "fail"
    assert "where the network has gelu" in (found.reason or "")
    assert found.localisation is not None
    assert found.localisation.first == "encoder.layers.encoder_layer_1.mlp.1"


@pytest.mark.slow
def test_it_is_benchmarked(vision: ie.Source, vision_onnx: ie.Artifact, vision_pt2: ie.Artifact) -> None:
    report = ie.bench(
        [vision_onnx, vision_pt2],
        source=vision,
        seconds=0.05,
        verify=False,
        limits=False,
        backends=["onnxruntime", "torch_export"],
        memory=False,
    )
    assert {result.backend for result in report.results} == {"eager", "onnxruntime", "torch_export"}
    assert {result.status for result in report.results} <= {"ok", "unstable"}  # as the machine's other work lets it
    assert all(result.latency_ms is not None for result in report.results)
    assert {result.depth for result in report.results} == {None}


def test_work_is_counted_by_hand(vision: ie.Source) -> None:
    tokens, width, hidden = 17, 32, 64
    patches = 16 * width * 3 * 8 * 8
    attention = tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width
    expected = patches + 2 * (attention + 2 * tokens * width * hidden) + width * 10
    assert work_of(vision.network, (32, 32)).macs == expected


def test_images_are_classified(mobile: ie.Source, mobile_onnx: ie.Artifact, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    (found,) = ie.predict(mobile_onnx, tmp_path / "photo.png")
    assert {entry.label for entry in found.top} <= set("abcdefghij")


def test_without_the_module_nothing_can_be_verified(mobile: ie.Source, vision: ie.Source, mobile_onnx: ie.Artifact) -> None:
    with pytest.raises(ie.InputError, match="exported from a module in memory") as caught:
        ie.verify(mobile_onnx)
    assert "source=source" in caught.value.remedy
    (found,) = ie.verify(mobile_onnx, source=vision, quick=True).candidates
    assert found.status == "fail"
    assert "another network than the given VisionTransformer" in (found.reason or "")
    with pytest.raises(ie.InputError, match="leave one out"):
        ie.verify(mobile_onnx, source=mobile, checkpoint="x.pt")
    with pytest.raises(ie.InputError, match="source is what"):
        ie.verify(mobile_onnx, source=mobile.network)  # type: ignore[arg-type]


def test_a_source_may_be_any(small_source: ie.Source, artifacts: dict[str, ie.Artifact]) -> None:
    before = small_source.spec
    assert ie.verify(artifacts["onnx"], source=small_source, quick=True).passed
    assert small_source.spec == before


@pytest.mark.parametrize(
    ("format", "options", "what"),
    [
        ("onnx", {"fold": True}, "the fold"),
        ("onnx", {"precision": "int8"}, "the fold and the precision int8"),
        ("pt2", {"precision": "bf16"}, "the fold and the precision bf16"),
        ("onnx", {"with_preprocessing": True}, "preprocessing inside"),
        ("torchscript", {}, "the format torchscript"),
        ("aotinductor", {}, "the format aotinductor"),
    ],
)
def test_what_is_for_our_own_networks_is_refused(
    vision: ie.Source, tmp_path: Path, format: Any, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ie.InputError, match=f"VisionTransformer is a module in memory, and {what} cannot be had of it"):
        ie.export(vision, format, output=tmp_path / "x", **options)


class Feature(nn.Module):
    """What a wrong module gives for images, from a parameter."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight, self._answer = nn.Parameter(torch.ones(1)), answer

    def forward(self, x: Tensor) -> Any:
        return self._answer(x * self.weight)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        ("mobilenet", "made from a torch.nn.Module"),
        (Feature(lambda x: x), "this module gives torch.float32"),
        (Feature(lambda x: (x.mean((2, 3)), x)), "gives a tuple"),
        (Feature(lambda x: x.mean((2, 3)) + torch.rand(1)), "other answers the second time"),
        (Feature(lambda x: x @ torch.ones(3, 3)), "does not run on images"),
        (Feature(lambda x: x.mean((2, 3))).half(), "Convert it by module.float"),
        (nn.Flatten(), "no parameters"),
        (Feature(lambda x: x.mean((2, 3)) - x.mean((0, 2, 3))), "depends on the others of its batch"),
        (torch.jit.trace(Feature(lambda x: x.mean((2, 3))), torch.zeros(2, 3, 32, 32)), "is TorchScript already"),  # type: ignore[no-untyped-call]
    ],
)
def test_what_is_no_classifier_is_refused(module: Any, what: str) -> None:
    with pytest.raises(ie.InputError, match=what):
        ie.from_module(module, preprocessing=IMAGES)


def test_our_own_networks_come_from_checkpoints() -> None:
    with pytest.raises(ie.InputError, match="a network of this project"):
        ie.from_module(build_model("iresnet", 18), preprocessing=IMAGES)


def test_preprocessing_may_be_torchvisions() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 16, stride=16), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    source = ie.from_module(module, preprocessing=ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1.transforms(), name="tiny")
    assert (source.spec.image_size, source.spec.resize, source.spec.interpolation) == (384, 384, "bicubic")
    assert spec_from_json(source.spec.to_json()) == source.spec
    with pytest.raises(ie.InputError, match=r"not a dict"):
        ie.from_module(module, preprocessing={"image_size": 32})  # type: ignore[arg-type]
    with pytest.raises(ie.InputError, match="letters, digits and underscores"):
        ie.from_module(module, preprocessing=IMAGES, name="../x")
    module[0].weight.data.zero_()  # the source is a copy
    assert source.network.state_dict()["0.weight"].any()


def test_only_specs_without_a_depth_are_of_no_family() -> None:
    plain = NetworkSpec("anything", None, 10).to_json()
    assert spec_from_json(plain).name == "anything"
    for wrong in (plain | {"depth": 3}, plain | {"groups": 1}, {"arch": "anything"}):
        with pytest.raises(ie.InputError):
            spec_from_json(wrong)


@pytest.mark.parametrize("room", ["graph", "backends", "verification", "benchmark"])
def test_the_rooms_above_the_seam_know_no_families(room: str) -> None:
    for path in (ROOT / "iresnet_export" / room).rglob("*.py"):
        words = set(path.read_text(encoding="utf-8").replace(".", " ").replace(",", " ").split())
        assert not words & {"ModelSpec", "FAMILIES", "BLOCKS", "bottleneck", "stage_groups"}, path


@pytest.mark.slow
@pytest.mark.parametrize(("make", "format"), [(vit_b_16, "onnx"), (vit_b_16, "pt2"), (mobilenet_v3_large, "onnx")])
def test_the_real_ones(make: Callable[..., nn.Module], format: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = make()
    if make is vit_b_16:
        nn.init.normal_(module.get_submodule("heads.head").weight, std=0.05)  # type: ignore[arg-type]
    source = ie.from_module(module, preprocessing=ie.Preprocessing())
    artifact = ie.export(source, format, output=tmp_path / f"real.{format}")
    found = candidate(artifact, source)
    assert (found.status, found.reason, found.coverage) == ("pass", None, "whole file")


@pytest.mark.slow
def test_the_docs_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "other-networks.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert (tmp_path / "mobilenet.onnx").exists()
