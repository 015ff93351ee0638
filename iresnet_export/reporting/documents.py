"""Reports as JSON documents; the keys are a contract with people's scripts (docs/reports.md)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from iresnet_export.evaluation import Accuracy, EvalOptions
from iresnet_export.system.environment import environment
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_export.verification.decisions import AccuracyDrop, Decisions, Proportion
from iresnet_export.verification.verify import Candidate, Verification, VerifyOptions

_LISTED_FLIPS = 50


def verify_document(verification: Verification, options: VerifyOptions) -> dict[str, Any]:
    """The report of `verify`."""
    return document(
        "verify",
        settings={
            "images": options.images,
            "batch_sizes": list(options.batch_sizes),
            "device": options.device.type,
            "backends": list(options.backends) or None,
            "seed": options.seed,
            "noise_limit": NOISE_LIMIT,
            "max_accuracy_drop": options.max_accuracy_drop,
        },
        references=[
            {
                "id": reference.id,
                "arch": reference.source.spec.arch,
                "depth": reference.source.spec.depth,
                "checkpoint_sha256": reference.source.weights.sha256 if reference.source.checkpoint else None,
                "weights": reference.source.weights.kind,
                "images": len(reference.pixels),
                "image_source": reference.image_source,
                "noise_floor": {"fp32": reference.noise_floor},
                "cached": reference.cached,
            }
            for reference in verification.references
        ],
        candidates=[_candidate(candidate, options) for candidate in verification.candidates],
        passed=verification.passed,
    )


def eval_document(accuracies: list[Accuracy], options: EvalOptions) -> dict[str, Any]:
    """The report of `eval`."""
    return document(
        "eval",
        settings={"data": None if options.data is None else Path(options.data).name, "device": options.device.type},
        results=[_evaluated(accuracy) for accuracy in accuracies],
    )


def document(kind: str, more_environment: dict[str, Any] | None = None, **body: Any) -> dict[str, Any]:
    """A report of a kind, with its schema and environment; what is not a number becomes null."""
    around = environment() | (more_environment or {})
    made: dict[str, Any] = _nulled({"schema": f"iresnet-export/{kind}/1", "environment": around, **body})
    return made


def _candidate(candidate: Candidate, options: VerifyOptions) -> dict[str, Any]:
    outputs, weights = candidate.outputs, candidate.weights
    decisions = outputs.decisions if outputs else None
    keys = ("noise_ratio", "max_abs", "max_rel", "cosine", "sqnr_db", "top1_agreement")
    found = {
        "artifact": candidate.artifact.name,
        "backend": candidate.backend,
        "precision": candidate.precision,
        "computed_precision": candidate.computed_precision,
        "reference": candidate.reference,
        "batch_sizes": list(outputs.batch_sizes) if outputs else [],
        "status": candidate.status,
        "reason": candidate.reason,
        "notices": list(candidate.notices),
        "weights": weights.to_json() if weights else None,
        "graph": dataclasses.asdict(candidate.graph) if candidate.graph else None,
        **{key: getattr(outputs, key) if outputs else None for key in keys},
        "decisions": decisions_json(decisions, options.max_accuracy_drop) if decisions else None,
        "first_divergence": candidate.localisation.first if candidate.localisation else None,
        "localisation": [dataclasses.asdict(entry) for entry in candidate.localisation.places] if candidate.localisation else None,
    }
    reasons = {key: candidate.reason or "not reached" for key in keys if not outputs}
    if candidate.computed_precision is None:
        reasons["computed_precision"] = candidate.reason or "not reached"
    if outputs and outputs.noise_ratio is None:
        reasons["noise_ratio"] = f"{candidate.precision} has no rounding error of its own to go by: see sqnr_db and top1_agreement"
    if decisions is None:
        reasons["decisions"] = candidate.reason or "not reached"
    if weights is None:
        reasons["weights"] = candidate.reason or "this format hides its weights"
    if candidate.graph is None:
        reasons["graph"] = candidate.reason or "this format hides its graph"
    if candidate.localisation is None:
        asked = "blocks are compared where something fails, or with --localise"
        reasons |= dict.fromkeys(("first_divergence", "localisation"), asked if outputs else candidate.reason or "not reached")
    elif candidate.localisation.first is None:
        reasons["first_divergence"] = "no block departs"
    if candidate.reference is None:
        reasons["reference"] = candidate.reason or "not reached"
    return {**found, "null_reasons": reasons}


def decisions_json(decisions: Decisions, limit: float | None = None) -> dict[str, Any]:
    """A candidate's decisions; shares from 0 to 1, accuracies in percent."""
    return {
        "images": decisions.top1.total,
        "top1_agreement": {"share": decisions.top1.share, "ci95": decisions.top1.ci95},
        "top5_agreement": {"share": decisions.top5.share, "ci95": decisions.top5.ci95},
        "flips": {
            "total": len(decisions.flips),
            "explained": decisions.explained,
            "unexplained": decisions.unexplained,
            "listed": [dataclasses.asdict(flip) for flip in decisions.flips[:_LISTED_FLIPS]],
        },
        "kl_divergence": decisions.kl_divergence,
        "accuracy": _accuracy_json(decisions.accuracy, limit) if decisions.accuracy else None,
        "null_reasons": {} if decisions.accuracy else {"accuracy": "nobody knows the classes of these images"},
    }


def _accuracy_json(found: AccuracyDrop, limit: float | None) -> dict[str, Any]:
    return {
        "reference": {"percent": found.reference.percent, "ci95": found.reference.percent_ci95},
        "candidate": {"percent": found.candidate.percent, "ci95": found.candidate.percent_ci95},
        "only_reference_right": found.only_reference,
        "only_candidate_right": found.only_candidate,
        "mcnemar_p": found.mcnemar_p,
        "drop_points": found.points,
        "drop_bound95_points": found.bound,
        "verdict": found.verdict(limit),
    }


def _evaluated(accuracy: Accuracy) -> dict[str, Any]:
    found = accuracy.evaluation
    figures = None
    if found is not None:
        top1, top5 = Proportion(found.top1_correct, found.images), Proportion(found.top5_correct, found.images)
        figures = {
            "images": found.images,
            "top1": found.top1,
            "top1_ci95": top1.percent_ci95,
            "top5": found.top5,
            "top5_ci95": top5.percent_ci95,
            "loss": found.loss,
        }
    keys = ("images", "top1", "top1_ci95", "top5", "top5_ci95", "loss")
    return {
        "artifact": accuracy.artifact.name,
        "backend": accuracy.backend,
        "status": accuracy.status,
        "reason": accuracy.reason,
        **(figures or dict.fromkeys(keys)),
        "null_reasons": {} if figures else dict.fromkeys(keys, accuracy.reason),
    }


def _nulled(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
