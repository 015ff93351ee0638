"""Specs: what they allow, and that they travel through JSON unchanged."""

from __future__ import annotations

import json

import pytest

from iresnet_models import ModelSpec, list_models
from iresnet_models.errors import InputError
from iresnet_models.spec import IMAGENET_TOP1, MOST_SYNTHETIC, OFFICIAL_WEIGHTS


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("iresnet", 50),
        ModelSpec("iresgroupfix", 101, num_classes=3, labels=("a", "b", "c"), dropout=0.2, interpolation="bicubic"),
        ModelSpec("iresnet", 18, data=f"synthetic:{MOST_SYNTHETIC}"),
        ModelSpec("resnet", 18, image_size=32, resize=32, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), data="digits"),
    ],
)
def test_json_round_trip(spec: ModelSpec) -> None:
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("data", [None, [], {}, {"arch": "iresnet"}, {"arch": "iresnet", "depth": 50, "surprise": 1}])
def test_foreign_json_is_refused(data: object) -> None:
    with pytest.raises(InputError, match="not the description of a network"):
        ModelSpec.from_json(data)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"num_classes": 0}, "num_classes is at least one class"),
        ({"groups": 32}, "no grouped convolutions"),
        ({"dropout": 1.0}, "probability below 1"),
        ({"image_size": 0}, "must be positive"),
        ({"image_size": 300}, "no larger than the image"),
        ({"labels": ("a",)}, "1 labels were given for 1000 classes"),
    ],
)
def test_values_that_make_no_sense(fields: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        ModelSpec("iresnet", 50, **fields)  # type: ignore[arg-type]


def test_groups_have_a_default_where_there_are_groups() -> None:
    assert ModelSpec("iresgroup", 50).groups == 64
    assert ModelSpec("iresgroup", 50).stage_groups == (8, 16, 32, 64)
    assert ModelSpec("iresnet", 50).stage_groups == (1, 1, 1, 1)
    with pytest.raises(InputError, match="power of two"):
        ModelSpec("iresgroup", 50, groups=48)


def test_another_image_size_keeps_the_proportion_of_resize_to_crop() -> None:
    assert ModelSpec("iresnet", 50).with_image_size(448).resize == 512
    assert ModelSpec("iresnet", 50, image_size=32, resize=32).with_image_size(64).resize == 64


def test_tables_name_networks_that_there_are() -> None:
    assert set(OFFICIAL_WEIGHTS) <= set(list_models())
    assert set(IMAGENET_TOP1) <= set(OFFICIAL_WEIGHTS)
    assert len(set(OFFICIAL_WEIGHTS.values())) == len(OFFICIAL_WEIGHTS) == 26
