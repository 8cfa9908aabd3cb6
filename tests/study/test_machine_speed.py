"""Threads and workers are chosen by what a step costs; the costs are given here, not measured."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fedmedlora.study.machine_speed import MachineSpeed, Way, best_speed, thread_counts


def chosen(
    alone: Mapping[int, float],
    together: Mapping[tuple[int, int], float] | None = None,
    *,
    cores: int,
    sites: int = 0,
) -> MachineSpeed:
    """Of steps that take so long by threads, and by threads and steps at a time."""
    costs = {(threads, 1): seconds for threads, seconds in alone.items()} | dict(together or {})
    return best_speed(
        lambda way: costs[way.threads, way.at_a_time],
        threads=list(alone),
        cores=cores,
        most_workers=sites,
        layer_tokens=20.0,
        clock=lambda: 0.0,
    )


def test_the_fastest_number_of_threads_wins() -> None:
    speed = chosen({1: 1.0, 2: 0.6, 4: 0.4, 8: 0.7}, cores=8)

    assert (speed.threads, speed.workers) == (4, 0)
    assert speed.tokens_per_second == pytest.approx(50)


def test_where_more_threads_do_not_help_there_is_one() -> None:
    assert chosen({1: 1.0, 2: 0.98}, cores=2).threads == 1
    assert chosen({1: 1.0, 2: 3.9}, cores=2).threads == 1  # they spin, and another process works


def test_workers_are_chosen_where_several_steps_at_a_time_do_clearly_more() -> None:
    speed = chosen({1: 1.0, 2: 0.8}, {(1, 2): 1.1}, cores=2, sites=3)

    assert (speed.threads, speed.workers) == (2, 2)
    assert speed.gain == pytest.approx(2 * 0.8 / 1.1)
    assert speed.factor(2) == pytest.approx(speed.gain)
    assert speed.factor(1) == pytest.approx(0.8)  # a worker alone has one thread


@pytest.mark.parametrize(("sites", "factor"), [(1, 0.7), (2, 1.4), (3, 1.05), (4, 1.4), (5, 7 / 6)])
def test_workers_take_sites_in_waves_and_idle_in_the_last(sites: int, factor: float) -> None:
    speed = MachineSpeed(2, 2, 10.0, gain=1.4, alone=0.7, cores=2)

    assert speed.factor(sites) == pytest.approx(factor)


def test_of_three_workers_two_in_the_last_wave_do_half_of_what_two_more_would_add() -> None:
    speed = MachineSpeed(3, 3, 10.0, gain=2.0, alone=0.8, cores=3)

    assert speed.factor(2) == pytest.approx(1.4)
    assert speed.factor(5) == pytest.approx(5 / (3 / 2.0 + 2 / 1.4))
    assert MachineSpeed(3, 1, 10.0).factor(3) == 1.0


@pytest.mark.parametrize(
    ("alone", "together", "cores", "sites"),
    [
        ({1: 1.0, 2: 0.6}, {(1, 2): 1.1}, 2, 3),  # 1.09 times as much: not worth it
        ({1: 1.0, 2: 0.8}, {}, 2, 1),  # a single site
        ({1: 1.0}, {}, 1, 3),  # a single core
    ],
)
def test_else_there_are_none(
    alone: dict[int, float], together: dict[tuple[int, int], float], cores: int, sites: int
) -> None:
    speed = chosen(alone, together, cores=cores, sites=sites)

    assert (speed.workers, speed.gain) == (0, 1.0)
    assert speed.factor(3) == 1.0


def test_workers_never_have_more_threads_than_there_are_processors() -> None:
    asked: list[Way] = []

    def timed(way: Way) -> float:
        asked.append(way)
        return 1.0 / way.threads

    best_speed(
        timed, threads=thread_counts(16, 8), cores=16, most_workers=3, layer_tokens=1, clock=float
    )

    assert max(way.threads * way.at_a_time for way in asked) <= 16
    assert Way(5, 3) in asked


def test_ways_are_tried_in_turns_until_the_time_is_over() -> None:
    now = 0.0
    asked: list[int] = []

    def timed(way: Way) -> float:
        nonlocal now
        now += 0.5
        asked.append(way.threads)
        return 0.5

    best_speed(timed, threads=[2, 1], cores=2, most_workers=0, layer_tokens=1, clock=lambda: now)

    # Each once to warm up, then again, as the other has taken its place, and once that counts.
    assert asked == [1, 2, 1, 1, 2, 2]


def test_a_step_that_follows_another_way_is_not_what_counts() -> None:
    before = None

    def timed(way: Way) -> float:
        nonlocal before
        again, before = way == before, way
        return 0.04 if again else 0.1  # what was made for the other way is made anew

    speed = best_speed(
        timed, threads=[1, 2], cores=2, most_workers=0, layer_tokens=10, clock=lambda: 0.0
    )

    assert speed.tokens_per_second == pytest.approx(250)


def test_many_times_slower_threads_are_tried_once() -> None:
    asked: list[int] = []

    def timed(way: Way) -> float:
        asked.append(way.threads)
        return 0.1 if way.threads == 1 else 1.7  # they wait for each other

    speed = best_speed(
        timed, threads=[1, 2], cores=2, most_workers=0, layer_tokens=1, clock=lambda: 0.0
    )

    assert (speed.threads, asked.count(2)) == (1, 1)
    assert dict(speed.seconds)[Way(2)] == 1.7


def test_long_steps_are_not_taken_twice_for_one_figure() -> None:
    asked: list[int] = []

    def timed(way: Way) -> float:
        asked.append(way.threads)
        return 2.0

    now = iter([0.0, 4.0, 8.0])
    best_speed(
        timed, threads=[1, 2], cores=2, most_workers=0, layer_tokens=1, clock=lambda: next(now)
    )

    assert asked == [1, 2] * 2


def test_a_single_slow_moment_decides_nothing() -> None:
    times = {1: iter([9, 1, 1, 1]), 2: iter([9, 0.5, 8, 0.5])}

    speed = best_speed(
        lambda way: float(next(times[way.threads])),
        threads=[1, 2],
        cores=2,
        most_workers=0,
        layer_tokens=1,
        clock=lambda: 0.0,
    )

    assert speed.threads == 2


@pytest.mark.parametrize(
    ("cores", "real", "expected"),
    [(1, 1, [1]), (2, 2, [1, 2]), (2, 1, [1, 2]), (6, 3, [1, 2, 3, 4, 6]), (8, 4, [1, 2, 4, 8])],
)
def test_numbers_of_threads_that_are_tried(cores: int, real: int, expected: list[int]) -> None:
    assert thread_counts(cores, real) == expected


def test_what_was_measured_can_be_recorded_and_read_back() -> None:
    speed = MachineSpeed(2, 2, 31.25, 1.5, 0.75, 2, ((Way(1), 0.5),))

    again = MachineSpeed.from_json(speed.to_json())

    assert (again.factor(1), again.factor(2), again.tokens_per_second) == (0.75, 1.5, 31.25)
    assert speed.to_json()["layer_steps"] == [{"threads": 1, "at_a_time": 1, "seconds": 0.5}]
