"""Work and size against published figures."""

from __future__ import annotations

import pytest

from iresnet_models import ModelSpec
from iresnet_models.operations import multiply_accumulates, parameter_count

PUBLISHED = {
    ("iresnet", 18): 1.814,
    ("iresnet", 34): 3.664,
    ("iresnet", 50): 4.128,
    ("iresnet", 101): 7.840,
    ("iresnet", 152): 11.552,
    ("iresnet", 200): 15.046,
    ("iresnet", 302): 22.470,
    ("iresnet", 404): 29.895,
    ("iresnet", 1001): 73.350,
    ("resnet", 50): 4.089,
    ("resnet", 101): 7.801,
    ("resnet", 152): 11.514,
    ("resnet", 200): 15.007,
}


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: f"{model[0]}{model[1]}")
def test_multiply_accumulates_at_224(model: tuple[str, int]) -> None:
    assert multiply_accumulates(ModelSpec(*model)) / 1e9 == pytest.approx(PUBLISHED[model], abs=5e-4)


def test_work_grows_with_the_image_and_size_with_the_classes() -> None:
    spec = ModelSpec("iresnet", 50)
    assert multiply_accumulates(spec.with_image_size(448)) == pytest.approx(4 * multiply_accumulates(spec), rel=1e-3)
    assert parameter_count(spec) - parameter_count(ModelSpec("iresnet", 50, num_classes=10)) == 990 * 2049
