"""What a manifest says of its artifact beside what rebuilds it: every field that follows from others has to follow.

Versions, hardware, commit, command and date tell where it was made, which nothing here can know. Measured figures (ranges, the
proof of a fold, predictions) are held to what they may be at all, and repeated by `--from-scratch`.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from iresnet_export.artifacts.artifact import Artifact, Manifest
from iresnet_export.artifacts.differences import json_differences, shown
from iresnet_export.backends.base import ExportOptions
from iresnet_export.backends.onnx.calibrate import most_compared
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.graph.precision import precision_shares
from iresnet_export.quantization.placement import Placement
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.fold import FOLD_LIMIT
from iresnet_models.deployed import DeployedNetwork
from iresnet_models.folded import FoldedNetwork
from iresnet_models.folding_decisions import TAU

_SHARED = ("spec", "weights", "precision", "fold", "with_preprocessing")
"""What a compiled artifact has from its parent."""


def false_claim(artifact: Artifact, manifest: Manifest, options: ExportOptions, deployment: Deployment) -> str | None:
    """The first field of a rebuilt artifact's manifest that is not what follows from its file, its checkpoint and other fields."""
    told, weights = _document(manifest), deployment.source.weights
    made = copy.deepcopy(told) | {"size_bytes": artifact.path.stat().st_size, "parent": None}
    made["weights"] |= {"kind": weights.kind, "sha256": weights.sha256, "seed": weights.seed}
    if weights.kind == "untrained":
        made["weights"]["checkpoint"] = None
    details = told["details"]
    made["details"] = {
        "settings": _settings(manifest, options, details),
        "multiply_accumulates": precision_shares(deployment.graph.layers, manifest.spec),
    }
    if manifest.fold:
        made["details"]["fold"] = _fold(manifest, deployment, details)
    if deployment.quantization is not None:
        sites = Placement(onnx_from_network(deployment.network), deployment.quantization.scheme)
        placed = {"inputs": dict(sites.inputs), "floating": list(sites.floating)}
        made["details"]["quantization"] = _quantization(manifest, details) | placed
        if deployment.quantization.target == "cpu" and "optimised_operators" in details:
            made["details"]["optimised_operators"] = details["optimised_operators"]
    return _first_difference(made, told) or _impossible(details)


def false_lineage(artifact: Artifact, manifest: Manifest, parent: Manifest) -> str | None:
    """The first field of a compiled artifact's manifest that is not its parent's, or not its file's."""
    told, parents = _document(manifest), _document(parent)
    made = copy.deepcopy(told) | {key: parents[key] for key in _SHARED} | {"size_bytes": artifact.path.stat().st_size}
    made["details"] |= {key: parents["details"].get(key) for key in ("fold", "quantization") if key in made["details"]}
    return _first_difference(made, told)


def _document(manifest: Manifest) -> dict[str, Any]:
    """A manifest as its file has it."""
    found: dict[str, Any] = json.loads(json.dumps({"details": {}} | manifest.to_json()))
    found["details"].setdefault("settings", {})
    return found


def _first_difference(made: dict[str, Any], told: dict[str, Any]) -> str | None:
    found = next(json_differences(made, told), None)
    return None if found is None else f"manifest: {found[0]} is {shown(found[2])} and not {shown(found[1])}"


def _settings(manifest: Manifest, options: ExportOptions, details: dict[str, Any]) -> dict[str, Any]:
    """What was asked for: the operator set and target rebuild the file, and the rest has to be what became of it."""
    told = details["settings"]
    made = {"opset": told["opset"]} if "opset" in told and manifest.format == "onnx" else {}
    if manifest.fold and told.get("calibration_data") is not None:
        made["calibration_data"] = told["calibration_data"]
    if options.scheme is not None:
        calibrated, asked = details["quantization"], told.get("calibration_images")
        is_enough = type(asked) is int and (asked >= calibrated["images"] or calibrated["image_source"].endswith("noise"))
        made["calibration_images"] = asked if is_enough else calibrated["images"]
        made |= {key: calibrated[key] for key in ("target", "calibrator")}
        made.setdefault("calibration_data", None)
    return made


def _fold(manifest: Manifest, deployment: Deployment, details: dict[str, Any]) -> dict[str, Any]:
    told, network, size = details["fold"], deployment.network, manifest.spec.image_size
    folded = network.network if isinstance(network, DeployedNetwork) else network
    assert isinstance(folded, FoldedNetwork)
    count, is_half = told["proof"]["images"], manifest.precision in ("fp16", "bf16")
    own = told["proof"].get("own_precision")
    return {
        "plan": told["plan"] | {"tau": TAU, "sample": [count, 3, size, size]},
        "exact_everywhere": folded.report.is_exact_everywhere,
        "exactness": folded.report.exactness,
        "proof": {
            "images": count,
            "image_source": _images(manifest, count, details),
            "error_ratio": told["proof"]["error_ratio"],
            "own_precision": (0.0 if own is None else own) if is_half else None,
        },
    }


def _quantization(manifest: Manifest, details: dict[str, Any]) -> dict[str, Any]:
    told, equalized = details["quantization"], any(scale is not None for scale in details["fold"]["plan"]["scales"])
    count = told["images"]
    compared = min(count, most_compared(manifest.spec))
    return {**told, "image_source": _images(manifest, count, details), "compared": compared, "equalized": equalized}


def _images(manifest: Manifest, count: int, details: dict[str, Any]) -> str:
    """What images are called: those of the data that were named, or that the network's file names, else noise."""
    data = details["settings"].get("calibration_data") or manifest.spec.data
    return f"{count} images of seeded noise" if data is None else f"{count} training images of {data}"


def _impossible(details: dict[str, Any]) -> str | None:
    """A measured figure that none can be."""
    proof = details.get("fold", {}).get("proof", {})
    for name in ("error_ratio", "own_precision"):
        if proof.get(name) is not None and not 0 < proof[name] <= FOLD_LIMIT:
            return f"manifest: details.fold.proof.{name} is {proof[name]:g}, and no fold is exported beyond {FOLD_LIMIT:g}"
    told = details.get("quantization")
    if told is not None and round(told["predicted_agreement"] * told["compared"]) / told["compared"] != told["predicted_agreement"]:
        return f"manifest: details.quantization.predicted_agreement is no share of {told['compared']} images"
    return None
