"""The server mode against queueing theory, on a simulated clock."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from simulated_clock import Simulation

from iresnet_export.benchmark.entrants import Entrant
from iresnet_export.benchmark.server import (
    LEAST_UTILISATION,
    MOST_TRIALS,
    ServerRun,
    _result,
    highest_rate,
    predicted_rate,
    queue,
    response_percentile,
)
from iresnet_export.reporting.schemas import Subject


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_mean_response_of_a_constant_service_is_pollaczek_khinchines(load: float) -> None:
    """M/D/1: the mean wait is load * service / (2 * (1 - load))."""
    machine, service = Simulation(), 0.01
    found = queue(machine.candidate(service), load / service, 60_000, seed=1, clock=machine.clock)
    expected = service * (1 + load / (2 * (1 - load))) * 1e3
    assert np.mean(found.responses) == pytest.approx(expected, rel=0.05)
    assert found.utilisation == pytest.approx(load, rel=0.02)
    assert (found.offered, found.completed) == (60_000, 60_000)
    assert found.keeps_up
    assert min(found.responses) >= service * 1e3 - 1e-9


def test_percentiles_of_an_exponential_service_are_those_of_an_m_m_1_queue() -> None:
    """M/M/1: response times are exponential with rate (1 - load) / service."""
    machine, generator, service, load = Simulation(), np.random.default_rng(3), 0.01, 0.5

    def run() -> None:
        machine.time += generator.exponential(service)

    found = queue(run, load / service, 100_000, seed=2, clock=machine.clock)
    for percent in (50, 90, 99, 99.9):
        expected = -np.log(1 - percent / 100) * service / (1 - load) * 1e3
        assert response_percentile(found, percent) == pytest.approx(expected, rel=0.12)


def test_arrivals_are_poisson_and_reproducible() -> None:
    def waits(seed: int) -> tuple[float, ...]:
        machine = Simulation()
        return queue(machine.candidate(0.001), 500, 500, seed, machine.clock).responses

    assert waits(1) == waits(1) != waits(2)


def test_a_rate_beyond_capacity_is_given_up_and_has_no_percentiles() -> None:
    machine = Simulation()
    found = queue(machine.candidate(0.01), 400, 4_000, seed=0, clock=machine.clock)
    assert found.offered == 4_000
    assert found.completed < 0.6 * found.offered
    assert not found.keeps_up
    assert found.utilisation == pytest.approx(1, abs=0.01)
    assert response_percentile(found, 50) is None
    assert found.seconds == pytest.approx(2 * 10, rel=0.1)


def test_percentiles_need_requests() -> None:
    machine = Simulation()
    found = queue(machine.candidate(0.001), 100, 999, seed=0, clock=machine.clock)
    assert response_percentile(found, 99) is None
    assert response_percentile(found, 90) is not None


@pytest.mark.parametrize("limit", [15.0, 40.0])
def test_the_highest_rate_holds_the_limit_and_a_bit_more_does_not(limit: float) -> None:
    machine, service = Simulation(), 0.01
    found = highest_rate(machine.candidate(service), limit, 60.0, seed=0, clock=machine.clock)
    assert found.highest_rate_per_s == found.rate_per_s > 0
    assert (response_percentile(found, 99) or np.inf) <= limit
    assert found.p99_limit_ms == limit
    fresh = Simulation()
    above = queue(fresh.candidate(service), found.rate_per_s * 1.25, 50_000, seed=7, clock=fresh.clock)
    assert (response_percentile(above, 99) or np.inf) > limit
    assert all(trial.held == (trial.p99_ms is not None and trial.p99_ms <= limit) for trial in found.trials)


def test_a_trial_ends_as_soon_as_it_cannot_hold_the_limit_any_more() -> None:
    def run(limit: float) -> ServerRun:
        machine = Simulation()
        return queue(machine.candidate(0.01), 95, 2_000, seed=0, clock=machine.clock, p99_limit_ms=limit)

    whole = run(math.inf)
    assert whole.completed == 2_000
    exact = sorted(whole.responses)[-21]  # twenty are beyond: 1 % of the requests
    assert run(exact).completed == 2_000
    late = run(exact - 1e-6)
    assert late.completed < 2_000
    assert late.responses == whole.responses[: late.completed]
    assert sum(value > exact - 1e-6 for value in late.responses) == 21
    assert response_percentile(late, 99) is None


def test_a_limit_below_the_service_time_is_held_by_no_rate() -> None:
    machine = Simulation()
    found = highest_rate(machine.candidate(0.02), 15.0, 1.0, seed=0, clock=machine.clock)
    assert found.highest_rate_per_s == 0
    assert [trial.held for trial in found.trials] == [False]
    told = _result(cast("Entrant", SimpleNamespace(subject=Subject("a", "b", "fp32", "cpu", 1))), found)
    assert (told.status, told.reason) == ("unstable", "no rate that was tried keeps p99 within 15 ms")


def test_a_limit_that_inferences_break_by_themselves_is_given_up_at_once() -> None:
    """Every twentieth takes too long: no rate helps, and to try low ones would take hours."""
    machine = Simulation(spikes=0.05)
    found = highest_rate(machine.candidate(0.004), 5.0, 0.5, seed=0, clock=machine.clock)
    assert found.highest_rate_per_s == 0
    assert len(found.trials) == 1
    assert machine.time < 10


def test_the_search_goes_no_lower_than_where_requests_hardly_wait_for_each_other() -> None:
    """Some two of a hundred are late by themselves: too few for two hundred probes to show."""
    machine = Simulation(seed=1, spikes=0.02)
    found = highest_rate(machine.candidate(0.004), 5.0, 0.5, seed=0, clock=machine.clock)
    assert found.highest_rate_per_s == 0
    assert found.trials[-1].rate_per_s == pytest.approx(LEAST_UTILISATION / 0.004, rel=0.1)
    assert len(found.trials) < MOST_TRIALS


def test_the_prediction_knows_the_queue() -> None:
    service = [0.01] * 50
    rates = [predicted_rate(service, limit, seed=0) for limit in (0.012, 0.02, 0.05, 0.5)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(100, rel=0.06)
    machine = Simulation()
    found = queue(machine.candidate(0.01), rates[2], 50_000, seed=3, clock=machine.clock)
    assert response_percentile(found, 99) == pytest.approx(50, rel=0.25)
