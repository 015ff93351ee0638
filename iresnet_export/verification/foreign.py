"""Artifacts of others that may be right and still cannot be compared: other images, other outputs, in words."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import log_softmax, softmax

from iresnet_export.backends.base import Session
from iresnet_export.graph.ir import Array
from iresnet_export.verification.reference import Reference, rms
from iresnet_models.spec import NetworkSpec

_ALIKE = 1e-3
"""Relative: far more than float32 rounds, and far less than logits and probabilities are apart."""

_REMEDY = "export it without its last operation"


def other_images(session: Session, spec: NetworkSpec) -> str | None:
    """What a session takes, if that is no image of the spec; None where it is, or nothing says so."""
    taken, wanted = session.image, spec.image_shape(as_pixels=session.with_preprocessing)
    if taken is None or (len(taken) == 3 and all(extent in (None, own) for extent, own in zip(taken, wanted, strict=True))):
        return None
    shape = " x ".join("any" if extent is None else str(extent) for extent in taken)
    if len(taken) == 3 and taken[2] == 3 and not session.with_preprocessing:
        return f"it takes images as {shape}, channels last (NHWC), and they are given as {' x '.join(map(str, wanted))} (NCHW)"
    return f"it takes images of {shape}, and those of the checkpoint are {' x '.join(map(str, wanted))}"


def takes_channels_last(session: Session, reference: Reference) -> bool:
    """Whether a session that runs no images of the reference runs them with their channels last."""
    batch = session.batch_of(reference.pixels[:2], reference.source.spec).permute(0, 2, 3, 1).contiguous()
    try:
        with torch.inference_mode():
            return session.run(batch).shape == (2, reference.logits.shape[1])
    except Exception:  # whatever a runtime raises: it does not
        return False


def other_outputs(found: Array, logits: Array) -> str | None:
    """What outputs are, if they follow from the logits and are none."""
    if found.shape != logits.shape:
        is_class = found.size == len(logits) and np.issubdtype(found.dtype, np.integer)
        return f"it gives the number of a class, and logits are compared: {_REMEDY}" if is_class else None
    for what, follows in (("the softmax", softmax), ("the logarithm of the softmax", log_softmax)):
        wanted = follows(logits, axis=1)
        if rms(found - wanted) <= _ALIKE * rms(wanted) < rms(found - logits):
            return f"it gives probabilities ({what} of the logits), and logits are compared: {_REMEDY}"
    return None
