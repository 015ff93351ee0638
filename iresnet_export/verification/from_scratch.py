"""What an export measured, measured again from its data: the fold's bounds and proof, the ranges of codes, what they cost.

The figures come from float32 networks, which round otherwise on other processors and with other numbers of threads. Measured with
one and two threads and without oneDNN (iResNet-18 and -50), ranges of one histogram differ by 4e-6 of their width, scales by 7e-6,
ratios of the proof by a tenth, signal to noise by 0.5 dB (ties between codes), the first class of 1 image in 64.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, cast

from iresnet_data.named_data import is_embedded, short_name
from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.artifacts.data_choice import chosen_data, measured_with
from iresnet_export.artifacts.differences import json_differences, shown
from iresnet_export.artifacts.manifest import Manifest, plain
from iresnet_export.artifacts.source import Source
from iresnet_export.artifacts.subject import Subject
from iresnet_export.backends.base import ExportJob, ExportOptions
from iresnet_export.backends.onnx.bias_correction import uncorrected
from iresnet_export.backends.onnx.calibrate import calibration_images, chosen_quantization, float32_logits, predicted_cost
from iresnet_export.backends.onnx.goals import Goal
from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.backends.onnx.mixed_precision import measured_steps
from iresnet_export.backends.registry import format_named, runtimes_for
from iresnet_export.errors import ExportError, InputError
from iresnet_export.quantization.codes import Top1
from iresnet_export.quantization.observers import is_range_of, observed
from iresnet_export.quantization.schemes import Calibrator
from iresnet_export.system.environment import versions
from iresnet_export.system.progress import Progress
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.fold import fold_sample, folds_for_codes, proved_fold

REPEATED = (
    "measured again from its data: the fold's plan and proof, and the ranges, corrections, cost and steps of codes if it has any, "
    "are as recorded"
)

_AGAIN = "measured again from its data"
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
"""Whose other versions may make another graph of a file."""
_ROUNDING = 1e-3
"""Relative, of bounds and scales: a hundred times what was seen, and too little to matter."""
_PROOF = 2.0
"""As a factor, either way: a ratio of two rounding errors."""
_SQNR_DB = 1.5
_INTERVAL_DB, _NARROWER = 1.0, 2.0
"""Either way; and no interval is told to be narrower than by this factor, give or take a tenth of the former."""
_AGREEMENT = 1 / 16
_FLIPPED = 1 / 128
"""Of images, as a share; of what is lost and gained together half of that."""


def was_measured(artifact: Artifact) -> bool:
    """Whether the export measured anything: a fold's bounds and proof, ranges of codes."""
    return artifact.manifest is not None and artifact.manifest.fold


def data_of(artifact: Artifact, subject: Source | Subject, given: str | None) -> str | None:
    """The data that an export measured with, as they can be opened here; None for noise. InputError where they cannot."""
    recorded = None if artifact.manifest is None else measured_with(artifact.manifest)
    if recorded is None or is_embedded(recorded):
        return recorded
    data = chosen_data(given, subject.spec, subject.weights)
    if data is None or short_name(data) != recorded:
        raise InputError(
            f"{artifact.path} was measured with images of {recorded}, and the same are needed to measure again.",
            "Name their folder with --data.",
        )
    return data


