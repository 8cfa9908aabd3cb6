"""How much work there is in a study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from fedmedlora.core.document import Document
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import Cohort, StudyNotes
from fedmedlora.study.machine_speed import MachineSpeed
from fedmedlora.study.plan import (
    CHARACTERS,
    READING,
    UNTRAINED,
    extraction_characters,
    planned_work,
    training_tokens,
)

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

    def held_out_tokens(client: str, tasks: Iterable[str]) -> float:
        return round_tokens(client, tasks) / 2

    return SimpleNamespace(
        config=config, notes=notes, round_tokens=round_tokens, held_out_tokens=held_out_tokens
    )


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


def test_work_holds_all_that_takes_time() -> None:
    off = {"single_site": False, "centralized": False}
    config = study(rounds=2, arms=off, strategies=[{"name": "fedavg"}])
    work = planned_work(prepared(config), arms_of(config))

    assert work.tokens == 2 * 140
    assert work.judged == 2 * 70
    assert work.characters == (UNTRAINED + 1) * 635
    assert sum(work.between_by_arm.values()) == 2 * work.between_by_arm["zero-shot"]


def test_strategies_that_score_at_the_server_and_calibrated_tags_are_more_work() -> None:
    off = {"zero_shot": False, "single_site": False, "centralized": False}
    plus = [{"name": "fedmedlora-plus", "mode": "reference"}]
    plain = study(rounds=2, arms=off, strategies=[{"name": "fedavg"}])
    more = study(
        rounds=2,
        arms=off,
        strategies=plus,
        server_notes={"max_tokens": 50},
        evaluation={"open_bonus": "auto"},
    )
    less, work = (planned_work(prepared(c), arms_of(c)) for c in (plain, more))

    assert work.judged - less.judged == 2 * 2 * 50  # rounds, sites
    assert sum(work.between_by_arm.values()) - sum(less.between_by_arm.values()) == 70


def test_a_study_takes_as_long_as_its_tokens_and_characters_at_the_measured_speed() -> None:
    config = study(rounds=2, arms={"zero_shot": False}, strategies=[])
    work = planned_work(prepared(config), arms_of(config))
    speed = MachineSpeed(1, 0, 10.0)

    seconds = work.seconds(speed)

    assert seconds["training"] == pytest.approx((work.tokens + work.judged / READING) / 10)
    assert seconds["extraction"] == pytest.approx(work.characters / CHARACTERS / 10)
    twice = work.seconds(MachineSpeed(1, 0, 20.0))
    assert sum(twice.values()) == pytest.approx(sum(seconds.values()) / 2)


def test_workers_shorten_the_training_of_several_sites_and_lengthen_that_of_one() -> None:
    config = study(rounds=1, arms={"zero_shot": False, "centralized": False})
    study_, arms = prepared(config), arms_of(config)
    workers = MachineSpeed(2, 2, 10.0, gain=1.6, alone=0.8)
    tokens = {name: sum(rounds) for name, rounds in training_tokens(study_, arms).items()}
    single = tokens["single-site/a"] + tokens["single-site/b"]

    work = planned_work(study_, arms, workers)

    assert work.tokens == pytest.approx(single / 0.8 + (sum(tokens.values()) - single) / 1.6)
