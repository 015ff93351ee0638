"""The clock takes turns, waits for idle threads, goes on while it is unstable, and survives what fails."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from simulated_clock import Simulation

from iresnet_export.benchmark.clock import PATIENCE, Clock, DeviceTime, Samples, Timed, measure
from iresnet_export.benchmark.stability import halves_agree
from iresnet_export.errors import InputError
from iresnet_export.system.progress import no_progress


def taken(candidates: list[Timed], clock: Clock, seconds: float = 1.0) -> list[Samples]:
    return measure(candidates, seconds=seconds, warmup_seconds=0.1, seed=0, progress=no_progress, clock=clock)


def test_candidates_take_turns_in_random_order() -> None:
    machine, log = Simulation(), list[str]()

    class Logging(Clock):
        def settle(self) -> None:
            log.append("settle")

    def takes(name: str, seconds: float) -> Timed:
        run = machine.candidate(seconds)

        def logged() -> None:
            log.append(name)
            run()

        return Timed(name, logged)

    clock = Logging(now=lambda: machine.time, sleep=machine.sleep, busy=lambda: False)
    found = taken([takes("a", 0.02), takes("b", 0.05), takes("c", 0.001), takes("d", 0.5)], clock)
    assert [samples.name for samples in found] == ["a", "b", "c", "d"]
    assert len({len(samples.rounds) for samples in found}) == 1, "all take part in every round"
    assert all(sum(samples.all) >= 1000 for samples in found), "each is measured for its time"
    assert {round(value, 6) for value in found[1].all} == {50.0}
    turns = [name for name, before in zip(log[1:], log, strict=False) if before == "settle"]
    rounds = [tuple(turns[index : index + 4]) for index in range(0, len(turns), 4)]
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in rounds)
    assert len(Counter(rounds)) >= 4, "the order is always the same"
    assert [len(samples.rounds[0]) for samples in found] == [5, 3, 100, 1]


def test_an_unstable_measurement_goes_on_but_not_for_ever() -> None:
    steady, machine = Simulation(), Simulation()

    def warming() -> None:
        machine.time += 0.02 * (2 if machine.time < 1 else 1)  # a processor that has yet to reach its clock

    def never() -> None:
        machine.time += 0.02 * (1 + machine.time / 10)

    rounds = len(taken([Timed("a", steady.candidate(0.02))], steady.clock)[0].rounds)
    (found,) = taken([Timed("a", warming)], machine.clock)
    assert rounds < len(found.rounds) < PATIENCE * rounds
    assert halves_agree(found.rounds)
    machine.time = 0.0
    (found,) = taken([Timed("a", never)], machine.clock)
    assert not halves_agree(found.rounds)
    assert len(found.rounds) <= PATIENCE * rounds + PATIENCE


def test_only_what_is_unstable_goes_on_with_the_baselines() -> None:
    machine = Simulation()
    steady = machine.candidate(0.02)

    def warming() -> None:
        machine.time += 0.02 * (2 if machine.time < 3 else 1)

    candidates = [Timed("steady", steady), Timed("warming", warming), Timed("baseline", steady, baseline=True)]
    quiet, late, baseline = (len(samples.rounds) for samples in taken(candidates, machine.clock))
    assert quiet < late == baseline
    assert 10 <= quiet < PATIENCE * 10


def test_a_thread_that_waits_for_a_moment_is_not_yet_at_rest() -> None:
    looks = [True, False, True, False, False, True]
    Clock(now=lambda: 0.0, sleep=lambda _seconds: None, busy=lambda: looks.pop(0)).settle()
    assert looks == [True]


def test_what_fails_is_left_out_and_says_why() -> None:
    machine, runs = Simulation(), [0]
    fine = machine.candidate(0.02)

    def breaks() -> None:
        fine()
        runs[0] += 1
        if runs[0] > 40:
            raise MemoryError("none left")

    def never() -> None:
        raise RuntimeError("no such kernel")

    good, late, bad = taken([Timed("good", fine), Timed("late", breaks), Timed("bad", never)], machine.clock)
    assert good.failure is None
    assert len(good.rounds) >= 10
    assert isinstance(late.failure, MemoryError)
    assert isinstance(bad.failure, RuntimeError)
    assert late.rounds == bad.rounds == ()
    assert taken([Timed("bad", never)], machine.clock)[0].rounds == ()

    def ours() -> None:
        raise InputError("wrong use")

    with pytest.raises(InputError):
        taken([Timed("ours", ours)], machine.clock)


def test_device_times_are_taken_once_a_turn() -> None:
    machine = Simulation()
    (found,) = taken([Timed("gpu", machine.candidate(0.02), lambda: DeviceTime(15.0, 2.0))], machine.clock)
    assert found.device == (DeviceTime(15.0, 2.0),) * len(found.rounds)


def test_watchers_see_samples_grow() -> None:
    machine, seen = Simulation(), list[int]()
    measure(
        [Timed("a", machine.candidate(0.02))],
        seconds=0.5, warmup_seconds=0, seed=0, progress=no_progress, clock=machine.clock,
        watch=lambda samples: seen.append(len(samples[0].rounds)),
    )  # fmt: skip
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 10


@pytest.mark.parametrize(
    ("rounds", "agree"),
    [
        ([(10.0, 10.0)] * 4, True),
        ([(10.0,)] * 3 + [(10.4,)] * 3, True),
        ([(10.0,)] * 3 + [(10.6,)] * 3, False),
        ([(10.6,)] * 3 + [(10.0,)] * 3, False),
        ([(10.0, 500.0, 10.0)] + [(10.0,)] * 3, True),
        ([(10.0,)], False),
        ([], False),
    ],
)
def test_halves_agree_within_five_percent(rounds: list[tuple[float, ...]], agree: bool) -> None:
    assert halves_agree(rounds) is agree


def test_settling_waits_for_idle_threads() -> None:
    stop = time.perf_counter() + 0.05

    def spin() -> None:
        while time.perf_counter() < stop:
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    Clock().settle()
    assert time.perf_counter() >= stop - 0.01
    thread.join()


def test_waiting_ends_no_earlier_than_it_should() -> None:
    clock = Clock()
    for seconds in (0.0, 0.0005, 0.01):
        moment = clock.now() + seconds
        clock.wait_until(moment)
        assert clock.now() >= moment
