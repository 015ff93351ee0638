"""What a manifest says of its artifact beside what rebuilds it: every field that follows from others has to follow.

Versions, hardware, commit, command and date tell where it was made, which nothing here can know. Measured figures (ranges, the
proof of a fold, predictions) are held to what they may be at all, and repeated by `--from-scratch`.
"""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import onnx

from iresnet_data import evaluation_set
from iresnet_data.named_data import is_embedded
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.data_choice import measured_with
from iresnet_export.artifacts.differences import json_differences, shown
from iresnet_export.artifacts.manifest import Manifest, OnnxSettings
from iresnet_export.backends.base import MOST_SQNR_DB, ExportOptions
from iresnet_export.backends.onnx.bias_correction import is_corrected
from iresnet_export.backends.onnx.calibrate import few_images, held_out_count, preferred
from iresnet_export.backends.onnx.goals import held_out_in_words, labelled_images
from iresnet_export.backends.registry import format_named
from iresnet_export.graph.precision import precision_shares
from iresnet_export.quantization.codes import Quantization, Top1
from iresnet_export.quantization.kept import is_kept, place_of, stands_for
from iresnet_export.quantization.placement import Placement
from iresnet_export.quantization.schemes import AUTO
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.fold import FOLD_LIMIT, kept_in_words
from iresnet_models.deployed import DeployedNetwork
from iresnet_models.folded import FoldedNetwork
from iresnet_models.folding_decisions import TAU
from iresnet_models.outputs import is_of_output
from iresnet_models.spec import NetworkSpec

_SHARED = ("spec", "weights", "precision", "fold", "with_preprocessing", "outputs", "sides")
"""What a compiled artifact has from its parent."""
_SHARED_SETTINGS = tuple(entry.name for entry in fields(OnnxSettings))
_FLOATING = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul", "Relu")
"""Operators of an optimised graph that compute in float."""


def false_claim(artifact: Artifact, manifest: Manifest, options: ExportOptions, deployment: Deployment) -> str | None:
    """The first field of a rebuilt artifact's manifest that is not what follows from its file, its checkpoint and other fields."""
    told, weights = _document(manifest), deployment.source.weights
    made = copy.deepcopy(told) | {"size_bytes": artifact.path.stat().st_size, "parent": None}
    made["weights"] |= {"kind": weights.kind, "sha256": weights.sha256, "seed": weights.seed, "which": weights.which}
    if weights.kind != "checkpoint":
        made["weights"]["checkpoint"] = None
    batch, details = format_named(manifest.format).batch_range(options), told["details"]
    made["batch"] = None if batch is None else list(batch)
    made["details"] = {
        "settings": _settings(manifest, deployment.quantization, details),
        "multiply_accumulates": precision_shares(deployment.graph.layers, manifest.spec),
    }
    if manifest.fold:
        made["details"]["fold"] = _fold(manifest, deployment, details)
    if deployment.quantization is not None:
        model, codes = deployment.floating_model, deployment.quantization
        sites = Placement(model, codes.scheme, codes.kept)
        placed = _kept(codes, details, model) | {"inputs": dict(sites.inputs), "floating": list(sites.floating)}
        made["details"]["quantization"] = _quantization(manifest, codes, details) | placed
        if codes.target == "cpu" and "optimised_operators" in details:
            made["details"]["optimised_operators"] = _in_integers(details["optimised_operators"], model, codes.kept)
    return _first_difference(made, told) or _impossible(details)


def false_lineage(artifact: Artifact, manifest: Manifest, parent: Manifest) -> str | None:
    """The first field of a compiled artifact's manifest that is not its parent's, or not its file's."""
    told, parents = _document(manifest), _document(parent)
    made = copy.deepcopy(told) | {key: parents[key] for key in _SHARED} | {"size_bytes": artifact.path.stat().st_size}
    made["details"] |= {key: parents["details"].get(key) for key in ("fold", "quantization") if key in made["details"]}
    settings, own = parents["details"]["settings"], made["details"]["settings"]
    own |= {key: settings.get(key) for key in _SHARED_SETTINGS if key in own or key in settings}
    return _first_difference(made, told)


def _document(manifest: Manifest) -> dict[str, Any]:
    """A manifest as its file has it."""
    found: dict[str, Any] = json.loads(json.dumps({"details": {}} | manifest.to_json()))
    found["details"].setdefault("settings", {})
    return found


def _first_difference(made: dict[str, Any], told: dict[str, Any]) -> str | None:
    found = next(json_differences(_without_null(made), _without_null(told)), None)
    return None if found is None else f"manifest: {found[0]} is {shown(found[2])} and not {shown(found[1])}"


def _without_null(value: Any) -> Any:
    """What is not there is left out of manifests."""
    if isinstance(value, dict):
        return {name: _without_null(part) for name, part in value.items() if part is not None}
    return value


