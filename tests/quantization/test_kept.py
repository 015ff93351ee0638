"""Places that stay in float32: by hand, by what the runtime makes of them, and by what the least signal to noise asks for."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from iresnet_data import evaluation_pixels
from iresnet_export.artifacts.manifest import manifest_path
from iresnet_export.artifacts.source import Source, source_from_checkpoint, untrained_source
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import Images, calibration_images, chosen_quantization, float32_logits
from iresnet_export.backends.onnx.goals import Goal
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.mixed_precision import _Ranking, measured_steps, places_of, quantization_asked_for
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.backends.onnxruntime.optimized import optimised_graph, require_integers
from iresnet_export.backends.onnxruntime.runtime import OnnxSession
from iresnet_export.backends.tensorrt.builder import engine_from_onnx
from iresnet_export.backends.tensorrt.flavours import flavour_named
from iresnet_export.backends.tensorrt.options import EngineOptions
from iresnet_export.errors import ExportError, InputError
from iresnet_export.exporting import export_artifact
from iresnet_export.graph.precision import computed
from iresnet_export.quantization.codes import Quantization, Step, Top1
from iresnet_export.quantization.cost import sqnr_db
from iresnet_export.quantization.kept import Places, is_kept, place_of
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.reporting.documents import verify_report
from iresnet_export.system.progress import no_progress
from iresnet_export.verification.verify import VerifyOptions, verify
from iresnet_models import ModelSpec, save_checkpoint
from iresnet_models.deployed import Deployable
from iresnet_models.folding import fold
from iresnet_models.preprocessing import normalised

PLACES = ["stem", *(f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)), "classifier"]


@dataclasses.dataclass(frozen=True)
class Given:
    source: Source
    images: Images
    folded: Deployable
    floating: onnx.ModelProto

    def quantization(self, **options: Any) -> Quantization:
        asked = ExportOptions(precision="int8", calibrator="minmax", **options)
        return quantization_asked_for(self.source, {False: self.folded}, self.images, asked, no_progress)


@cache
def given(arch: str, *, signs: bool = False) -> Given:
    """A small untrained network of ten places, and images too few to correct biases by; with `signs` in front of its ReLUs."""
    source = untrained_source(ModelSpec(arch, 18, num_classes=10, image_size=32, resize=32), seed=0)
    for module in source.network.modules():
        if signs and isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data[::7] *= -1
    images = calibration_images(source, ExportOptions(precision="int8", calibration_data="digits", calibration_images=20))
    folded = fold(source.network, sample=normalised(torch.cat(list(images.measuring(15))), source.spec))
    return Given(source, images, folded, onnx_from_network(folded))


def test_places_are_the_networks_own() -> None:
    for arch in ("iresnet", "resnet"):
        assert places_of(given(arch).source, ExportOptions(precision="int8")) == Places(tuple(PLACES), tuple(PLACES))
        assert list(dict.fromkeys(place_of(node.name) for node in given(arch).floating.graph.node)) == PLACES
    fp8 = ExportOptions(precision="fp8", target="tensorrt")
    assert places_of(given("iresnet").source, fp8) == Places(tuple(PLACES), tuple(PLACES[1:])), (
        "its 7x7 convolution stays in float32"
    )
    assert [place_of(name) for name in ("conv1", "maxpool", "layer1.0", "layer3.11.conv2", "avgpool", "fc")] == [
        "stem", "stem", "layer1.0", "layer3.11", "classifier", "classifier",
    ]  # fmt: skip
    assert is_kept("layer1.0.conv2", ("layer1.0",))
    assert not is_kept("layer1.0.conv2", ("layer1.01", "layer1.0.conv2", "layer11.0"))


def test_names_stand_for_places() -> None:
    places = Places(tuple(PLACES), tuple(PLACES[1:]))
    assert places.kept(["layer2", "stem"]) == ("stem", "layer2.0", "layer2.1")
    assert places.kept(["layer2.1", "layer2.1"]) == ("layer2.1",)
    for name in ("layer5", "layer2.9", "layer2.0.conv1", "fc", "", "layer", "\x1b[0m"):
        with pytest.raises(
            InputError, match=r"--keep-float '.*': the network has no such place. It has stem, layer1.0, .*, classifier;"
        ):
            places.kept(["stem", name])
    with pytest.raises(InputError, match=r"keeps everything .* --precision fp32"):
        places.kept(["layer1", "layer2", "layer3", "layer4", "classifier"])


def test_a_place_that_there_is_not_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("iresnet_export.exporting.fold_sample", None)
    with pytest.raises(InputError, match="no such place"):
        export_artifact(
            "onnx", given("iresnet").source, ExportOptions(precision="int8", keep_float=("layer9",)), output=tmp_path / "x.onnx"
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "fp32", "keep_float": ("stem",)}, "are for codes, and fp32 has none"),
        ({"precision": "fp16", "min_sqnr": 30.0}, "are for codes, and fp16 has none"),
        ({"min_sqnr": 0.0}, "takes decibels, more than 0"),
        ({"min_sqnr": float("nan")}, "takes decibels, more than 0"),
        ({"min_sqnr": 101.0}, "no more than 100"),
        ({"precision": "bf16", "max_accuracy_drop": 1.0}, "are for codes, and bf16 has none"),
        ({"max_accuracy_drop": 0.0}, "takes percentage points, more than 0"),
        ({"max_accuracy_drop": float("nan")}, "takes percentage points, more than 0"),
        ({"max_accuracy_drop": 1.0, "min_sqnr": 30.0}, "both say how much is kept in float32: give one of them"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ExportOptions(**{"precision": "int8", **options})


KEPT = [
    ("iresnet", ("layer1.1", "layer3.0"), False),
    ("iresnet", ("layer2", "classifier"), True),
    ("resnet", ("stem", "layer1.0"), False),
    *(
        pytest.param(arch, kept, signs, marks=pytest.mark.slow)
        for signs in (False, True)
        for arch, kept in (
            ("iresnet", ("stem",)),
            ("iresnet", ("layer1.0",)),
            ("resnet", ("layer4",)),
            ("resstage", ("layer1", "layer4.1")),
        )
    ),
]


@pytest.mark.parametrize(("arch", "kept", "signs"), KEPT)
def test_kept_places_are_float_and_the_rest_is_integers(arch: str, kept: tuple[str, ...], signs: bool, tmp_path: Path) -> None:
    """As the graph shows that ONNX Runtime really computes, and by its outputs."""
    one = given(arch, signs=signs)
    made = one.quantization(keep_float=kept)
    graph, path = quantized_onnx(one.floating, made), tmp_path / "mixed.onnx"
    onnx.save(graph, path)
    stored = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in graph.graph.initializer}
    for node in one.floating.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert stored[node.input[1]] == (np.float32 if is_kept(node.name, made.kept) else np.int8), node.name
        elif node.op_type == "Mul":
            assert stored[node.input[1]] == (np.float32 if is_kept(node.name, made.kept) else np.uint8), node.name
    found = require_integers(optimised_graph(path, ["CPUExecutionProvider"]), made)
    layers = [node.name for node in one.floating.graph.node if node.op_type == "Conv"]
    assert found["QLinearConv"] == sum(not is_kept(name, made.kept) for name in layers)
    batch = torch.cat(list(one.images.taken(one.images.held_out(), ExportOptions())))
    with OnnxSession(path, torch.device("cpu"), ask_precision=True, in_float=len(made.floating)) as session:
        assert session.computed_precision == "int8"
        assert sqnr_db(session.run(batch).numpy(), OnnxGraph(graph).run(batch).numpy()) > 25  # ties between codes
    with OnnxSession(path, torch.device("cpu"), ask_precision=True) as session:
        assert session.computed_precision == "fp32", "and without a word of the manifest it is not called int8"


def test_a_place_that_the_runtime_quantizes_by_itself_is_seen(tmp_path: Path) -> None:
    """A convolution between codes, whose weights are floats: ONNX Runtime makes codes of them."""
    one = given("iresnet")
    made = one.quantization()
    graph = quantized_onnx(one.floating, made)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in one.floating.graph.initializer}
    node = next(node for node in graph.graph.node if node.name == "layer2.0.conv1")
    for index, name in ((1, "layer2.0.conv1.weight"), (2, "layer2.0.conv1.bias")):
        node.input[index] = f"{name}.float"
        graph.graph.initializer.append(numpy_helper.from_array(known[name], f"{name}.float"))
    onnx.save(graph, tmp_path / "mixed.onnx")
    optimised = optimised_graph(tmp_path / "mixed.onnx", ["CPUExecutionProvider"])
    claimed = dataclasses.replace(made, kept=("layer2.0",), floating=("layer2.0.conv1",))
    with pytest.raises(ExportError, match=r"would compute 0 layers of this graph in float, and 1 are to be kept"):
        require_integers(optimised, claimed)


def test_an_island_elsewhere_is_seen(tmp_path: Path) -> None:
    one = given("iresnet")
    made = one.quantization(keep_float=("layer1.0", "layer3.0"))
    onnx.save(quantized_onnx(one.floating, made), tmp_path / "mixed.onnx")
    optimised = optimised_graph(tmp_path / "mixed.onnx", ["CPUExecutionProvider"])
    with pytest.raises(ExportError, match=r"operations of this int8 graph in float, the first of them \w+ at layer3\.0"):
        require_integers(optimised, dataclasses.replace(made, kept=("layer1.0",), floating=made.floating[:2]))


@pytest.mark.parametrize(("operator", "kept"), [("Sin", "layer1.1"), ("Sqrt", "stem")])
def test_other_operations_than_the_networks_are_seen_beside_kept_places(operator: str, kept: str, tmp_path: Path) -> None:
    """In float between codes of one activation: nothing but the conversions tells."""
    one = given("iresnet")
    made = one.quantization(keep_float=(kept,))
    graph = quantized_onnx(one.floating, made)
    value = "layer3.1.relu.dequantized"
    at = next(number for number, node in enumerate(graph.graph.node) if value in node.output)
    scale = list(graph.graph.node[at].input[1:])
    for node in graph.graph.node:
        node.input[:] = ["x2" if name == value else name for name in node.input]
    steps = [(operator, [value]), ("QuantizeLinear", ["x0", *scale]), ("DequantizeLinear", ["x1", *scale])]
    for number, (name, inputs) in enumerate(steps):
        graph.graph.node.insert(at + 1 + number, onnx.helper.make_node(name, inputs, [f"x{number}"], name=f"x{number}"))
    onnx.save(graph, tmp_path / "mixed.onnx")
    with pytest.raises(ExportError, match="2 operations of this int8 graph in float, the first of them DequantizeLinear at layer3"):
        require_integers(optimised_graph(tmp_path / "mixed.onnx", ["CPUExecutionProvider"]), made)


def test_layers_that_are_kept_and_computed_in_codes_are_told() -> None:
    assert computed(["int8", "fp32", "int8"], 1) == "int8"
    assert computed(["int8", "fp32", "fp32"], 1) == "fp32"
    assert computed(["int8", "fp32", "int8"], 2) == "fp32 (1 of 2 layers that are kept in float32)"
    assert computed([], 3) == "fp32"


def test_what_stays_in_float_is_not_rounded() -> None:
    """All but one place: what is left of the error is that place's, and the classifier's is a few roundings."""
    one = given("iresnet")
    exact = float32_logits(one.source, one.images)
    batch = torch.cat(list(one.images.taken(one.images.held_out(), ExportOptions())))

    def error(kept: tuple[str, ...]) -> float:
        made = one.quantization(keep_float=kept)
        return sqnr_db(OnnxGraph(quantized_onnx(one.floating, made)).run(batch).numpy(), exact)

    everywhere, last = error(()), error(tuple(PLACES[:-1]))
    assert last > everywhere + 8
    assert error(("layer1.0",)) > everywhere


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Quantized throughout, and for 4 dB more, with one place asked for."""

    plain: Quantization
    made: Quantization
    ranking: _Ranking

    @property
    def wanted(self) -> float:
        return self.plain.predicted_sqnr_db + 4


