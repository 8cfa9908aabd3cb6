"""How long the rest will take, with a clock that we turn ourselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from fedmedlora.core.document import Document
from fedmedlora.core.records import RoundRecord, SilentObserver
from fedmedlora.study.conditions import Arm, arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import Cohort, StudyNotes
from fedmedlora.study.machine_speed import MachineSpeed
from fedmedlora.study.plan import CHARACTERS, planned_work
from fedmedlora.study.time_left import TimeLeft


def cohort(characters: int = 100) -> Cohort:
    notes = tuple(Document(f"n{i}", "x" * characters) for i in range(10))
    return Cohort("far", "external", ("drug",), notes)


COHORT = cohort()


@dataclass
class Clock:
    """A clock that stands still until it is told to go on."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Told(SilentObserver):
    """Remembers what it is told."""

    stages: list[tuple[str, float, str]] = field(default_factory=list)
    advanced: list[float] = field(default_factory=list)
    found_done: list[float] = field(default_factory=list)
    expected: list[tuple[float, float]] = field(default_factory=list)

    def stage(self, title: str, total: float, unit: str) -> None:
        self.stages.append((title, total, unit))

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        self.advanced.append(amount)
        if not worked:
            self.found_done.append(amount)

    def expect(self, stage_seconds: float, all_seconds: float) -> None:
        self.expected.append((stage_seconds, all_seconds))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedmedlora.study.time_left.time.perf_counter", clock)
    return clock


def study(scale: int = 1) -> Any:
    """Two federated arms of two rounds of 300 tokens; one cohort of 1,000 characters."""
    off = {"zero_shot": False, "single_site": False, "centralized": False}
    config = StudyConfig.model_validate(
        {
            "name": "s",
            "sites": [{"name": "a", "corpus": "a"}, {"name": "b", "corpus": "b"}],
            "strategies": [{"name": "fedavg"}, {"name": "uniform"}],
            "federation": {"rounds": 2},
            "arms": off,
        }
    )

    def tokens(_: str, tasks: Iterable[str]) -> float:
        return sum(150.0 * scale for _ in tasks)

    return SimpleNamespace(
        config=config,
        notes=StudyNotes((), (cohort(100 * scale),), ""),
        round_tokens=tokens,
        held_out_tokens=lambda *_: 0.0,
    )


def time_left(
    speed: MachineSpeed | None = None, scale: int = 1
) -> tuple[TimeLeft, dict[str, Arm], Told]:
    prepared, told = study(scale), Told()
    arms = arms_of(prepared.config)
    return TimeLeft(prepared, arms, told, speed), {arm.name: arm for arm in arms}, told


def minutes(text: str) -> int:
    return int(text.removeprefix(", about ").removesuffix(" min left"))


def test_without_a_measured_speed_nothing_is_told_before_it_was_seen(clock: Clock) -> None:
    left, arms, told = time_left()
    left.starts(arms["fedavg"])
    assert left.phrase() == ""

    meter = left.training(arms["fedavg"], 600)
    clock.now += 600  # one token a second
    meter.advance(600)
    assert left.phrase() == ""  # nothing is known about extraction
    meter = left.extraction(arms["fedavg"], [COHORT])
    clock.now += 2000  # two seconds a character
    meter.advance(10)

    assert minutes(left.phrase()) == round((300 + 2000) / 60)
    assert told.stages == [
        ("fedavg: training", 600, "tokens"), ("fedavg: extraction", 10, "notes")
    ]  # fmt: skip


def test_a_measured_speed_tells_the_time_from_the_start(clock: Clock) -> None:
    speed = MachineSpeed(1, 0, 4.0)
    left, arms, told = time_left(speed)
    prepared = study()
    planned = planned_work(prepared, arms_of(prepared.config)).seconds(speed)

    left.starts(arms["fedavg"])
    assert minutes(left.phrase()) == round(sum(planned.values()) / 60)

    left.training(arms["fedavg"], 600)
    stage, everything = told.expected[-1]
    assert stage == pytest.approx(planned["training"] * 600 / 900)
    assert everything == pytest.approx(sum(planned.values()))


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.5, 2.0])
@pytest.mark.parametrize("between", [0.0, 20.0])
def test_after_the_first_minute_the_time_left_is_right_within_a_third(
    clock: Clock, factor: float, between: float
) -> None:
    """The whole run is `factor` times as slow as was measured, and has pauses for its arms."""
    left, arms, told = time_left(MachineSpeed(1, 0, 10.0), scale=10)
    moments: list[float] = []
    for number, arm in enumerate(arms.values()):
        left.starts(arm)
        clock.now += between
        meter = left.training(arm, 6000)
        meter.skip(3000 * number, 0)
        for _ in range(30 - 15 * number):
            clock.now += 20 * factor
            meter.advance(200)
            moments.append(clock.now)
        meter.round_ended(RoundRecord(arm.name, 2, ("a",)))
        clock.now += between
        meter = left.extraction(arm, [cohort(1000)])
        for _ in range(10):
            clock.now += 120 / CHARACTERS * factor
            meter.advance(1)
            moments.append(clock.now)
    total = clock.now + 60  # scores and report
    checked = 0
    for (_, everything), now in zip(_at_moments(told, moments), moments, strict=True):
        if 60 < now < 0.8 * total:
            checked += 1
            assert everything == pytest.approx(total - now, rel=1 / 3)
    assert checked > 20


