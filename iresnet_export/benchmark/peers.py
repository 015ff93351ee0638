"""What others offer for the same network, measured in the same turns.

Plain exports, quantizers of such (beside an int8 artifact), `torch.compile`, torchvision's ResNet.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from iresnet_export.artifacts.artifact import Artifact
from iresnet_export.backends.aotinductor.package import cpp_compiler
from iresnet_export.backends.base import ExportOptions, Session
from iresnet_export.backends.onnx.calibrate import calibration_images
from iresnet_export.backends.pt2.reading import quiet
from iresnet_export.backends.registry import runtime_named
from iresnet_export.benchmark.entrants import Entrant, Origin, subject_of
from iresnet_export.benchmark.options import BenchOptions
from iresnet_export.benchmark.quantizers import QUANTIZERS
from iresnet_export.benchmark.recipe import COMPILED, TORCHVISION, Recipe
from iresnet_export.benchmark.work import Work, work_of_torchvision
from iresnet_export.errors import IResNetError, UnavailableError
from iresnet_export.reporting.schemas import Parity, Subject, validated
from iresnet_export.system.progress import Progress
from iresnet_export.verification.criteria import LEAST_SQNR_DB, Criterion
from iresnet_export.verification.from_scratch import data_of
from iresnet_export.verification.outputs import compare_outputs
from iresnet_export.verification.reference import Reference
from iresnet_models.errors import named_line
from iresnet_models.preprocessing import noise_pixels, normalised

PLAIN = "plain torch.onnx.export"
TORCHVISION_DEPTHS = (18, 34, 50, 101, 152)

ReferenceOf = Callable[[Origin], Reference | None]


def open_peers(
    origin: Origin,
    threads: int,
    options: BenchOptions,
    folder: Path,
    reference: ReferenceOf,
    progress: Progress,
    stack: ExitStack,
    int8: Artifact | None = None,
) -> list[Entrant]:
    """Every peer of a network, and of its `int8` artifact; one that cannot be had here has no session, and says why."""
    spec = origin.source.spec
    base = dataclasses.replace(subject_of(origin, threads, options), peer=True, baseline=origin.label)
    here = origin.recipe(COMPILED, options, threads)
    made = []

    def add(subject: Subject, recipe: Recipe, work: Work, prepare: Callable[[], None], compare: bool = True) -> None:
        session, reason = _opened(recipe, prepare, stack)
        if session is not None and compare and options.verify:
            subject = dataclasses.replace(
                subject, parity=_parity(session, reference(origin), progress, recipe.opener, subject.precision)
            )
        if session is not None and recipe.path is not None and recipe.path != origin.checkpoint:
            subject = dataclasses.replace(subject, size_bytes=recipe.path.stat().st_size)
        made.append(Entrant(subject, spec, recipe, work, session, reason))

    plain = folder / f"{origin.label}-plain.onnx"

    def add_file(artifact: str, precision: str, path: Path, make: Callable[[], None]) -> None:
        for name in ("onnxruntime", "openvino"):
            subject = dataclasses.replace(base, artifact=f"{artifact} ({origin.label})", backend=name, precision=precision)

            def prepare(name: str = name) -> None:
                if not runtime_named(name).is_installed():
                    raise UnavailableError(f"{name} is not installed here")
                make()

            add(subject, dataclasses.replace(here, opener=name, path=path, network=None), origin.work, prepare)

    progress(f"Exporting {origin.label} plainly", 0.0)
    add_file(PLAIN, "fp32", plain, lambda: plain_onnx(origin, plain))
    if int8 is not None and options.device.type == "cpu":
        for quantizer in QUANTIZERS:
            path = plain.with_name(f"{origin.label}-{quantizer}.onnx")
            progress(f"Quantizing {origin.label} by {quantizer}", 0.0)
            add_file(quantizer, "int8", path, partial(_quantized, quantizer, origin, int8, options.data, plain, path))
    compiled = dataclasses.replace(base, artifact=origin.label, backend=COMPILED)
    progress(f"Compiling {origin.label}", 0.0)
    add(compiled, here, origin.work, lambda: _require_compiler(options.device))
    depth = spec.depth
    if depth is None:  # which no ResNet is a twin of
        return made
    known = depth in TORCHVISION_DEPTHS
    twin = dataclasses.replace(base, artifact=f"torchvision resnet{depth}", arch="resnet")
    work = work_of_torchvision(spec) if known else origin.work
    twin = dataclasses.replace(twin, macs=work.macs if known else None)
    recipe = dataclasses.replace(here, opener=TORCHVISION)
    add(twin, recipe, work, lambda: _require_depth(depth), compare=False)
    return made


def plain_onnx(origin: Origin, path: Path) -> None:
    """What `torch.onnx.export` makes of the network as it is, for any batch size; kept if it is there already."""
    if path.exists():
        return
    network, spec = origin.source.network, origin.source.spec
    # Two images: torch.export takes a batch of one for a constant.
    images = normalised(noise_pixels(spec, 2, seed=0), spec)
    with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "torch.export"):
        warnings.simplefilter("ignore")
        shapes = ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(network, (images,), dynamo=True, dynamic_shapes=shapes, verbose=False)
        assert program is not None
        program.save(path, external_data=False)


def _quantized(quantizer: str, origin: Origin, int8: Artifact, given: str | None, plain: Path, path: Path) -> None:
    """The plain file as codes, by the images that the int8 artifact was calibrated with; kept if it is there already."""
    if path.exists():
        return
    plain_onnx(origin, plain)
    options = ExportOptions(precision="int8", calibration_data=data_of(int8, origin.source, given))
    if int8.manifest is not None and (codes := int8.manifest.details.quantization) is not None:
        options = dataclasses.replace(options, calibration_images=codes.images)
    images = calibration_images(origin.source, options)
    batches = (normalised(pixels, images.spec) for pixels in images.measuring(images.measured))
    QUANTIZERS[quantizer](plain, path, [image[None].numpy() for batch in batches for image in batch])


def _opened(recipe: Recipe, prepare: Callable[[], None], stack: ExitStack) -> tuple[Session | None, str | None]:
    try:
        prepare()
        return stack.enter_context(recipe.open()), None
    except IResNetError as error:
        return None, str(error)
    except Exception as error:  # exporters of others raise what they like
        return None, f"it cannot be made here: {named_line(error)}"


def _parity(session: Session, reference: Reference | None, progress: Progress, opener: str, precision: str) -> Parity | None:
    if reference is None:
        return None
    criterion = Criterion("fp32", len(reference.pixels), noise_floor=reference.noise_floor)
    sizes = (1,) if opener == COMPILED else (1, len(reference.pixels))  # another size is compiled anew, for a minute
    try:
        outputs = compare_outputs(session, reference, criterion, sizes, progress)
    except Exception as error:
        return Parity("fail", reason=f"it does not run: {named_line(error)}")
    reason, ratio = outputs.reason, outputs.noise_ratio
    if precision == "int8" and outputs.sqnr_db is not None:  # which nothing is known of but that it is a classifier
        ratio, is_usable = None, outputs.sqnr_db >= LEAST_SQNR_DB
        reason = None if is_usable else f"signal to noise is {outputs.sqnr_db:.1f} dB, and {LEAST_SQNR_DB:g} is the least"
    figures = {"noise_ratio": ratio, "sqnr_db": outputs.sqnr_db}
    return validated(Parity, {"status": "fail" if reason else "pass", "reason": reason, **figures})


def _require_compiler(device: torch.device) -> None:
    if device.type == "cpu":
        cpp_compiler()


def _require_depth(depth: int) -> None:
    if depth not in TORCHVISION_DEPTHS:
        depths = ", ".join(map(str, TORCHVISION_DEPTHS))
        raise UnavailableError(f"torchvision has no ResNet of depth {depth}; it has {depths}")
