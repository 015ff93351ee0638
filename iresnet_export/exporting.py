"""From a source to an artifact with its manifest: exported, read back, recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iresnet_export.artifact import (
    ENDINGS,
    Artifact,
    Manifest,
    Parent,
    embedded_identity,
    open_artifact,
    record,
    require_replaceable,
)
from iresnet_export.backends import backend_named, backends_for
from iresnet_export.backends.base import Backend, ExportJob, ExportOptions
from iresnet_export.calibrating import calibration_images, chosen_quantization, equalising_scales
from iresnet_export.data_choice import chosen_data, is_named
from iresnet_export.errors import ExportError, InputError
from iresnet_export.layers import layers_of_network
from iresnet_export.precision import in_words, precision_shares, shares
from iresnet_export.progress import Progress, no_progress
from iresnet_export.quantization.parameters import Quantization, quantized_layers
from iresnet_export.source import Source
from iresnet_export.verification.fold import FoldSample, fold_details, fold_sample, proved_fold
from iresnet_export.verification.weights import compare_layers
from iresnet_models.deployed import DTYPES, Deployable, deployed
from iresnet_models.files import replacing, sha256_of
from iresnet_models.folded import FoldedNetwork
from iresnet_models.operations import layer_multiply_accumulates

SUFFIX = {format: endings[0] for format, endings in ENDINGS.items()}


def default_output(backend: Backend, source: Source, options: ExportOptions, folder: Path = Path("artifacts")) -> Path:
    """Such as `artifacts/iresnet50.onnx`, `artifacts/iresnet50-int8-cpu.onnx` or `artifacts/iresnet50-nofold.ts`."""
    parts = [source.spec.name]
    if options.precision != "fp32":
        parts.append(f"int8-{options.target}" if options.precision == "int8" else options.precision)
    parts += ["nofold"] if not options.fold else []
    parts += ["pre"] if options.with_preprocessing else []
    parts += [options.device] if backend.format == "aoti" and options.device != "cpu" else []
    return folder / f"{'-'.join(parts)}{SUFFIX[backend.format]}"


def export_artifact(
    name: str,
    source: Source,
    options: ExportOptions,
    *,
    output: Path | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Artifact:
    """Exports by the backend `name`, and reads the weights back before the artifact takes its place.

    Raises InputError where `output` holds something else and `force` is not given, ExportError where the exporter
    fails or where a weight that was written is not the checkpoint's.
    """
    backend = backend_named(name)
    if options.precision not in backend.precisions:
        able = ", ".join(backend.precisions)
        raise InputError(f"{backend.format} files are exported in {able}, not in {options.precision}; choose another --precision.")
    output = output or default_output(backend, source, options)
    options = _with_images(source, options)
    planned = _planned(backend, source, options, output)
    require_replaceable(output, planned, _inputs(source, options), force=force)
    parent = _parent(backend, source, options, output, force, progress)
    identity = embedded_identity(source.spec, source.weights, options.precision, options.fold, options.with_preprocessing)
    network, quantization, about = _deployable(source, options, parent, progress)
    with replacing(output) as temporary:
        details = backend.export(ExportJob(network, temporary, options, identity, quantization, parent, progress)) | about
        details["multiply_accumulates"] = _proved(backend, network, quantization, temporary, planned, details)
        written = dataclasses.replace(
            planned,
            sha256=sha256_of(temporary),
            size_bytes=temporary.stat().st_size,
            parent=None if parent is None else Parent(parent.path.name, sha256_of(parent.path)),
            details=planned.details | details,
        )
    source.remember_for(output.parent)
    return record(output, written)


def _with_images(source: Source, options: ExportOptions) -> ExportOptions:
    """The options with the images named that a training here remembers: the manifest records them as if the user had."""
    if not options.fold or is_named(options.calibration_data, source.spec):
        return options
    data = chosen_data(None, source.spec, source.weights)
    if data is not None and options.scheme is None:  # `fold_sample` does without
        from iresnet_train.data import training_set

        try:
            training_set(data, source.spec)
        except InputError:
            return options
    return dataclasses.replace(options, calibration_data=data)


def _inputs(source: Source, options: ExportOptions) -> list[Path]:
    """The files and folders that an export reads."""
    data = options.calibration_data
    named = [] if data in (None, "digits") else [Path(data)]
    return [*named, *([] if source.checkpoint is None else [source.checkpoint])]


def _planned(backend: Backend, source: Source, options: ExportOptions, output: Path) -> Manifest:
    """The manifest as far as it is known before the export."""
    settings = backend.settings(options)
    if options.fold and options.calibration_name is not None:
        settings |= {"calibration_data": options.calibration_name}  # the fold's bounds come from it, in every precision
    return Manifest(
        file=output.name,
        format=backend.format,
        sha256="",
        size_bytes=0,
        spec=source.spec,
        weights=source.weights_seen_from(output.parent),
        precision=options.precision,
        fold=options.fold,
        batch=backend.batch_range(options),
        with_preprocessing=options.with_preprocessing,
        details={"settings": settings},
    )


def _parent(
    backend: Backend, source: Source, options: ExportOptions, output: Path, force: bool, progress: Progress
) -> Artifact | None:
    """What the backend builds from, beside the output: the one that is there if it is the same, else made now."""
    if backend.parent_format is None:
        return None
    parent_backend = backends_for(backend.parent_format)[0]
    own = next(ending for ending in ENDINGS[backend.format] if output.name.lower().endswith(ending))
    path = output.with_name(output.name[: -len(own)] + SUFFIX[parent_backend.format])
    planned = _planned(parent_backend, source, options, path)
    if path.exists():
        try:
            there = open_artifact(path)
            if there.require_intact().same_making(planned):
                return there
        except (InputError, ExportError):
            pass
    return export_artifact(parent_backend.name, source, options, output=path, force=force, progress=progress)


def _deployable(
    source: Source, options: ExportOptions, parent: Artifact | None, progress: Progress
) -> tuple[Deployable, Quantization | None, dict[str, Any]]:
    """What is exported, and what the manifest says of its fold and quantization. What is built from a parent has its."""
    dtype = DTYPES.get(options.precision, torch.float32)
    if parent is not None:
        made = {} if parent.manifest is None else parent.manifest.details
        return source.network, None, {key: made[key] for key in ("fold", "quantization") if key in made}
    if not options.fold:
        return deployed(source.network, None, dtype, with_preprocessing=options.with_preprocessing), None, {}
    sample = fold_sample(source, options.calibration_data)
    if options.scheme is not None:
        return _quantized(sample, options, progress)
    folded, proof = proved_fold(sample, progress, precision=options.precision)
    about = {"fold": fold_details(folded, proof)}
    if dtype is torch.float32 and not options.with_preprocessing:
        return folded, None, about
    return deployed(source.network, folded.plan, dtype, with_preprocessing=options.with_preprocessing), None, about


def _quantized(sample: FoldSample, options: ExportOptions, progress: Progress) -> tuple[Deployable, Quantization, dict[str, Any]]:
    """The fold and the quantization of it that measure best, with or without the stream's channels equalised."""
    source = sample.source
    images = calibration_images(source, options)
    tried: dict[bool, tuple[Deployable, dict[str, Any]]] = {}

    def fold_with(scales: list[Tensor | None] | None) -> FoldedNetwork:
        folded, proof = proved_fold(sample, progress, scales=scales)
        network = deployed(source.network, folded.plan, with_preprocessing=True) if options.with_preprocessing else folded
        tried[scales is not None] = network, fold_details(folded, proof)
        return folded

    scales = equalising_scales(fold_with(None), images)
    if any(scale is not None for scale in scales):
        fold_with(scales)
    networks = {equalised: network for equalised, (network, _) in tried.items()}
    quantization = chosen_quantization(source, networks, images, options, progress)
    network, about_fold = tried[quantization.equalised]
    return network, quantization, {"fold": about_fold, "quantization": quantization.to_json()}


