"""From a source to an artifact with its descent: exported, read back, recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from iresnet_export.artifact import (
    Artifact,
    Descent,
    Parent,
    embedded_identity,
    open_artifact,
    record,
    require_replaceable,
)
from iresnet_export.backends import backend_named, backends_for
from iresnet_export.backends.base import Backend, ExportOptions, Progress, no_progress
from iresnet_export.errors import ExportError, InputError
from iresnet_export.layers import Deployable, layers_of_network
from iresnet_export.source import Source
from iresnet_export.verification.weights import compare_layers
from iresnet_models.files import replacing, sha256_of

SUFFIX = {"torchscript": ".ts", "onnx": ".onnx", "engine": ".engine"}


def default_output(backend: Backend, source: Source, fold: bool, folder: Path = Path("artifacts")) -> Path:
    """Such as `artifacts/iresnet50.onnx` or `artifacts/iresnet50-nofold.ts`."""
    return folder / f"{source.spec.name}{'' if fold else '-nofold'}{SUFFIX[backend.format]}"


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
    output = output or default_output(backend, source, options.fold)
    planned = _planned(backend, source, options, output)
    require_replaceable(output, planned, force=force)
    parent = _parent(backend, source, options, output, force, progress)
    identity = embedded_identity(source.spec, source.weights, options.precision, options.fold)
    network, about_fold = _deployable(source, options, parent, progress)
    with replacing(output) as temporary:
        details = backend.export(network, temporary, options, identity, parent, progress) | about_fold
        _require_same_weights(backend, network, temporary)
        written = dataclasses.replace(
            planned,
            sha256=sha256_of(temporary),
            size_bytes=temporary.stat().st_size,
            parent=None if parent is None else Parent(parent.path.name, sha256_of(parent.path)),
            details=planned.details | details,
        )
    return record(output, written)


def _planned(backend: Backend, source: Source, options: ExportOptions, output: Path) -> Descent:
    """The descent as far as it is known before the export."""
    return Descent(
        file=output.name,
        format=backend.format,
        sha256="",
        size_bytes=0,
        spec=source.spec,
        weights=source.weights_seen_from(output.parent),
        precision=options.precision,
        fold=options.fold,
        batch=backend.batch_range(options),
        details={"settings": backend.settings(options)},
    )


def _parent(
    backend: Backend, source: Source, options: ExportOptions, output: Path, force: bool, progress: Progress
) -> Artifact | None:
    """What the backend builds from, beside the output: the one that is there if it is the same, else made now."""
    if backend.parent_format is None:
        return None
    parent_backend = backends_for(backend.parent_format)[0]
    path = output.with_suffix(SUFFIX[parent_backend.format])
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
) -> tuple[Deployable, dict[str, Any]]:
    """What is exported, and what the descent says of its fold. What is built from a parent is folded there."""
    if not options.fold or parent is not None:
        return source.network, {}
    from iresnet_export.verification.fold import fold_details, fold_sample, proved_fold

    folded, proof = proved_fold(source, *fold_sample(source.spec, options.calibration_data), progress)
    return folded, {"fold": fold_details(folded, proof)}


def _require_same_weights(backend: Backend, network: Deployable, path: Path) -> None:
    layers = backend.layers(Artifact(path, backend.format, None))
    if layers is None:
        return
    report = compare_layers(layers_of_network(network), layers)
    if not report.passed:
        raise ExportError(f"The export was refused: read back from the file, {report.first_difference}.")