def not_repeated(artifact: Artifact, source: Source, given: str | None, progress: Progress) -> str | None:
    """The first figure that comes out otherwise, beyond rounding; None where all are as the manifest records them.

    Raises InputError where the data cannot be had.
    """
    artifact = artifact if format_named(artifact.format).parent is None else artifact.parent()
    manifest = artifact.manifest
    assert manifest is not None
    told, data, deployment = _details(manifest), data_of(artifact, source, given), Deployment(source, manifest)
    options = _options(manifest, told, data)
    if data is None:  # what a training here remembers was not there for the export
        source = dataclasses.replace(source, weights=dataclasses.replace(source.weights, kind="untrained"))
    sample = dataclasses.replace(fold_sample(source, data), anew=True)
    try:
        if (codes := deployment.quantization) is None:
            _, fold = proved_fold(sample, progress, precision=manifest.precision)
        else:
            images = calibration_images(source, options)
            networks, folds = folds_for_codes(sample, images, options, progress)
            if codes.equalized not in folds:
                return f"{_AGAIN}: nothing of its stream can be equalized, and the manifest says that it is"
            fold = folds[codes.equalized]
    except ExportError as error:
        return f"{_AGAIN}: {error.reason}"
    made: dict[str, Any] = {"fold": plain(fold)}
    if codes is not None:
        repeated = chosen_quantization(source, networks, images, options, progress, wanted=codes)
        goal = Goal.of(source, options, progress)
        steps, needless = measured_steps(source, networks, images, options, codes, goal, progress, within=_SQNR_DB)
        if needless is not None:
            return f"{_AGAIN}: without {needless} in float32 more than {options.min_sqnr} dB are predicted too"
        timed = zip(steps, codes.steps, strict=True)  # how long a graph takes is of its time and machine
        steps = tuple(dataclasses.replace(step, milliseconds=recorded.milliseconds) for step, recorded in timed)
        repeated = dataclasses.replace(repeated, steps=steps)
        # Ranges that differ by rounding alone give other ties between codes: what they cost is measured with those recorded.
        calibrator = cast("Calibrator", codes.calibrator)
        batches = images.taken(images.measuring(images.measured), options)
        observers = observed(
            OnnxGraph(deployment.floating_model), list(codes.ranges), batches, images.measured // images.batch, progress
        )
        ranges = {
            name: list(limits) if is_range_of(observers[name], limits, calibrator) else [observers[name].low, observers[name].high]
            for name, limits in codes.ranges.items()
        }
        if codes.bias_corrections:
            layer = uncorrected(deployment.floating_model, codes, images.together(options))
            if layer is not None:
                return f"{_AGAIN}: with quantization.bias_corrections {layer} is off on average, by more than chance"
        cost = predicted_cost(deployment.quantized_model, float32_logits(source, images), images, options)
        made["quantization"] = repeated.to_json() | {"ranges": ranges} | cost.predicted
        made["quantization"]["bias_corrections"] = told["quantization"]["bias_corrections"]
        if codes.top1 is not None and goal.labelled is not None:
            made["quantization"]["top1"] = _counted(goal.labelled.top1(deployment.quantized_model), codes.top1)
        if "optimised_operators" in told and all(manifest.versions.get(name) == versions().get(name) for name in _RUNTIMES):
            job = ExportJob(deployment.network, source.spec, artifact.path, options, quantization=codes)
            for runtime in runtimes_for(artifact.format):
                made |= runtime.prove(job)
    departures = _departures(made, {key: told[key] for key in made})
    return next((f"{_AGAIN}: {text}" for text in departures), None)


def _counted(own: Top1, recorded: Top1) -> dict[str, Any]:
    """As it is recorded, if no count and not what is lost altogether differs by more images than rounding flips."""
    pairs = [(getattr(own, name), getattr(recorded, name)) for name in ("right", "lost", "gained")]
    pairs.append((2 * (own.lost - own.gained), 2 * (recorded.lost - recorded.gained)))
    allowed = max(1.0, _FLIPPED * own.images)
    alike = own.images == recorded.images and all(abs(mine - told) <= allowed for mine, told in pairs)
    return dataclasses.asdict(recorded if alike else own)


def _details(manifest: Manifest) -> dict[str, Any]:
    found: dict[str, Any] = manifest.to_json()["details"]
    return found


def _options(manifest: Manifest, told: dict[str, Any], data: str | None) -> ExportOptions:
    options, settings = format_named(manifest.format).options_of(manifest), told.get("settings", {})
    asked = {name: settings[name] for name in ("calibrator", "calibration_images") if name in settings}
    asked |= {"keep_float": tuple(settings.get("keep_float") or ())}
    asked |= {name: settings.get(name) for name in ("min_sqnr", "max_accuracy_drop")}
    return dataclasses.replace(options, calibration_data=data, **asked)


def _departures(made: dict[str, Any], told: dict[str, Any]) -> Iterator[str]:
    for told_of in (made, told):  # why channels are kept is told with a measured figure
        if "kept" in told_of["fold"]:
            how_many, colon, why = told_of["fold"]["kept"].partition(":")
            told_of["fold"] = {**told_of["fold"], "kept": how_many + colon + re.sub(r"error( in \w+)? is \S+ times", "error", why)}
    for place, own, recorded in json_differences(json.loads(json.dumps(made)), json.loads(json.dumps(told))):
        if not (isinstance(own, float) and isinstance(recorded, float) and _is_rounding(place, own, recorded)):
            yield f"{place} is {shown(own)}, and the manifest says {shown(recorded)}"


def _is_rounding(place: str, own: float, recorded: float) -> bool:
    name = place.rpartition(".")[2]
    if name in ("error_ratio", "own_precision"):
        return own / _PROOF <= recorded <= own * _PROOF
    if name == "predicted_interval_db":
        return abs(own - recorded) <= _INTERVAL_DB and recorded >= own / _NARROWER - _INTERVAL_DB / 10
    limits = {"sqnr_db": _SQNR_DB, "agreement": _AGREEMENT, "accuracy_drop": 100 * _FLIPPED}
    allowed = limits.get(name.removeprefix("predicted_"))
    if allowed is not None:
        return abs(own - recorded) <= allowed
    return ".plan." in place and abs(own - recorded) <= _ROUNDING * abs(own)
