"""Whether images are like those that codes were calibrated on: as far as their activations reach."""

from __future__ import annotations

import statistics

from torch import Tensor

from iresnet_export.backends.onnx.interpreter import OnnxGraph
from iresnet_export.verification.deployment import Deployment
from iresnet_export.verification.reference import Reference
from iresnet_models.preprocessing import normalised

_IMAGES, _BATCH = 64, 8
_FEW = 32
_BEYOND = {"minmax": 1e-3, "percentile": 1e-3, "entropy": 2e-2}
"""Shares of an activation's values: the calibrator itself leaves out nothing, 1e-5, or what it thinks that it can."""
_FILLED = 0.6
"""Of the ranges: half of all activations reach further on images like those that ranges come from."""
_NAMED = 3


def unlike_calibration(deployment: Deployment, reference: Reference) -> str | None:
    """Says that the reference's images take activations beyond their ranges, or leave them half empty; None where they do not.

    Of codes from a few images it says that instead: any others are unlike them.
    """
    codes, spec = deployment.quantization, reference.source.spec
    assert codes is not None
    if codes.images < _FEW:
        return (
            f"it was calibrated with {codes.images} image{'s' if codes.images > 1 else ''}, which say little of others; export it "
            f"again with {_FEW} or more (--calibration-data, --calibration-images)"
        )
    seen: dict[str, list[float]] = {name: [0.0, 0.0, 0.0, 0.0] for name in codes.ranges}

    def watch(name: str, values: Tensor) -> None:
        if name in seen:
            low, high = codes.ranges[name]
            beyond, count, least, most = seen[name]
            beyond += int(((values < low) | (values > high)).sum())
            seen[name] = [beyond, count + values.numel(), min(least, float(values.min())), max(most, float(values.max()))]

    graph = OnnxGraph(deployment.floating_model)
    for start in range(0, min(_IMAGES, len(reference.pixels)), _BATCH):
        pixels = reference.pixels[start : start + _BATCH]
        graph.run(pixels if deployment.with_preprocessing else normalised(pixels, spec), watch)
    shares = {name: beyond / count for name, (beyond, count, _, _) in seen.items() if count}
    left = sorted((name for name, share in shares.items() if share > _BEYOND[codes.calibrator]), key=lambda name: -shares[name])
    said = "the images differ from those that it was calibrated on"
    remedy = "calibrate with images such as these (--calibration-data)"
    if left:
        named = ", ".join(f"{shares[name]:.2g} of the values of {name}" for name in left[:_NAMED])
        more = f" and some of {len(left) - _NAMED} more activations" if len(left) > _NAMED else ""
        return f"{said}: {named}{more} lie beyond their ranges; {remedy}"
    widths = {name: codes.ranges[name][1] - codes.ranges[name][0] for name in seen}
    filled = [(most - least) / widths[name] for name, (_, _, least, most) in seen.items() if widths[name] > 0]
    if not filled or (half := statistics.median(filled)) >= _FILLED:
        return None
    return f"{said}: half of the activations fill less than {half:.0%} of their ranges; {remedy}"
