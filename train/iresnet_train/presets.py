"""The recipes that there are, as values of TrainConfig. Needs no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from iresnet_models.errors import InputError
from iresnet_train.config import TrainConfig

OFFICIAL = TrainConfig(data="imagenet")
"""The paper's recipe (arXiv 2004.04989, section 4), for image folders."""

MODERN = TrainConfig(
    data="imagenet",
    epochs=600,
    batch_size=1024,
    lr=0.5,
    lr_schedule="cosine",
    lr_steps=(),
    warmup_epochs=5,
    weight_decay=2e-5,
    norm_weight_decay=0.0,
    augmentation="trivial",
    random_erasing=0.1,
    mixup=0.2,
    cutmix=1.0,
    label_smoothing=0.1,
    # torchvision's 0.99998 an image counts steps of 32 batches, scaled by 1024 · 32 / 600: 1 - 0.00002 · 54.6.
    ema_decay=0.9989,
    ema_every=32,
    export_ema=True,
    train_crop_size=176,
    val_resize=232,
)
"""torchvision's strong recipe (V. Vryniotis, "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives", 2021),
but for its repeated augmentation."""

DIGITS = TrainConfig(
    data="digits",
    depth=18,
    epochs=6,
    batch_size=32,
    lr=0.02,
    lr_schedule="cosine",
    lr_steps=(),
    weight_decay=5e-4,
    augmentation="affine",
    train_crop_size=32,
    val_resize=32,
    val_crop_size=32,
    workers=0,
)
"""A short recipe for the embedded digits."""

FINETUNE = TrainConfig(
    data="photos",
    epochs=30,
    patience=10,
    batch_size=32,
    optimizer="adamw",
    lr=5e-4,
    lr_schedule="cosine",
    lr_steps=(),
    layer_decay=0.7,
    weight_decay=0.01,
    norm_weight_decay=0.0,
)
"""From a trained network to classes of one's own, of which there are few photos; sizes of images are those of `pretrained`."""

_BY_SGD = {"lr": 0.01, "weight_decay": 1e-4}
"""The same with SGD."""

PRESETS = {"official": OFFICIAL, "modern": MODERN, "digits": DIGITS, "finetune": FINETUNE}

_FROM_PRETRAINED = {"arch", "depth", "groups", "train_crop_size", "val_resize", "val_crop_size"}
"""What the preset `finetune` leaves to the weights that it starts from."""


def recipe_of(preset: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset asks of every run, where `said` is said."""
    values = require_preset(preset).recipe()
    if preset != "finetune":
        return values
    values |= _BY_SGD if said.get("optimizer") == "sgd" else {}
    return {name: value for name, value in values.items() if name not in _FROM_PRETRAINED}


def require_preset(name: str) -> TrainConfig:
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; there are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def config_for(data: str, preset: str | None = None, **overrides: Any) -> TrainConfig:
    """The preset that suits `data`, or the one named, with whatever of `overrides` is not None in place of its values.

    Steps imply the schedule "steps", and another schedule drops the preset's steps. Without an average of the weights
    (`ema_decay` of 0) none is exported either. A checkpoint to start from (`pretrained`, a file or the name of published weights)
    says the family and depth that were not; with the preset "finetune" also the sizes of images.
    """
    name = preset or ("digits" if data == DIGITS.data else "official")
    usual = require_preset(name)
    said = {key: value for key, value in overrides.items() if value is not None}
    if said.get("lr_steps"):
        said.setdefault("lr_schedule", "steps")
    elif said.get("lr_schedule", "steps") != "steps":
        said.setdefault("lr_steps", ())
    if said.get("ema_decay") == 0:
        said["ema_decay"] = None
        said.setdefault("export_ema", False)
    if name == "finetune":
        if "pretrained" not in said:
            raise InputError(
                "The preset finetune starts from the weights of a trained network;", "name them with --pretrained FILE."
            )
        said = (_BY_SGD if said.get("optimizer") == "sgd" else {}) | said
    if "pretrained" in said:
        from iresnet_models.pretrained import weights_file

        said["pretrained"] = weights_file(said["pretrained"])
        said = _network_of(said, sizes=name == "finetune") | said
    return dataclasses.replace(usual, data=data, **said)


def _network_of(said: dict[str, Any], *, sizes: bool) -> dict[str, Any]:
    """Family and depth of the network that training starts from; with `sizes`, in pixels, also how large its images are."""
    if {"arch", "depth"} <= said.keys() and not sizes:
        return {}
    if said.get("resume", "no") != "no" and not said["pretrained"].exists():
        return {}  # a run that goes on has its weights already
    from iresnet_models.checkpoint import load_checkpoint

    spec = load_checkpoint(said["pretrained"], arch=said.get("arch"), depth=said.get("depth"), which=said.get("which")).spec
    network = {"arch": spec.arch, "depth": spec.depth}
    if not sizes:
        return network
    spec = spec.with_image_size(said.get("val_crop_size", spec.longer_side))  # training crops squares
    return network | {"val_crop_size": spec.height, "val_resize": spec.resize, "train_crop_size": spec.height}
