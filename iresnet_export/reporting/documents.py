"""What verification found, as the document that `verify` writes and shows."""

from __future__ import annotations

import dataclasses
from typing import Any

from iresnet_export.reporting.schemas import VerifyReport, environment_here, validated
from iresnet_export.verification.criteria import NOISE_LIMIT
from iresnet_export.verification.decisions import AccuracyDrop, Decisions, Proportion
from iresnet_export.verification.reference import Reference
from iresnet_export.verification.verify import Candidate, Verification, VerifyOptions

_LISTED_FLIPS = 50


def verify_report(verification: Verification, options: VerifyOptions) -> VerifyReport:
    """The report of `verify`."""
    document = {
        "environment": environment_here(),
        "settings": {
            "images": options.images,
            "batch_sizes": list(options.batch_sizes),
            "device": options.device.type,
            "backends": list(options.backends) or None,
            "seed": options.seed,
            "noise_limit": NOISE_LIMIT,
            "max_accuracy_drop": options.max_accuracy_drop,
        },
        "references": [_reference(reference) for reference in verification.references],
        "candidates": [_candidate(candidate, options) for candidate in verification.candidates],
        "passed": verification.passed,
    }
    return validated(VerifyReport, document)


def _reference(reference: Reference) -> dict[str, Any]:
    spec, weights = reference.source.spec, reference.source.weights
    return {
        "id": reference.id,
        "arch": spec.arch,
        "depth": spec.depth,
        "checkpoint_sha256": weights.sha256 if reference.source.checkpoint else None,
        "weights": weights.kind,
        "weights_sha256": weights.sha256,
        "images": len(reference.pixels),
        "image_source": reference.image_source,
        "image_size": spec.image_size,
        "noise_floor": {"fp32": reference.noise_floor},
        "cached": reference.cached,
    }


def _candidate(candidate: Candidate, options: VerifyOptions) -> dict[str, Any]:
    outputs, localisation = candidate.outputs, candidate.localisation
    decisions = outputs.decisions if outputs else None
    same = ("backend", "precision", "status", "reason", "computed_precision", "reference", "notices")
    figures = ("noise_ratio", "max_abs", "max_rel", "cosine", "sqnr_db", "top1_agreement")
    found = {
        "artifact": candidate.artifact.name,
        **{key: getattr(candidate, key) for key in same},
        "batch_sizes": outputs.batch_sizes if outputs else (),
        "coverage": None if candidate.coverage == "outputs" and outputs is None else candidate.coverage,
        "weights": candidate.weights and dataclasses.asdict(candidate.weights),
        "graph": candidate.graph and dataclasses.asdict(candidate.graph),
        **{key: getattr(outputs, key) if outputs else None for key in figures},
        "other_sizes": [dataclasses.asdict(size) for size in candidate.sizes],
        "further_outputs": [dataclasses.asdict(further) for further in candidate.further],
        "decisions": decisions and _decisions(decisions, options.max_accuracy_drop),
        "first_divergence": localisation and localisation.first,
        "localisation": localisation and [dataclasses.asdict(entry) for entry in localisation.places],
        "steps": [dataclasses.asdict(step) for step in candidate.steps],
    }
    missing = candidate.reason or "not reached"
    reasons = dict.fromkeys(("coverage", "computed_precision", "reference", "decisions", *figures), missing)
    reasons |= {key: candidate.reason or f"this format hides its {key}" for key in ("weights", "graph")}
    if outputs and outputs.reason is None:
        reasons["noise_ratio"] = f"{candidate.precision} has no rounding error of its own to go by: see sqnr_db and top1_agreement"
        reasons["sqnr_db"] = "there is no error at all"
    asked = "blocks are compared where something fails, or with --localise"
    reasons |= dict.fromkeys(("first_divergence", "localisation"), asked if outputs else missing)
    if localisation:
        reasons["first_divergence"] = "no block departs"
    return {**found, "null_reasons": {key: why for key, why in reasons.items() if found[key] is None}}


def _decisions(decisions: Decisions, limit: float | None = None) -> dict[str, Any]:
    def share(proportion: Proportion) -> dict[str, Any]:
        return {"share": proportion.share, "ci95": proportion.ci95}

    return {
        "images": decisions.top1.total,
        "top1_agreement": share(decisions.top1),
        "top5_agreement": share(decisions.top5),
        "flips": {
            "total": len(decisions.flips),
            "explained": decisions.explained,
            "unexplained": decisions.unexplained,
            "largest_margin": max((flip.margin for flip in decisions.flips), default=None),
            "listed": [dataclasses.asdict(flip) for flip in decisions.flips[:_LISTED_FLIPS]],
        },
        "kl_divergence": decisions.kl_divergence,
        "accuracy": decisions.accuracy and _accuracy(decisions.accuracy, limit),
        "null_reasons": ({} if decisions.accuracy else {"accuracy": "nobody knows the classes of these images"})
        | ({} if decisions.flips else {"flips.largest_margin": "no decision differs"}),
    }


def _accuracy(found: AccuracyDrop, limit: float | None) -> dict[str, Any]:
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
