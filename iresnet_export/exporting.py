"""From a source to an artifact with its manifest: exported, read back, recorded."""

from __future__ import annotations

import dataclasses
import statistics
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from iresnet_data.named_data import is_embedded
from iresnet_export.artifacts.artifact import ENDINGS, Artifact, open_artifact, record, require_replaceable
from iresnet_export.artifacts.data_choice import chosen_data, is_named
from iresnet_export.artifacts.manifest import DETAILS, UNWRITTEN, Details, Fold, FormatName, Manifest, Parent, SaidOfSpec
from iresnet_export.artifacts.metadata import embedded_identity
from iresnet_export.artifacts.source import Source
from iresnet_export.backends.base import ExportJob, ExportOptions, Format
from iresnet_export.backends.onnx.calibrate import Images, calibration_images
from iresnet_export.backends.onnx.goals import require_labelled
from iresnet_export.backends.onnx.mixed_precision import keeping, places_of, quantization_asked_for
from iresnet_export.backends.onnx.writing import onnx_from_network
from iresnet_export.backends.registry import format_named, runtimes_for
from iresnet_export.benchmark.clock import Timed, measure
from iresnet_export.errors import ExportError, InputError
from iresnet_export.graph.compare import compare
from iresnet_export.graph.precision import in_words, precision_shares, shares
from iresnet_export.quantization.codes import Quantization, Step, quantized_graph
from iresnet_export.quantization.placement import quantized_onnx
from iresnet_export.system.progress import Progress, no_progress
from iresnet_export.verification.deployment import as_exported, probe_of
from iresnet_export.verification.fold import FoldSample, fold_sample, folds_for_codes, proved_fold
from iresnet_models.deployed import DTYPES, Deployable
from iresnet_models.files import replacing, sha256_of
from iresnet_models.operations import layer_multiply_accumulates
from iresnet_models.outputs import LOGITS, default_outputs, require_had
from iresnet_models.temporary import temporary_folder

_SECONDS = 1.0
"""Of each network, in turns."""
_TIMED = 12
"""Networks at most: the first ones and the last. All of them are in memory at once."""


def default_output(format: Format, source: Source, options: ExportOptions, folder: Path = Path("artifacts")) -> Path:
    """Such as `artifacts/iresnet50.onnx`, `artifacts/iresnet50-int8-cpu.onnx` or `artifacts/iresnet50-nofold.ts`."""
    parts = [source.spec.name]
    if options.precision != "fp32":
        parts.append(f"int8-{options.target}" if options.precision == "int8" else options.precision)
    parts += ["mixed"] if options.keep_float or options.is_searched else []
    parts += ["nofold"] if not options.fold else []
    parts += ["pre"] if options.with_preprocessing else []
    parts += [name for name in options.given if name not in default_outputs(with_preprocessing=options.with_preprocessing)]
    parts += ["dynamic"] if options.dynamic_size else []
    parts += format.name_parts(options)
    return folder / f"{'-'.join(parts)}{format.suffix}"