def _settings(manifest: Manifest, codes: Quantization | None, details: dict[str, Any]) -> dict[str, Any]:
    """What was asked for: the operator set and target rebuild the file, and the rest has to be what became of it."""
    told = details["settings"]
    made = {"opset": told["opset"]} if "opset" in told and manifest.format == "onnx" else {}
    if manifest.fold and told.get("calibration_data") is not None:
        made["calibration_data"] = told["calibration_data"]
    made["spec"] = told.get("spec")  # which `contradiction` holds against the checkpoint
    if codes is not None:
        calibrated, asked = details["quantization"], told.get("calibration_images")
        is_enough = type(asked) is int and (asked >= calibrated["images"] or calibrated["image_source"].endswith("noise"))
        made["calibration_images"] = asked if is_enough else calibrated["images"]
        made |= {"target": calibrated["target"], "calibrator": calibrated["calibrator"]}
        if told.get("calibrator") == AUTO:  # then all are among what was tried
            made["calibrator"] = AUTO
        made.setdefault("calibration_data", None)
        wanted, asked = told.get("min_sqnr"), told.get("keep_float")
        is_possible = wanted is not None and 0 < wanted <= min(MOST_SQNR_DB, calibrated["predicted_sqnr_db"])
        made["min_sqnr"] = wanted if is_possible else None
        limit, counted = told.get("max_accuracy_drop"), codes.top1
        is_shown = limit is not None and counted is not None and counted.drop.bound <= limit <= 100
        made["max_accuracy_drop"] = limit if is_shown and wanted is None else None
        named = [name for name in dict.fromkeys(asked or ()) if any(stands_for(name, place) for place in calibrated["kept"])]
        made["keep_float"] = named or None
    return made


def _fold(manifest: Manifest, deployment: Deployment, details: dict[str, Any]) -> dict[str, Any]:
    told, network = details["fold"], deployment.network
    folded = network.network if isinstance(network, DeployedNetwork) else network
    assert isinstance(folded, FoldedNetwork)
    count, chose, is_half = told["proof"]["images"], told["plan"]["sample"][0], manifest.precision in ("fp16", "bf16")
    # Of three images two choose and one proves; an only one does both.
    is_third = abs(chose - 2 * count) <= 1 or (chose, count) == (1, 1)
    kept, words = told.get("kept"), kept_in_words(deployment.source.own, folded.plan)
    return {
        "plan": told["plan"] | {"tau": TAU, "sample": [chose if is_third else 2 * count, 3, *manifest.spec.sides]},
        "exact_everywhere": folded.report.is_exact_everywhere,
        "exactness": folded.report.exactness,
        "proof": {
            "images": count,
            "image_source": _images(manifest, count, is_only=chose == 1),
            "error_ratio": told["proof"]["error_ratio"],
            "own_precision": told["proof"].get("own_precision") if is_half else None,
        },
        "kept": kept if words is not None and str(kept).startswith(f"{words}: ") else words,
    }


def _quantization(manifest: Manifest, codes: Quantization, details: dict[str, Any]) -> dict[str, Any]:
    told, equalized = details["quantization"], any(scale is not None for scale in details["fold"]["plan"]["scales"])
    compared = held_out_count(codes.images, manifest.spec)
    made = {**told, "image_source": _images(manifest, codes.images), "compared": compared, "equalized": equalized}
    is_auto = details["settings"].get("calibrator") == AUTO
    calibrators = codes.scheme.calibrators if is_auto else (codes.calibrator,)
    if not _are_all_tried(codes, calibrators, codes.images - compared or 1, manifest.spec):
        return made | {"tried": "what an export tries"}
    chosen = preferred([trial for trial in codes.tried if not trial.corrected], compared)
    if chosen.equalized != equalized:
        return made | {"tried": f"one whose best is {'' if equalized else 'not '}equalized, as the fold is"}
    last = codes.tried[-1]
    if last.corrected and preferred(codes.tried, compared) == last:
        chosen = last
    corrections = {name: told["bias_corrections"][name] for name in codes.inputs if any(codes.bias_corrections.get(name, ()))}
    made |= {"calibrator": chosen.calibrator, "bias_corrections": corrections if chosen.corrected else {}}
    if codes.top1 is not None:
        made["top1"] = _counted(manifest, codes.top1, details["settings"].get("max_accuracy_drop"))
    return made | {"predicted_sqnr_db": chosen.sqnr_db, "predicted_agreement": chosen.agreement}


def _counted(manifest: Manifest, told: Top1, limit: float | None) -> dict[str, Any] | None:
    """Over as many labelled images as a limit asks for: of embedded data it is known how many there are."""
    data = measured_with(manifest)
    if limit is None or data is None:
        return None
    needed, most = labelled_images(limit)
    if is_embedded(data):
        most = min(most, len(evaluation_set(data, manifest.spec)))
    count = most if is_embedded(data) else min(max(told.images, needed), most)
    return asdict(replace(told, images=count, image_source=held_out_in_words(count, data)))


