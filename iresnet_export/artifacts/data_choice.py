"""Whose word decides which images a command opens.

The user's, above all. A file, which may come from a stranger, may name embedded data alone. What a training on this machine noted
outside the file, by its hash, is the user's own word too. No other module reads the data of a spec.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from iresnet_export.artifacts.manifest import Manifest, Weights
from iresnet_models.errors import InputError
from iresnet_models.image_files import printable
from iresnet_models.remembered import recall
from iresnet_models.spec import NetworkSpec


def chosen_data(given: str | None, spec: NetworkSpec, weights: Weights | None, *, held_out: bool = False) -> str | None:
    """The data that the user named, else the embedded ones of the network's file, else those of the training of its checkpoint.

    None where nobody knows. `held_out`: those to evaluate on, where they were others. Raises InputError for a file that names
    anything but embedded data.
    """
    if given is not None:
        return given
    if spec.data is not None:
        from iresnet_data.named_data import embedded

        return embedded(spec.data)
    return _remembered(weights, held_out)


def is_named(given: str | None, spec: NetworkSpec) -> bool:
    """Whether the user or the network's file names data, so that nothing has to be remembered."""
    return given is not None or spec.data is not None


def measured_with(manifest: Manifest) -> str | None:
    """What a manifest calls the images that its export measured with: the data that were named, or embedded; None for noise.

    To be compared and shown, never opened.
    """
    return manifest.details.settings.calibration_data or manifest.spec.data


def _remembered(weights: Weights | None, held_out: bool) -> str | None:
    """What a training here noted of the checkpoint, if it is still there; says so."""
    if weights is None or weights.kind != "checkpoint":
        return None
    data = (recall("val_data", weights.sha256) if held_out else None) or recall("data", weights.sha256)
    if data is None:
        return None
    from iresnet_data.named_data import place_of, remark
    from iresnet_data.shards import expanded, is_pattern

    try:
        if place_of(data) != data:  # what is no place was not noted by us
            return None
        there = os.path.isfile(expanded(data)[0]) if is_pattern(data) else os.path.isdir(data)
    except InputError:
        return None
    if not there:
        remark(f"The images that this checkpoint was trained on are no longer in {printable(data)}.")
        return None
    remark(f"Images: {printable(data)}, which this checkpoint was trained on.")
    return data


def trained_on(details: Mapping[str, Any]) -> str | None:
    """What a checkpoint says of itself: the last part of its data's name, to be shown and never opened."""
    config = details.get("config")
    data = config.get("data") if isinstance(config, Mapping) else None
    if not isinstance(data, str):
        return None
    return printable(re.split(r"[/\\]", data.rstrip("/\\"))[-1][:80]) or None