@pytest.fixture(scope="module")
def mixed() -> Mixed:
    one, asked = given("iresnet"), ("layer1.1",)
    plain, base = one.quantization(), one.quantization(keep_float=asked)
    made = one.quantization(min_sqnr=plain.predicted_sqnr_db + 4, keep_float=asked)
    options = ExportOptions(precision="int8", calibrator="minmax")
    return Mixed(
        plain,
        made,
        _Ranking(one.floating, base, asked, one.source, one.images, Goal.of(one.source, options, no_progress), no_progress),
    )


def test_no_place_is_kept_without_need(mixed: Mixed) -> None:
    made = mixed.made
    assert made.predicted_sqnr_db >= mixed.wanted
    first, *steps = made.steps
    assert (first.place, first.sqnr_db < mixed.wanted) == ("", True)
    assert {step.place for step in steps} | {"layer1.1"} == set(made.kept)
    assert [place for place in PLACES if place in made.kept] == list(made.kept), "in the network's order"
    assert 2 <= len(steps) < len(PLACES) - 1
    for given_up in steps:
        fewer = [step.place for step in steps if step is not given_up]
        assert mixed.ranking.sqnr_db(fewer) < mixed.wanted, given_up
    for count, step in enumerate(steps, start=1):
        assert step.sqnr_db == pytest.approx(mixed.ranking.sqnr_db([one.place for one in steps[:count]]))