def export_artifact(
    format_name: FormatName,
    source: Source,
    options: ExportOptions,
    *,
    output: Path | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> Artifact:
    """Exports to a format, and reads the weights back before the artifact takes its place.

    Raises InputError where `output` holds something else and `force` is not given, ExportError where the exporter
    fails or where a weight that was written is not the checkpoint's.
    """
    format = format_named(format_name)
    if options.precision not in format.precisions:
        able = ", ".join(format.precisions)
        raise InputError(f"{format.name} files are exported in {able}, not in {options.precision};", "choose another --precision.")
    _require_offered(format, source, options)
    output = output or default_output(format, source, options)
    options = _with_images(source, options)
    require_labelled(source, options)
    planned = _planned(format, source, options, output)
    require_replaceable(output, planned, _inputs(source, options), force=force)
    parent = _parent(format, source, options, output, force, progress)
    identity = embedded_identity(planned)
    network, fold, quantization = _deployable(source, options, parent, progress)
    with replacing(output) as temporary:
        job = ExportJob(network, source.spec, temporary, options, identity, quantization, parent, progress)
        details = format.write(job)
        for runtime in runtimes_for(format.name):
            details |= runtime.prove(job)
        details["multiply_accumulates"] = _shares_read_back(format, network, quantization, temporary, planned, details)
        written = dataclasses.replace(
            planned,
            sha256=sha256_of(temporary),
            size_bytes=temporary.stat().st_size,
            parent=None if parent is None else Parent(parent.path.name, sha256_of(parent.path)),
            details=dataclasses.replace(planned.details, fold=fold, quantization=quantization, **details),
        )
    source.remember_for(output.parent)
    return record(output, written)


def _require_offered(format: Format, source: Source, options: ExportOptions) -> None:
    """InputError where something is asked that the format has not, or that is offered for networks of this project alone."""
    if not options.dynamic_batch and format.batch_range(options) is None:
        raise InputError(f"{format.name} files take any batch size;", "leave out dynamic_batch and batch.")
    if options.scheme is not None and source.weights.kind != "module":
        places_of(source, options).kept(options.keep_float)
    if options.dynamic_size and not format.frees_sizes:
        raise InputError(f"{format.name} files take images of one size;", "leave out --dynamic-size.")
    require_had(options.given, source.spec)
    if source.weights.kind != "module":
        return
    asked = {
        f"the format {format.name}": not format.takes_modules,
        "the fold": options.fold,
        f"the precision {options.precision}": options.precision != "fp32",
        "preprocessing inside": options.with_preprocessing,
    }
    refused = " and ".join(what for what, is_asked in asked.items() if is_asked)
    if refused:
        raise InputError(
            f"{source.spec.name} is a module in memory, and {refused} cannot be had of it, but of networks of this project alone.",
            "Export it to onnx or pt2, in fp32 and as it is.",
        )


def _with_images(source: Source, options: ExportOptions) -> ExportOptions:
    """The options with the images named that a training here remembers: the manifest records them as if the user had."""
    if not options.fold or is_named(options.calibration_data, source.spec):
        return options
    data = chosen_data(None, source.spec, source.weights)
    if data is not None and options.scheme is None:  # `fold_sample` does without
        from iresnet_data.datasets import training_set

        try:
            training_set(data, source.spec)
        except InputError:
            return options
    return dataclasses.replace(options, calibration_data=data)


def _inputs(source: Source, options: ExportOptions) -> list[Path]:
    """The files and folders that an export reads."""
    data = options.calibration_data
    named = [] if data is None or is_embedded(data) else [Path(data)]
    return [*named, *([] if source.checkpoint is None else [source.checkpoint])]


def _planned(format: Format, source: Source, options: ExportOptions, output: Path) -> Manifest:
    """The manifest as far as it is known before the export."""
    settings = format.settings(options)
    if options.fold:
        settings = dataclasses.replace(settings, calibration_data=options.calibration_name)  # the fold's bounds come from it
    settings = dataclasses.replace(settings, spec=SaidOfSpec.of(source.said))
    return Manifest(
        file=output.name,
        format=format.name,
        sha256=UNWRITTEN,
        size_bytes=0,
        spec=source.spec,
        weights=source.weights_seen_from(output.parent),
        precision=options.precision,
        fold=options.fold,
        batch=format.batch_range(options),
        with_preprocessing=options.with_preprocessing,
        outputs=options.given,
        sides=source.spec.free_sides if options.dynamic_size else None,
        details=DETAILS.get(format.name, Details)(settings=settings),
    )


def _parent(
    format: Format, source: Source, options: ExportOptions, output: Path, force: bool, progress: Progress
) -> Artifact | None:
    """What the format is built from, beside the output: the one that is there if it is the same, else made now."""
    if format.parent is None:
        return None
    parent = format_named(format.parent)
    own = next(ending for ending in ENDINGS[format.name] if output.name.lower().endswith(ending))
    path = output.with_name(output.name[: -len(own)] + parent.suffix)
    planned = _planned(parent, source, options, path)
    if path.exists():
        try:
            there = open_artifact(path)
            if there.require_intact().same_recipe(planned):
                return there
        except (InputError, ExportError):
            pass
    return export_artifact(parent.name, source, options, output=path, force=force, progress=progress)


def _deployable(
    source: Source, options: ExportOptions, parent: Artifact | None, progress: Progress
) -> tuple[nn.Module, Fold | None, Quantization | None]:
    """What is exported, its fold and its quantization. What is built from a parent has the parent's."""
    dtype, given = DTYPES.get(options.precision, torch.float32), options.given
    if parent is not None:
        made = parent.require_intact().details
        return source.network, made.fold, made.quantization
    if not options.fold:
        return as_exported(source, None, with_preprocessing=options.with_preprocessing, outputs=given), None, None
    sample = fold_sample(source, options.calibration_data)
    if options.scheme is not None:
        return _quantized(sample, options, progress)
    folded, fold = proved_fold(sample, progress, precision=options.precision)
    if _is_plain(options):
        return folded, fold, None
    return as_exported(source, folded.plan, dtype, with_preprocessing=options.with_preprocessing, outputs=given), fold, None


def _is_plain(options: ExportOptions) -> bool:
    """Whether a file holds the folded network as it was proved: in float32, for prepared images, with nothing but logits."""
    is_float32 = DTYPES.get(options.precision, torch.float32) is torch.float32
    return is_float32 and not options.with_preprocessing and options.given == (LOGITS,)


def _quantized(sample: FoldSample, options: ExportOptions, progress: Progress) -> tuple[nn.Module, Fold, Quantization]:
    """The fold and the quantization of it that measure best, with or without the stream's channels equalized."""
    images = calibration_images(sample.source, options)
    networks, folds = folds_for_codes(sample, images, options, progress)
    quantization = quantization_asked_for(sample.source, networks, images, options, progress)
    network = networks[quantization.equalized]
    if quantization.target == "cpu" and quantization.steps:
        quantization = dataclasses.replace(quantization, steps=_timed(quantization, network, images, options, progress))
    fold = folds[quantization.equalized]
    if _is_plain(options):
        return network, fold, quantization
    source, with_preprocessing = sample.source, options.with_preprocessing
    made = as_exported(source, fold.plan, with_preprocessing=with_preprocessing, outputs=options.given)
    return made, fold, quantization


def _timed(made: Quantization, network: Deployable, images: Images, options: ExportOptions, progress: Progress) -> tuple[Step, ...]:
    """The steps with what a graph of each takes for one image by ONNX Runtime, measured in turns."""
    from iresnet_export.backends.onnxruntime.runtime import OnnxSession

    model, timed = onnx_from_network(network), list[Timed]()
    asked = [place for place in made.kept if place not in {step.place for step in made.steps}]
    image = next(images.taken(images.measuring(1), options))
    counts = [count for count in range(len(made.steps)) if count < _TIMED - 1 or count == len(made.steps) - 1]
    with temporary_folder() as folder, ExitStack() as stack:
        for count in counts:
            kept = [*asked, *(step.place for step in made.steps[1 : count + 1])]
            path = folder / f"{count}.onnx"
            path.write_bytes(quantized_onnx(model, keeping(made, kept, model, made.ranges)).SerializeToString())
            session = stack.enter_context(OnnxSession(path, torch.device("cpu")))
            timed.append(Timed(made.steps[count].place or "what is quantized", partial(session.run, image)))
        samples = measure(timed, seconds=_SECONDS, warmup_seconds=_SECONDS / 4, seed=0, progress=progress)
    medians = {count: round(statistics.median(found.all), 4) for count, found in zip(counts, samples, strict=True)}
    return tuple(dataclasses.replace(step, milliseconds=medians.get(count)) for count, step in enumerate(made.steps))


def _shares_read_back(
    format: Format,
    network: nn.Module,
    quantization: Quantization | None,
    path: Path,
    planned: Manifest,
    details: dict[str, Any],
) -> dict[str, float]:
    """Reads the file back: raises ExportError unless it holds the weights, in the precision that was asked for.

    Returns the share of multiply-accumulates in each precision, as the file stores them. A format that hides what its
    files hold tells of their `layer_precisions` itself.
    """
    graph = format.read(Artifact(path, format.name, planned))
    if graph is None:
        stored = details.pop("layer_precisions", None)
        return {} if stored is None else shares(stored, list(layer_multiply_accumulates(planned.spec).values()))
    expected = probe_of(network, planned.spec, planned.batch, planned.sides).graph
    difference = compare(expected if quantization is None else quantized_graph(expected, quantization), graph).first_difference
    if difference is not None:
        raise ExportError(f"The export was refused: read back from the file, {difference}.")
    if expected.named:  # compared with them, so in their precision; how the work is shared out is known of no module
        return {}
    found = precision_shares(graph.layers, planned.spec)
    floating = () if quantization is None else quantization.floating
    quantized = precision_shares([layer for layer in graph.layers if layer.name not in floating], planned.spec, floating)
    if quantized.keys() != {planned.precision}:
        raise ExportError(f"The export was refused: {planned.precision} was asked for, and the file holds {in_words(found)}.")
    return found
