"""What a network should answer: its outputs in float64, and how far float32 may stray from them by rounding alone.

The unit of comparison is the network's own rounding error, the noise floor: the largest root-mean-square error of
eager float32 PyTorch against float64 among three forms that only add up in another order (NCHW, channels last, oneDNN
off), over all tested batch sizes, pooled over 32 images. One form alone is one lucky draw, and single images scatter.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from iresnet_export.artifacts.source import Source
from iresnet_export.errors import CheckFailedError, InputError
from iresnet_export.graph.ir import Array
from iresnet_export.system.progress import Progress, no_progress
from iresnet_models.preprocessing import normalised
from iresnet_models.spec import NetworkSpec

MINIMUM_IMAGES = 32
"""Below this many images the pooled error depends on which images they are."""

_DOUBLE_BATCH = 8


@dataclass(frozen=True)
class Reference:
    """A source's answers for some images: `pixels` (n, h, w, 3) uint8, `logits` (n, classes) float64.

    `noise_floor` is in units of the logits. `labels` (n) are the images' classes, None where nobody knows them. `cached`: whether
    an earlier run computed it.
    """

    id: str
    source: Source
    pixels: Tensor
    image_source: str
    logits: Array
    noise_floor: float
    labels: Array | None = None
    cached: bool = False


def reference_of(
    identifier: str,
    source: Source,
    pixels: Tensor,
    image_source: str,
    batch_sizes: Sequence[int],
    progress: Progress,
    labels: Array | None = None,
) -> Reference:
    """Computes the reference on the CPU. Raises CheckFailedError if the network itself gives NaN or infinity."""
    if len(pixels) < MINIMUM_IMAGES:
        raise InputError(
            f"Parity is measured over at least {MINIMUM_IMAGES} images, and there are {len(pixels)};",
            "give more with --images or --data.",
        )
    logits = _exact_logits(source, pixels, progress)
    if not np.isfinite(logits).all():
        raise CheckFailedError(
            f"{source.spec.name} itself, in float64, gives NaN or infinite outputs for these images: there is nothing to "
            "compare with. "
            "Its weights have diverged."
        )
    few = normalised(pixels[:MINIMUM_IMAGES], source.spec)  # enough to pool over, for each of the many passes
    floor = noise_floor(source.network, few, logits[: len(few)], batch_sizes, progress)
    if not math.isfinite(floor):
        raise CheckFailedError(
            f"{source.spec.name} itself gives NaN or infinite outputs in float32, and finite ones in float64: its values leave "
            "the range of float32, and there is no noise floor to compare by."
        )
    return Reference(identifier, source, pixels, image_source, logits, floor, labels)


def noise_floor(
    network: nn.Module, images: Tensor, exact: Array, batch_sizes: Sequence[int], progress: Progress = no_progress
) -> float:
    """The largest root-mean-square error of a float32 network's three forms against `exact`; at least 2^-24 of its size.

    Not a finite number where the network's values leave float32.
    """
    errors = [2.0**-24 * rms(exact)]
    steps = [(form, size) for form in FORMS for size in batch_sizes]
    for step, (form, size) in enumerate(steps):
        progress("Noise floor of float32", step / len(steps))
        errors.append(rms(form(network, images, size).numpy() - exact))
    progress("Noise floor of float32", 1.0)
    return float(np.max(errors))


def _exact_logits(source: Source, pixels: Tensor, progress: Progress) -> Array:
    double, done = copy.deepcopy(source.network).double().eval(), 0

    def exact(batch: Tensor) -> Tensor:
        nonlocal done
        progress("Reference in float64", done / len(pixels))
        done = min(done + len(batch), len(pixels))
        logits: Tensor = double(normalised(batch, source.spec).double())
        return logits

    return in_batches(exact, pixels, _DOUBLE_BATCH).numpy()


def looked_into(spec: NetworkSpec) -> int:
    """How many images are compared inside a network: an early stage gives a million numbers for each large one."""
    return 32 if spec.longer_side <= 64 else 16


def in_batches(run: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    """`run` over all images in batches of `size`; the last one is filled up, and cut."""
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            outputs.append(run(filled(batch, size))[: len(batch)])
    return torch.cat(outputs)


def filled(batch: Tensor, size: int) -> Tensor:
    """A batch, with its first image again and again until there are `size`."""
    lacking = size - len(batch)
    return torch.cat([batch, batch[:1].expand(lacking, *batch.shape[1:])]) if lacking else batch


def rms(values: Array) -> float:
    """Root of the mean square over everything."""
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))


def _nchw(network: nn.Module, images: Tensor, size: int) -> Tensor:
    return in_batches(network, images, size)


def _channels_last(network: nn.Module, images: Tensor, size: int) -> Tensor:
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)
    return in_batches(other, images.to(memory_format=torch.channels_last), size)


def _without_onednn(network: nn.Module, images: Tensor, size: int) -> Tensor:
    with onednn_off():
        return in_batches(network, images, size)


FORMS = (_nchw, _channels_last, _without_onednn)


@contextmanager
def onednn_off() -> Iterator[None]:
    """PyTorch's own kernels, which add up in another order than oneDNN's."""
    with warnings.catch_warnings():
        # Said of Intel GPUs whenever the flags are touched.
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False):
            yield