def _are_all_tried(codes: Quantization, calibrators: Sequence[str], measured: int, spec: NetworkSpec) -> bool:
    """Whether every calibrator was tried on one or both folds with few images, and on the better fold with all that there are.

    Then, where biases can be corrected, the best of these with that done.
    """

    def stage(count: int, *equalized: bool) -> list[tuple[int, bool, str]]:
        return [(count, fold, calibrator) for fold in equalized for calibrator in calibrators]

    tried, few = [trial for trial in codes.tried if not trial.corrected], min(few_images(spec), measured)
    last = codes.tried[len(tried) :]
    if not tried or is_corrected(codes.scheme, few, spec.longer_side) != bool(last):
        return False
    best = preferred(tried, codes.compared)
    if any(trial != replace(best, sqnr_db=trial.sqnr_db, agreement=trial.agreement, corrected=True) for trial in last):
        return False
    found = [(trial.images, trial.equalized, trial.calibrator) for trial in tried]
    if any(round(trial.agreement * codes.compared) / codes.compared != trial.agreement for trial in codes.tried):
        return False
    for folds in ((False,), (False, True)):
        first = stage(few, *folds)
        if found[: len(first)] != first:
            continue
        better = preferred(tried[: len(first)], codes.compared).equalized
        if found[len(first) :] == ([] if measured <= few else stage(measured, better)):
            return True
    return False


def _kept(codes: Quantization, details: dict[str, Any], model: onnx.ModelProto) -> dict[str, Any]:
    """The places that were asked to stay in float32, and beyond them those that keeping step by step led to."""
    settings, told = details["settings"], details["quantization"]["steps"]
    places = list(dict.fromkeys(place_of(node.name) for node in model.graph.node if not is_of_output(node.name)))
    asked = {place for place in places if any(stands_for(name, place) for name in settings.get("keep_float") or ())}
    found = {step.place for step in codes.steps[1:]} if _are_steps(codes, settings, {*places} - asked) else set()
    return {"kept": [place for place in places if place in asked | found], "steps": told if found else []}


def _are_steps(codes: Quantization, settings: dict[str, Any], free: set[str]) -> bool:
    """Whether `free` places were kept one after another, from none on, until what was wanted was predicted, or shown."""
    wanted, limit = settings.get("min_sqnr"), settings.get("max_accuracy_drop")
    if (wanted is None and limit is None) or not codes.steps:
        return False
    first, last, found = codes.steps[0], codes.steps[-1], [step.place for step in codes.steps[1:]]
    are_others = len(found) == len(free.intersection(found))
    are_timed = all((step.milliseconds is not None) == (codes.target == "cpu") for step in (first, last))
    drops = [step.accuracy_drop for step in codes.steps if step.accuracy_drop is not None]
    if limit is not None:
        is_led = len(drops) == len(codes.steps) and drops[0] > limit >= drops[-1]
    else:
        is_led = wanted is not None and first.sqnr_db < wanted <= last.sqnr_db and not drops
    return first.place == "" and is_led and are_others and are_timed


def _in_integers(told: dict[str, int], model: onnx.ModelProto, kept: Sequence[str]) -> dict[str, int]:
    """What a runtime made of a graph, with its convolutions and additions in integers and none in float, but for what is kept."""
    counts, floats = Counter[str](), Counter[str]()
    for node in model.graph.node:
        (floats if is_kept(node.name, kept) or is_of_output(node.name) else counts)[node.op_type] += 1
    made = {name: count for name, count in told.items() if name not in _FLOATING}
    made |= {name: count for name, count in (("QLinearConv", counts["Conv"]), ("QLinearAdd", counts["Add"])) if count}
    for names, least, most in (  # ONNX Runtime makes convolutions of multiplications, and adds within convolutions
        (("Conv", "FusedConv"), floats["Conv"], floats["Conv"] + floats["Mul"]),
        (("Gemm", "FusedGemm"), floats["Gemm"], floats["Gemm"]),
        (("Add",), 0, floats["Add"]),
        (("Mul",), 0, floats["Mul"]),
        (("Relu",), 0, floats["Relu"]),
    ):
        found = {name: told[name] for name in names if name in told}
        if not least <= sum(found.values()) <= most or 0 in found.values():
            found = {names[0]: most} if most else {}
        made |= found
    return made


def _images(manifest: Manifest, count: int, *, is_only: bool = False) -> str:
    """What images are called: those of the data that were named, or that the network's file names, else noise."""
    data = measured_with(manifest)
    if is_only:
        return f"the only one of the training images of {data}"
    return f"{count} images of seeded noise" if data is None else f"{count} training images of {data}"


def _impossible(details: dict[str, Any]) -> str | None:
    """A measured figure that none can be."""
    fold = details.get("fold", {})
    proof, limit = fold.get("proof", {}), FOLD_LIMIT if fold.get("kept") is None else math.inf
    for name in ("error_ratio", "own_precision"):
        if proof.get(name) is not None and not 0 < proof[name] <= limit:
            return f"manifest: details.fold.proof.{name} is {proof[name]:g}, and beyond {limit:g} a fold is narrowed"
    told = details.get("quantization")
    if told is not None and round(told["predicted_agreement"] * told["compared"]) / told["compared"] != told["predicted_agreement"]:
        return f"manifest: details.quantization.predicted_agreement is no share of {told['compared']} images"
    return None