def test_it_is_told_in_words(mixed: Mixed) -> None:
    """At the export, and by `inspect`."""
    made = dataclasses.replace(
        mixed.made, steps=(dataclasses.replace(mixed.made.steps[0], milliseconds=1.25), *mixed.made.steps[1:])
    )
    words = made.in_words()
    assert list(words) == ["quantized", "predicted", "kept in float32", "step by step"]
    assert words["quantized"] == "ranges by minmax over 15 of 20 training images of digits"
    assert words["predicted"].startswith(f"signal to noise {made.predicted_sqnr_db:.1f} ± {made.predicted_interval_db:.1f} dB, ")
    assert words["predicted"].endswith("% of the first classes as in fp32, by 5 held out")
    assert words["kept in float32"].split(", ") == list(made.kept)
    none, first, *_ = words["step by step"].split(", ")
    assert none == f"none of them {made.steps[0].sqnr_db:.1f} dB in 1.25 ms"
    assert first == f"{made.steps[1].place} too {made.steps[1].sqnr_db:.1f} dB"
    assert list(mixed.plain.in_words()) == ["quantized", "predicted"]


@pytest.mark.slow
def test_where_calibration_gives_less_than_was_foreseen_more_is_kept(mixed: Mixed, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is calibrated twice."""
    tried: list[tuple[str, ...]] = []

    def disappointing(*arguments: Any, kept: tuple[str, ...], **named: Any) -> Quantization:
        found = chosen_quantization(*arguments, kept=kept, **named)
        tried.append(kept)
        return found if len(tried) == 1 else dataclasses.replace(found, predicted_sqnr_db=found.predicted_sqnr_db - 1.5)

    monkeypatch.setattr("iresnet_export.backends.onnx.mixed_precision.chosen_quantization", disappointing)
    made = given("iresnet").quantization(min_sqnr=mixed.wanted, keep_float=("layer1.1",))
    assert made.predicted_sqnr_db >= mixed.wanted
    assert made.kept == tried[-1]
    assert len(made.kept) > len(mixed.made.kept)
    assert len(set(tried)) == len(tried) > 2
    monkeypatch.undo()
    assert measured_again(made, mixed.wanted)[1] is None, "more had to be foreseen, and was"
    assert measured_again(dataclasses.replace(made, predicted_sqnr_db=made.steps[-1].sqnr_db), mixed.wanted)[1] is not None


def measured_again(made: Quantization, wanted: float) -> tuple[tuple[Step, ...], str | None]:
    one, options = given("iresnet"), ExportOptions(precision="int8", calibrator="minmax", min_sqnr=wanted, keep_float=("layer1.1",))
    goal = Goal.of(one.source, options, no_progress)
    return measured_steps(one.source, {False: one.folded}, one.images, options, made, goal, no_progress, within=0.1)


def test_steps_are_measured_again_and_a_place_without_need_is_seen(mixed: Mixed) -> None:
    steps, needless = measured_again(mixed.made, mixed.wanted)
    assert [step.place for step in steps] == [step.place for step in mixed.made.steps]
    assert [step.sqnr_db for step in steps] == pytest.approx([step.sqnr_db for step in mixed.made.steps], abs=0.01)
    assert needless is None
    assert measured_again(mixed.made, mixed.plain.predicted_sqnr_db)[1] in mixed.made.kept
    assert measured_again(mixed.plain, 5.0) == ((), None)


def test_engines_are_built_with_kept_places_in_float() -> None:
    """TensorRT-RTX needs no GPU for that, and its parser tells the precision of every layer."""
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'iresnet-export[tensorrt-rtx]'")
    one = given("iresnet")
    asked = EngineOptions(precision="int8", target="tensorrt", calibrator="minmax", keep_float=("layer2", "classifier"))
    made = quantization_asked_for(one.source, {False: one.folded}, one.images, asked, no_progress)
    content, flavour = quantized_onnx(one.floating, made).SerializeToString(), flavour_named("tensorrt_rtx")
    plan, details = engine_from_onnx(flavour, content, asked, no_progress, kept=made.kept)
    assert len(plan) > 1_000_000
    assert Counter(details["layer_precisions"])["fp32"] == len(made.floating) == 6
    with pytest.raises(ExportError, match=r"read layer2\.0\.downsample\.1 of the ONNX file in fp32, and int8 was asked for"):
        engine_from_onnx(flavour, content, asked, no_progress)


@pytest.mark.slow
def test_places_are_ranked_by_what_keeping_each_gives(mixed: Mixed) -> None:
    free = [place for place in PLACES if place != "layer1.1"]
    by_cost, by_gain = mixed.ranking.orders(free)
    costs = [mixed.ranking.sqnr_db([other for other in free if other != place]) for place in by_cost]
    gains = [mixed.ranking.sqnr_db([place]) for place in by_gain]
    assert costs == sorted(costs)
    assert gains == sorted(gains, reverse=True)
    assert costs[0] < costs[-1]
    assert gains[0] > gains[-1]
    assert len({tuple(order) for order in (by_cost, by_gain, free)}) == 3
    ordered = by_gain
    assert mixed.ranking.needed(ordered[:2], -100.0) == []


def test_what_is_enough_already_keeps_nothing() -> None:
    made = given("iresnet").quantization(min_sqnr=5.0)
    assert (made.kept, made.steps) == ((), ())


@pytest.mark.slow
def test_more_than_codes_can_give_is_refused() -> None:
    one = given("iresnet")
    with pytest.raises(
        InputError, match=r"--min-sqnr 90: with as little as one place quantized .* dB are predicted. Ask for"
    ) as told:
        one.quantization(min_sqnr=90.0)
    most = float(str(told.value).partition(" quantized ")[2].partition(" dB")[0])
    alone = {place: one.quantization(keep_float=tuple(other for other in PLACES if other != place)) for place in PLACES}
    assert most == round(max(made.predicted_sqnr_db for made in alone.values()), 1), "of what costs least, and not of the first"


@pytest.mark.slow
def test_places_are_kept_until_so_little_accuracy_is_shown_to_be_lost() -> None:
    """Over all labelled held-out images, counted here by hand; an untrained network has many ties to decide otherwise."""
    one = given("resnet", signs=True)
    plain = one.quantization(calibration_data="digits", max_accuracy_drop=2.9)
    assert (plain.steps, plain.kept) == ((), ())
    assert plain.top1 is not None
    limit = 0.7 * plain.top1.drop.bound
    made = one.quantization(calibration_data="digits", max_accuracy_drop=limit)
    pixels, labels = evaluation_pixels("digits", one.source.spec, 500)
    assert labels is not None
    with torch.inference_mode():
        own = one.source.own(normalised(pixels, one.source.spec)).argmax(1) == labels
    for found in (plain, made):
        mine = OnnxGraph(quantized_onnx(one.floating, found)).run(normalised(pixels, one.source.spec)).argmax(1) == labels
        counts = int(own.sum()), int((own & ~mine).sum()), int((mine & ~own).sum())
        assert found.top1 == Top1(500, "500 held-out images of digits", *counts)
    assert made.top1 is not None
    drops = [step.accuracy_drop for step in made.steps]
    assert drops[0] == plain.top1.drop.bound
    assert [step.place for step in made.steps[1:]] != []
    assert made.top1.drop.bound <= limit < plain.top1.drop.bound
    assert drops[-1] is not None
    assert drops[-1] <= limit
    words = made.in_words()
    assert words["top-1 accuracy"].endswith(made.top1.drop.verdict())
    assert f"{drops[0]:.2f} points lost" in words["step by step"]


@pytest.mark.slow
def test_an_export_for_an_accuracy_is_rebuilt_and_measured_again(tmp_path: Path) -> None:
    """And its steps, of which no other test's export has any."""
    save_checkpoint(tmp_path / "net.pt", given("resnet", signs=True).source.own)
    options = ExportOptions(
        precision="int8", calibrator="minmax", calibration_data="digits", calibration_images=20, max_accuracy_drop=1.4
    )
    artifact = export_artifact("onnx", source_from_checkpoint(tmp_path / "net.pt"), options, output=tmp_path / "mixed.onnx")
    whole = json.loads(manifest_path(artifact.path).read_text())
    assert len(whole["details"]["quantization"]["steps"]) > 1

    def reason(change: Callable[[list[dict[str, Any]]], object], *, from_scratch: bool = False) -> str | None:
        manifest = copy.deepcopy(whole)
        change(manifest["details"]["quantization"]["steps"])
        manifest_path(artifact.path).write_text(json.dumps(manifest))
        return verify([artifact.path], VerifyOptions(quick=True, from_scratch=from_scratch)).candidates[0].reason

    assert reason(lambda steps: None, from_scratch=True) is None
    quick = VerifyOptions(quick=True)
    (shown,) = verify_report(verify([artifact.path], quick), quick).candidates
    assert [dataclasses.asdict(step) for step in shown.steps] == whole["details"]["quantization"]["steps"]
    assert "details.quantization" in str(reason(lambda steps: steps[-1].update(accuracy_drop=1.5)))
    assert verify([artifact.path], quick).candidates[0].steps == (), "of what failed nothing is shown"
    assert "details.quantization" in str(reason(lambda steps: [step.pop("accuracy_drop") for step in steps]))
    assert "details.quantization" in str(reason(lambda steps: steps.pop(1)))
    of_another = reason(lambda steps: steps[0].update(accuracy_drop=80.0), from_scratch=True)
    assert "quantization.steps[0].accuracy_drop is" in str(of_another)


def test_accuracy_takes_labelled_images_and_enough_of_them(tmp_path: Path) -> None:
    untrained = given("iresnet").source

    def refusal(source: Source, **options: Any) -> str:
        with pytest.raises(InputError) as refused:
            export_artifact("onnx", source, ExportOptions(precision="int8", **options), output=tmp_path / "x.onnx")
        return str(refused.value)

    assert "no data are named. Name a folder that holds train/ and val/" in refusal(untrained, max_accuracy_drop=1.0)
    assert "no data set has as many images" in refusal(untrained, max_accuracy_drop=1e-7, calibration_data="digits")
    assert "takes 998 labelled images to show that, at 95 %, and digits holds out 500, which show 0.6 points at best." in refusal(
        untrained, max_accuracy_drop=0.3, calibration_data="digits"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "with_preprocessing", "from_scratch"),
    [
        ("cpu", True, False),
        pytest.param("cpu", False, True, marks=pytest.mark.slow),
        pytest.param("tensorrt", False, True, marks=pytest.mark.slow),
    ],
)
def test_exports_with_kept_places_verify(target: Any, with_preprocessing: bool, from_scratch: bool, tmp_path: Path) -> None:
    options = ExportOptions(
        precision="int8", target=target, keep_float=("stem", "layer3"), with_preprocessing=with_preprocessing, calibrator="minmax",
        calibration_data="digits", calibration_images=20,
    )  # fmt: skip
    artifact = export_artifact("onnx", given("resnet").source, options, output=tmp_path / "mixed.onnx")
    manifest = artifact.require_intact()
    assert manifest.details.quantization is not None
    assert manifest.details.quantization.kept == ("stem", "layer3.0", "layer3.1")
    assert 0.1 < manifest.details.multiply_accumulates["fp32"] < 0.5
    asked = VerifyOptions(images=32, data="digits", backends=["onnxruntime"], from_scratch=from_scratch)
    found = verify([artifact.path], asked).candidates[0]
    assert found.status == ("pass" if target == "cpu" else "skipped"), found.reason