def _at_moments(told: Told, moments: list[float]) -> list[tuple[float, float]]:
    """Estimates that came with progress, without those at the start of stages and of reuse."""
    others = len(told.expected) - len(moments)
    assert others == len(told.stages) + len(told.found_done)
    found, expected = [], iter(told.expected)
    for number in (30, 10, 15, 10):
        next(expected)
        if number == 15:
            next(expected)
        found += [next(expected) for _ in range(number)]
    return found


def test_work_that_was_done_before_counts_neither_as_left_nor_as_fast(clock: Clock) -> None:
    left, arms, told = time_left()
    left.starts(arms["fedavg"])
    meter = left.training(arms["fedavg"], 600)
    meter.skip(300, 300)  # a round of the run that is resumed
    clock.now += 300
    meter.advance(300)
    extraction = left.extraction(arms["fedavg"], [COHORT])
    clock.now += 1000
    extraction.advance(10)
    left.starts(arms["uniform"])
    meter = left.training(arms["uniform"], 600)
    meter.skip(300, 0)  # the round that both arms share, and that was planned once

    assert minutes(left.phrase()) == round((300 + 1000) / 60)
    assert told.advanced == [300, 300, 10, 300]
    assert told.found_done == [300, 300]


def test_after_reused_work_the_time_left_is_that_of_the_rest(clock: Clock) -> None:
    left, arms, told = time_left(MachineSpeed(1, 0, 1.0))
    left.starts(arms["fedavg"])
    left.training(arms["fedavg"], 600).skip(300, 300)

    assert told.expected[-1][0] == pytest.approx(300)


def test_what_comes_between_stages_is_expected_of_the_arms_to_come(clock: Clock) -> None:
    def after_one_arm(pause: float) -> float:
        left, arms, _ = time_left()
        left.starts(arms["fedavg"])
        meter = left.training(arms["fedavg"], 600)
        clock.now += 600
        meter.advance(600)
        clock.now += pause
        meter = left.extraction(arms["fedavg"], [COHORT])
        clock.now += 1000
        meter.advance(10)
        left.starts(arms["uniform"])
        seconds = left.all_seconds()
        assert seconds is not None
        return seconds

    assert after_one_arm(0) == pytest.approx(300 + 1000)
    assert after_one_arm(100) == pytest.approx(300 + 1000 + 100)


def test_a_resumed_run_with_only_extraction_left_tells_its_time(clock: Clock) -> None:
    left, arms, _ = time_left()
    left.training(arms["fedavg"], 600).skip(600, 600)
    left.training(arms["uniform"], 600).skip(600, 300)
    extraction = left.extraction(arms["fedavg"], [COHORT])
    clock.now += 1000
    extraction.advance(10)

    assert minutes(left.phrase()) == round(1000 / 60)


def test_a_stage_without_work_is_not_shown(clock: Clock) -> None:
    left, arms, told = time_left()
    left.extraction(arms["fedavg"], ())
    left.training(arms["fedavg"], 0)

    assert told.stages == []


def test_long_notes_are_not_taken_for_as_little_work_as_short_ones(clock: Clock) -> None:
    notes = (Document("long", "x" * 900), *(Document(f"n{i}", "x" * 10) for i in range(10)))
    both = Cohort("far", "external", ("drug",), notes)
    left, arms, told = time_left()
    meter = left.extraction(arms["fedavg"], [both])
    for _ in range(10):
        clock.now += 1
        meter.read(10)
        meter.advance(1)
    assert told.expected == []  # the speed of training is unknown
    clock.now += 45
    meter.read(450)  # half of the long note

    assert left.seconds("extraction", 450) == pytest.approx(45)
    assert left.seconds("extraction", 0.0) == 0
    left, arms, told = time_left(MachineSpeed(1, 0, 1.0))
    meter = left.extraction(arms["fedavg"], [both])
    for _ in range(10):
        clock.now += 1000
        meter.read(10)
        meter.advance(1)

    assert told.expected[-1][0] == pytest.approx(90 * 1000, rel=0.1)
    meter.read(900)
    meter.advance(1)
    assert told.expected[-1][0] == pytest.approx(0, abs=1)
    assert told.advanced == [1] * 11
