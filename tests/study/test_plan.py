"""How much work there is, and how long the rest will take, with a clock that we turn ourselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from fedmedlora.core.document import Document
from fedmedlora.core.records import SilentObserver
from fedmedlora.study.conditions import Arm, arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import Cohort, StudyNotes
from fedmedlora.study.plan import TimeLeft, extraction_characters, training_tokens

TOKENS = {"a": 100.0, "b": 40.0, "pooled": 140.0}


def study(*, rounds: int = 3, **changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "name": "s",
        "sites": [{"name": "a", "corpus": "a"}, {"name": "b", "corpus": "b"}],
        "strategies": [{"name": "fedavg"}, {"name": "uniform"}],
        "federation": {"rounds": rounds},
    }
    return StudyConfig.model_validate(values | changes)


def cohort(name: str, setting: Any, *lengths: int) -> Cohort:
    notes = tuple(Document(f"{name}{i}", "x" * length) for i, length in enumerate(lengths))
    return Cohort(name, setting, ("drug",), notes)


COHORTS = (
    cohort("a", "in-domain", 10, 20),
    cohort("b", "in-domain", 5),
    cohort("far", "external", 100, 200, 300),
)


def prepared(config: StudyConfig) -> Any:
    """Only what a plan looks at; the relation task has a tenth of the tokens."""
    notes = StudyNotes((), COHORTS, "")

    def round_tokens(client: str, tasks: Iterable[str]) -> float:
        site, _, _ = client.partition(".")
        return sum(TOKENS[site] * (1 if task == "entities" else 0.1) for task in tasks)

    return SimpleNamespace(config=config, notes=notes, round_tokens=round_tokens)


def test_a_sites_first_round_is_counted_once_and_all_others_for_every_arm() -> None:
    config = study()

    tokens = training_tokens(prepared(config), arms_of(config))

    assert tokens == {
        "zero-shot": [],
        "single-site/a": [100, 100, 100],
        "single-site/b": [40, 40, 40],
        "centralized": [140, 140, 140],
        "fedavg": [0, 140, 140],
        "uniform": [0, 140, 140],
    }


def test_without_single_site_arms_the_first_federated_arm_does_the_shared_round() -> None:
    config = study(rounds=2, arms={"single_site": False, "centralized": False})

    tokens = training_tokens(prepared(config), arms_of(config))

    assert tokens == {"zero-shot": [], "fedavg": [140, 140], "uniform": [0, 140]}


TWO_TASKS = {"tasks": ["entities", "relations"], "evaluation": {"single_site_in_domain": "own"}}


def test_a_client_with_two_tasks_trains_the_tokens_of_both() -> None:
    config = study(
        **TWO_TASKS,
        rounds=2,
        arms={"single_site": False, "tasks": ["mix", "entities", "relations"]},
        strategies=[{"name": "fedavg"}],
    )

    tokens = training_tokens(prepared(config), arms_of(config))

    # No arm shares a round: each asks its clients for other tasks.
    assert tokens == {
        "zero-shot": [],
        "centralized": [pytest.approx(154)] * 2,
        "fedavg": [pytest.approx(154)] * 2,
        "centralized-entities": [140, 140],
        "fedavg-entities": [140, 140],
        "centralized-relations": [pytest.approx(14)] * 2,
        "fedavg-relations": [pytest.approx(14)] * 2,
    }


def test_clients_of_one_task_do_their_first_round_once_for_all_arms_that_train_it() -> None:
    config = study(
        **TWO_TASKS,
        rounds=2,
        arms={"zero_shot": False, "single_site": False, "centralized": False}
        | {"tasks": ["mix", "entities"]},
        strategies=[{"name": "fedavg"}],
        federation={"rounds": 2, "clients": "task"},
    )

    assert training_tokens(prepared(config), arms_of(config)) == {
        "fedavg": [pytest.approx(154)] * 2,
        "fedavg-entities": [0, 140],
    }


@pytest.mark.parametrize(("tasks", "passes"), [(["mix"], 3), (["entities"], 1), (["relations"], 1)])
def test_notes_are_read_for_entities_and_for_relations_end_to_end_and_between_gold_ones(
    tasks: list[str], passes: int
) -> None:
    off = {"zero_shot": False, "single_site": False, "centralized": False}
    config = study(
        **TWO_TASKS, arms=off | {"tasks": tasks}, strategies=[{"name": "fedavg"}], rounds=1
    )
    with_modifiers = replace(COHORTS[2], modifiers=("severity",))
    cohorts = (COHORTS[0], with_modifiers)
    (arm,) = arms_of(config)
    notes = StudyNotes((), cohorts, "")

    # Where no modifier is annotated, none is asked for.
    plain = 30 if tasks != ["relations"] else 0
    assert extraction_characters(config, notes, [arm]) == plain + passes * 600
    told = Told()
    left = TimeLeft(
        SimpleNamespace(config=config, notes=notes, round_tokens=lambda *_: 1.0), [arm], told
    )
    left.extraction(arm, cohorts)
    num_plain = 2 if plain else 0
    assert told.stages == [(f"{arm.name}: extraction", num_plain + passes * 3, "notes")]


@pytest.mark.parametrize(("where", "single"), [("all", 2 * 635), ("own", 630 + 605)])
def test_characters_are_counted_for_every_arm_and_cohort_that_is_tested(
    where: str, single: int
) -> None:
    config = study(evaluation={"single_site_in_domain": where})
    everywhere = 10 + 20 + 5 + 600

    assert (
        extraction_characters(config, prepared(config).notes, arms_of(config))
        == 4 * everywhere + single
    )


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

    def stage(self, title: str, total: float, unit: str) -> None:
        self.stages.append((title, total, unit))

    def advance(self, amount: float, *, worked: bool = True, **figures: float) -> None:
        self.advanced.append(amount)
        if not worked:
            self.found_done.append(amount)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fedmedlora.study.plan.time.perf_counter", clock)
    return clock


def time_left(**changes: Any) -> tuple[TimeLeft, Told]:
    config = study(**changes)
    told = Told()
    return TimeLeft(prepared(config), arms_of(config), told), told


FEDAVG = Arm("fedavg", "federated", ("a", "b"), None)
ONLY_FEDERATED = {"zero_shot": False, "single_site": False, "centralized": False}


def test_the_time_left_is_the_work_left_at_the_speed_so_far(clock: Clock) -> None:
    # Two arms: 3 + 2 rounds of 140 tokens to train, 2 * 635 characters to extract.
    left, told = time_left(arms=ONLY_FEDERATED)
    assert left.phrase() == ""

    meter = left.training("fedavg", 420)
    clock.now += 420  # one token a second
    meter.advance(420)
    assert left.phrase() == ""  # nothing is known about extraction

    meter = left.extraction(FEDAVG, COHORTS)
    clock.now += 1270  # two seconds a character
    meter.advance(6)

    assert left.phrase() == f", about {round((280 + 1270) / 60)} min left"
    assert told.stages == [("fedavg", 420, "tokens"), ("fedavg: extraction", 6, "notes")]


def test_work_that_was_done_before_counts_neither_as_left_nor_as_fast(clock: Clock) -> None:
    left, told = time_left(arms=ONLY_FEDERATED)
    meter = left.training("fedavg", 420)
    meter.skip(140, 140)  # a round of the run that is resumed
    clock.now += 280
    meter.advance(280)
    extraction = left.extraction(FEDAVG, COHORTS)
    clock.now += 635
    extraction.advance(6)
    meter = left.training("uniform", 420)
    meter.skip(140, 0)  # the round that both arms share, and that was planned once

    assert left.phrase() == f", about {round((280 + 635) / 60)} min left"
    assert told.advanced == [140, 280, 6, 140]
    assert told.found_done == [140, 140]


def test_waiting_between_two_stages_is_no_work(clock: Clock) -> None:
    left, _ = time_left(arms=ONLY_FEDERATED)
    clock.now += 10_000
    meter = left.training("fedavg", 420)
    clock.now += 420
    meter.advance(420)
    clock.now += 10_000
    extraction = left.extraction(FEDAVG, COHORTS)
    clock.now += 635
    extraction.advance(6)

    assert left.phrase() == f", about {round((280 + 635) / 60)} min left"


def test_a_resumed_run_with_only_extraction_left_tells_its_time(clock: Clock) -> None:
    left, _ = time_left(arms=ONLY_FEDERATED)
    left.training("fedavg", 420).skip(420, 420)
    left.training("uniform", 420).skip(420, 280)
    extraction = left.extraction(FEDAVG, COHORTS)
    clock.now += 635
    extraction.advance(6)

    assert left.phrase() == f", about {round(635 / 60)} min left"


def test_a_stage_without_work_is_not_shown(clock: Clock) -> None:
    left, told = time_left()
    left.extraction(FEDAVG, ())
    left.training("nothing", 0)

    assert told.stages == []
