"""Repetitions are interleaved, ratios paired, and targets judged in their own direction."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.harness.targets import TARGETS, Measured, judge
from benchmarks.harness.timing import interleave, interleave_charged, middle, ratio, spread
from fedmedlora.core.errors import ConfigError


def test_ways_take_turns() -> None:
    calls: list[str] = []

    taken = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)

    assert calls == ["a", "b"] * 3
    assert [len(seconds) for seconds in taken.values()] == [3, 3]


def test_a_ratio_is_the_median_of_neighbours_so_that_a_slow_minute_cancels() -> None:
    found = ratio([2.0, 20.0, 2.2, 2.0, 2.0], [1.0, 10.0, 1.0, 1.0, 4.0])

    assert found.measurements == [2.0, 2.0, 2.2, 2.0, 0.5]
    assert found.value == 2.0


@given(st.lists(st.integers(), min_size=1, unique=True), st.integers(1, 12))
@settings(max_examples=50)
def test_choices_from_an_ordered_list_keep_its_order_and_are_as_many_as_asked(
    items: list[int], count: int
) -> None:
    for chosen in (middle(items, count), spread(items, count)):
        places = [items.index(item) for item in chosen]
        assert places == sorted(set(places))
        assert len(chosen) == min(count, len(items))


def test_the_middle_is_a_run_of_neighbours_and_the_spread_is_not() -> None:
    assert list(middle(range(10), 4)) == [3, 4, 5, 6]
    assert spread(range(10), 2) == [2, 7]


@pytest.mark.parametrize(
    ("name", "value", "met", "stretch_met"),
    [
        ("T1a", 5.9, False, False),
        ("T1a", 6.0, True, False),
        ("T1a", 9.0, True, True),
        ("T3-float32", 6.1, False, False),
        ("T3-float32", 6.0, True, False),
        ("T3-float32", 3.9, True, True),
        ("T2a", 100.0, True, False),
    ],
)
def test_a_target_is_met_on_its_own_side_of_the_bound(
    name: str, value: float, met: bool, stretch_met: bool
) -> None:
    [row] = judge({name: Measured(value, [value])})

    assert (row["met"], row["stretch_met"]) == (met, stretch_met)


def test_a_target_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="T99"):
        judge({"T99": Measured(1.0, [1.0])})


def test_stretch_is_beyond_the_bound() -> None:
    for target in TARGETS.values():
        if target.stretch is not None:
            assert target.reaches(target.stretch, target.bound)


def test_seconds_of_the_processor_leave_out_what_others_had() -> None:
    taken = interleave_charged(
        {"waits": lambda: time.sleep(0.05), "works": lambda: sum(range(10**6))}, 2
    )

    for name in ("waits", "works"):
        pairs = zip(taken.processor[name], taken.clock[name], strict=True)
        assert all(processor <= clock for processor, clock in pairs)
    assert all(clock >= 0.05 for clock in taken.clock["waits"])
    assert max(taken.processor["waits"]) < min(taken.processor["works"])
