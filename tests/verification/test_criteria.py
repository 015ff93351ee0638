"""What int8 is held against: what calibration predicted, and how far chance alone may stray from that."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from iresnet_export.quantization.codes import Quantization
from iresnet_export.quantization.cost import chance_of_fewer
from iresnet_export.verification.criteria import CHANCE, LEAST_SQNR_DB, SQNR_MARGIN_DB, Criterion, Expectation


def predicted(agreement: float, compared: int = 64, sqnr_db: float = 30.0) -> Quantization:
    return Quantization("cpu", "minmax", compared, "noise", {}, {}, False, compared, sqnr_db, agreement, 0.0)


def complaint(seen: int, images: int, quantization: Quantization, sqnr_db: float = 30.0) -> str | None:
    return Criterion("int8", images, expectations=(Expectation.by_calibration(quantization),)).reason(None, sqnr_db, seen / images)


@pytest.mark.parametrize(("seen", "agrees"), [(32, True), (22, True), (19, True), (15, False), (3, False)])
def test_agreement_is_held_against_the_predicted_one(seen: int, agrees: bool) -> None:
    """58 of 64 were predicted: Fisher's exact test gives 1.0, 0.0091, 0.00067, 0.00001 and less."""
    found = complaint(seen, 32, predicted(58 / 64))
    assert (found is None) == agrees
    if found is not None:
        assert f"agrees for {seen} of 32 images, against 58 of 64" in found


def test_fisher_by_hand() -> None:
    """One image of one that disagrees, with all of three predicted: a chance of 1/4 in any order."""
    assert chance_of_fewer(0, 1, 3, 3) == pytest.approx(1 / 4)
    assert chance_of_fewer(1, 1, 3, 3) == 1


@pytest.mark.parametrize("share", [0.6, 0.9, 0.99])
def test_chance_alone_hardly_ever_fails(share: float) -> None:
    """Both samples drawn from one rate, 20,000 times."""
    generator = np.random.default_rng(0)
    pairs = zip(generator.binomial(64, share, 20_000), generator.binomial(32, share, 20_000), strict=True)
    outcomes: dict[tuple[int, int], bool] = {}
    failed = 0
    for foreseen, seen in pairs:
        key = int(foreseen), int(seen)
        if key not in outcomes:
            outcomes[key] = complaint(key[1], 32, predicted(key[0] / 64)) is not None
        failed += outcomes[key]
    assert failed / 20_000 <= 4 * CHANCE


def test_signal_to_noise_has_a_margin() -> None:
    assert complaint(32, 32, predicted(1.0), 30 - SQNR_MARGIN_DB + 0.1) is None
    assert "signal to noise is 26.9 dB" in str(complaint(32, 32, predicted(1.0), 30 - SQNR_MARGIN_DB - 0.1))


def test_both_samples_intervals_are_allowed_for() -> None:
    """3 dB for ties, and 5 for a prediction of ±3 dB over images that are good for ±4."""
    wide = dataclasses.replace(predicted(1.0), predicted_interval_db=3.0)
    criterion = Criterion("int8", 32, expectations=(Expectation.by_calibration(wide),))
    assert criterion.reason(None, 22.1, 1.0, 4.0) is None
    assert "at least 22.0 dB passes" in str(criterion.reason(None, 21.9, 1.0, 4.0))
    own = Criterion("int8", 32, expectations=(Expectation("its own quantized graph does over these images", 30.0, 32, 32),))
    assert "at least 27.0 dB passes" in str(own.reason(None, 26.9, 1.0, 4.0)), "the same images, and no chance"


def test_why_is_said() -> None:
    told = Expectation.by_calibration(predicted(1.0), lambda: "the images are others")
    assert str(Criterion("int8", 32, expectations=(told,)).reason(None, 20.0, 1.0)).endswith("passes; the images are others")


def test_no_expectation_makes_noise_pass() -> None:
    """A manifest that foretells nothing but noise lets nothing pass by that."""
    resigned = predicted(0.0, sqnr_db=-60.0)
    assert complaint(0, 32, resigned, LEAST_SQNR_DB + 0.1) is None
    assert "costs too much" in str(complaint(0, 32, resigned, LEAST_SQNR_DB - 0.1))
    evaluated = Expectation("its own quantized graph does over these images", 30.0, 32, 32)
    criterion = Criterion("int8", 32, expectations=(evaluated, Expectation.by_calibration(resigned)))
    assert criterion.reason(None, 27.1, 1.0) is None
    assert str(criterion.reason(None, 26.9, 1.0)).startswith("int8 costs more than its own quantized graph")
    assert str(criterion.reason(None, 30.0, 0.2)).startswith("int8 decides otherwise than its own quantized graph")
