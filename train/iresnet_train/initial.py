"""The weights that training starts from: fresh ones, or those of another checkpoint."""

from __future__ import annotations

import logging
from dataclasses import replace

from iresnet_models.checkpoint import load_checkpoint
from iresnet_models.errors import InputError
from iresnet_models.network import Network, network_from_spec
from iresnet_models.spec import ModelSpec
from iresnet_train.config import TrainConfig

_log = logging.getLogger("iresnet_train")


def initial_network(config: TrainConfig, spec: ModelSpec) -> Network:
    """A fresh network, or the one of `config.pretrained` with a fresh classifier where the classes are others."""
    if config.pretrained is None:
        return network_from_spec(spec, zero_init_residual=config.zero_init_residual)
    source = load_checkpoint(config.pretrained, arch=config.arch, depth=config.depth, which=config.which)
    if config.groups not in (None, source.spec.groups):
        raise InputError(
            f"{config.pretrained} holds {source.spec.name} with {source.spec.groups} groups, but {config.groups} were asked for.",
            "Leave out --groups, or name another checkpoint.",
        )
    model = network_from_spec(replace(spec, groups=source.spec.groups))
    fresh = {} if _same_classes(source.spec, spec) else {"fc.weight": model.fc.weight, "fc.bias": model.fc.bias}
    model.load_state_dict(source.model.state_dict() | fresh)
    head = f"its classifier too ({spec.num_classes} classes)"
    if fresh:
        named = "classes of other names" if source.spec.num_classes == spec.num_classes else f"{source.spec.num_classes} classes"
        head = f"with a new classifier for {spec.num_classes} classes in place of its own for {named}"
    here = f"in this run they are: {spec.in_words}"
    if not source.says_preprocessing:
        _log.warning("%s does not say how its images were prepared; %s.", config.pretrained.name, here)
    elif _prepared(source.spec) != _prepared(spec):
        _log.warning("%s was trained on images of %s; %s.", config.pretrained.name, source.spec.in_words, here)
    _log.info("Weights of %s from %s, %s.", source.spec.name, config.pretrained.name, head)
    if (which := source.layout.in_words.get("which weights")) is not None:
        _log.info("They are %s.", which)
    return model


def _prepared(spec: ModelSpec) -> tuple[object, ...]:
    """What of the preprocessing the weights have learned to expect, at any size."""
    return spec.interpolation, spec.mean, spec.std


def _same_classes(source: ModelSpec, spec: ModelSpec) -> bool:
    """Whether the classes are as many, and of the same names where both are known."""
    return source.num_classes == spec.num_classes and (source.labels is None or source.labels == spec.labels)
