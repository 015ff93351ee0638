"""What quantizing costs, what so many images say of it, and which of several ways is kept."""

from __future__ import annotations

import numpy as np
import pytest

from iresnet_export.backends.onnx.calibrate import held_out_count, preferred
from iresnet_export.quantization.codes import WIDEST_INTERVAL_DB, Trial
from iresnet_export.quantization.cost import sqnr_db, sqnr_interval_db
from iresnet_models.spec import ModelSpec


def logits(generator: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Of images whose errors differ by much, as those of networks do."""
    exact = generator.standard_normal((images, 10))
    return exact + generator.standard_normal((images, 10)) * 0.03 * generator.lognormal(0, 0.7, (images, 1)), exact


def test_the_interval_holds_what_other_images_give() -> None:
    generator = np.random.default_rng(0)
    truth = sqnr_db(*logits(generator, 400_000))
    held = 0
    for _ in range(1000):
        found = logits(generator, 64)
        held += abs(sqnr_db(*found) - truth) <= sqnr_interval_db(*found)
    assert 0.88 <= held / 1000 <= 0.99, "of 95 %: errors are skewed, and 64 images few"


def test_the_interval_of_little() -> None:
    exact = np.ones((4, 3))
    assert sqnr_interval_db(exact, exact) == 0, "no error at all"
    assert sqnr_interval_db(exact[:1] + 0.1, exact[:1]) == WIDEST_INTERVAL_DB
    assert sqnr_interval_db(exact + np.array([[0.1], [1e-9], [1e-9], [1e-9]]), exact) == pytest.approx(8.5, abs=0.1)


def test_the_best_is_kept_of_what_was_measured_with_most_images() -> None:
    tried = (Trial("minmax", False, 64, 50.0, 1.0), Trial("minmax", False, 384, 30.0, 1.0), Trial("entropy", False, 384, 31.0, 1.0))
    assert preferred(tried, 128) == tried[2]


@pytest.mark.parametrize(("agreeing", "kept"), [(128, "entropy"), (125, "entropy"), (120, "minmax")])
def test_decisions_count_beyond_chance(agreeing: int, kept: str) -> None:
    """Fisher's test, one-sided: 125 of 128 against 128 has a chance of 0.12, and 120 of 0.003."""
    tried = (Trial("minmax", False, 384, 30.0, 1.0), Trial("entropy", False, 384, 31.0, agreeing / 128))
    assert preferred(tried, 128).calibrator == kept


def test_how_many_are_held_out() -> None:
    small, large = ModelSpec("iresnet", 18, image_size=32, resize=32), ModelSpec("iresnet", 18)
    assert [held_out_count(count, small) for count in (1, 2, 8, 64, 512, 5000)] == [1, 1, 2, 16, 128, 128]
    assert [held_out_count(count, large) for count in (32, 512)] == [8, 32]