def _proved(
    backend: Backend,
    network: Deployable,
    quantization: Quantization | None,
    path: Path,
    planned: Manifest,
    details: dict[str, Any],
) -> dict[str, float]:
    """Reads the file back: raises ExportError unless it holds the weights, in the precision that was asked for.

    Returns the share of multiply-accumulates in each precision, as the file stores them. A backend whose files hide their layers
    tells of their `layer_precisions` itself.
    """
    observer = backend.observer(Artifact(path, backend.format, planned), torch.device("cpu"), trust=True)
    if observer is None:
        told = details.pop("layer_precisions", None)
        return {} if told is None else shares(told, list(layer_multiply_accumulates(planned.spec).values()))
    expected = layers_of_network(network)
    if quantization is not None:
        expected = quantized_layers(expected, quantization)
    layers = observer.layers
    report = compare_layers(expected, layers)
    if not report.passed:
        raise ExportError(f"The export was refused: read back from the file, {report.first_difference}.")
    found = precision_shares(layers, planned.spec)
    floating = () if quantization is None else quantization.floating
    quantized = precision_shares([layer for layer in layers if layer.name not in floating], planned.spec, floating)
    if quantized.keys() != {planned.precision}:
        raise ExportError(f"The export was refused: {planned.precision} was asked for, and the file holds {in_words(found)}.")
    return found
