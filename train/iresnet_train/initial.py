"""The weights that training starts from: fresh ones, or those of another checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace

from iresnet_data.folders import are_imagenets
from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.errors import InputError
from iresnet_models.network import Network, network_from_spec
from iresnet_models.spec import ModelSpec
from iresnet_train.config import TrainConfig

_log = logging.getLogger("iresnet_train")


INHERITED = ("groups", "mean", "std", "interpolation")
"""What weights ask of a network and of its images, and no option says."""


def initial_network(config: TrainConfig, spec: ModelSpec, *, tell: bool = True) -> Network:
    """A fresh network, or the one of `config.pretrained`, with a fresh classifier where the classes are others.

    From there come mean, standard deviation and interpolation of its images as well. `tell`: whether to log what was taken.
    """
    if config.pretrained is None:
        return network_from_spec(spec, zero_init_residual=config.zero_init_residual)
    source = load_checkpoint(config.pretrained, arch=config.arch, depth=config.depth, which=config.which)
    if config.groups not in (None, source.spec.groups):
        raise InputError(
            f"{config.pretrained} holds {source.spec.name} with {source.spec.groups} groups, but {config.groups} were asked for.",
            "Leave out --groups, or name another checkpoint.",
        )
    model = network_from_spec(replace(spec, **{name: getattr(source.spec, name) for name in INHERITED}))
    fresh = {} if _same_classes(source.spec, spec) else {"fc.weight": model.fc.weight, "fc.bias": model.fc.bias}
    model.load_state_dict(source.model.state_dict() | fresh)
    if not tell:
        return model
    head = f"its classifier too ({spec.num_classes} classes)"
    if fresh:
        named = "classes of other names" if source.spec.num_classes == spec.num_classes else f"{source.spec.num_classes} classes"
        head = f"with a new classifier for {spec.num_classes} classes in place of its own for {named}"
    if not source.says_preprocessing:
        name, here = config.pretrained.name, model.spec.in_words
        _log.warning("%s does not say how its images were prepared; in this run they are: %s.", name, here)
    _log.info("Weights of %s from %s, %s.", source.spec.name, config.pretrained.name, head)
    if (which := source.layout.in_words.get("which weights")) is not None:
        _log.info("They are %s.", which)
    return model


def _same_classes(source: ModelSpec, spec: ModelSpec) -> bool:
    """Whether the classes are as many, and of the same names where both are known, or ImageNet's by name and by number."""
    if source.num_classes != spec.num_classes:
        return False
    return source.labels in (None, spec.labels) or are_imagenets(spec.labels or (), source.labels or ())
