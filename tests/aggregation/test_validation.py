"""Who is better than whom on the server's notes, and how sure that is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats

from fedmedlora.aggregation.strategy import NoteLosses
from fedmedlora.aggregation.validation import (
    Difference,
    Judgement,
    difference_of,
    joined,
    measure,
    paired,
)
from fedmedlora.testing.adapters import random_adapter

BEFORE = random_adapter(0)
NAMES = {random_adapter(0).digest(): "before"}


@dataclass
class Table:
    """Losses by name of the adapter; `narrow` is what it loses if asked for drugs only."""

    losses: Mapping[str, NoteLosses]
    narrow: Mapping[str, NoteLosses] = field(default_factory=dict)
    support: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def loss(self, adapter: object) -> NoteLosses:
        return self.losses[NAMES[adapter.digest()]]  # type: ignore[attr-defined]

    def labels_of(self, site: str, task: str) -> frozenset[str] | None:
        return self.support.get(site)

    def asking(self, task: str, labels: frozenset[str]) -> "Table | None":
        return Table(self.narrow) if labels == {"drug"} else self


def judged(
    losses: Mapping[str, list[float]],
    tasks: Mapping[str, set[str]] | None = None,
    table: Table | None = None,
) -> Judgement:
    notes = {name: NoteLosses({"entities": np.array(row)}) for name, row in losses.items()}
    sites = [name for name in losses if name != "before"]
    adapters = {site: random_adapter(seed) for seed, site in enumerate(sites, 1)}
    NAMES.update({adapter.digest(): site for site, adapter in adapters.items()})
    tasks = tasks or {key: {"entities"} for key in sites}
    return measure(table or Table(notes), adapters, tasks, BEFORE).judge(2.0)


def test_standard_errors_are_those_of_paired_differences() -> None:
    hard = np.array([0.1, 3.0, 0.2, 2.0, 1.0, 0.7])  # notes differ far more than sites do
    north, south = hard, hard + np.array([0.1, 0.12, 0.08, 0.1, 0.11, 0.09])

    found = judged({"north": [*north], "south": [*south], "before": [*(hard + 5)]})

    expected = stats.ttest_rel(south, north)
    assert found.losses["south"] - found.losses["north"] == pytest.approx(np.mean(south - north))
    assert found.standard_errors["north"] == 0.0
    assert found.standard_errors["south"] == pytest.approx(
        np.mean(south - north) / expected.statistic
    )
    assert found.noise == found.standard_errors["south"]
    assert found.harmful == ()


def test_a_site_that_is_worse_than_before_is_told() -> None:
    before = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95]
    found = judged(
        {
            "north": [loss - 0.5 for loss in before],
            "south": [loss + 0.5 + i / 100 for i, loss in enumerate(before)],
            "noisy": [0.0, 4.0, 0.0, 0.0, 4.0, 0.0],
            "before": before,
        }
    )
    assert found.harmful == ("south",)


def test_one_note_says_nothing_about_noise() -> None:
    found = judged({"north": [0.1], "south": [5.0], "before": [1.0]})

    assert found.noise == math.inf
    assert found.harmful == ()


def test_a_site_is_judged_on_the_labels_that_it_annotates_only() -> None:
    """`drugs` has never seen a test: asked for all labels it fails, asked for drugs it is best."""
    wide = {"north": 0.2, "south": 0.3, "drugs": 2.0, "before": 3.0}
    narrow = {"north": 0.25, "south": 0.35, "drugs": 0.1, "before": 2.0}
    rows = {
        name: NoteLosses({"entities": value + 0.01 * np.arange(4.0)})
        for name, value in wide.items()
    }
    narrow_rows = {
        name: NoteLosses({"entities": value + 0.01 * np.arange(4.0)})
        for name, value in narrow.items()
    }
    everything = frozenset({"drug", "test"})
    support = {"north": everything, "south": everything, "drugs": frozenset({"drug"})}

    unknown = judged({name: [*row.completion["entities"]] for name, row in rows.items()})
    known = judged({name: [0.0] for name in wide}, table=Table(rows, narrow_rows, support))

    assert max(unknown.losses, key=unknown.losses.__getitem__) == "drugs"
    assert min(known.losses, key=known.losses.__getitem__) == "drugs"
    assert known.losses["south"] > known.losses["north"]


Labels = frozenset[str]


@dataclass
class Skills:
    """Notes of known annotations, and sites that know some labels well and others not at all.

    A note asked for labels loses the mean of what the adapter loses on each of them. As a model
    does that was never taught a label, a site loses 5 on what it does not annotate.
    """

    quality: Mapping[str, float]
    support: Mapping[tuple[str, str], Labels]
    givers: Mapping[str, list[Labels]]
    asked: Mapping[str, Labels] = field(default_factory=dict)
    counted: list[tuple[str, str, tuple[str, ...]]] = field(default_factory=list)

    def loss(self, adapter: object) -> NoteLosses:
        site = NAMES[adapter.digest()]  # type: ignore[attr-defined]
        found = {}
        for task, notes in self.givers.items():
            row = []
            for place, given in enumerate(notes):
                labels = sorted(given & self.asked.get(task, given))
                own = self.support.get((site, task), frozenset())
                each = [self.quality[site] if label in own else 5.0 for label in labels]
                hard = 0.3 * math.sin(place + len(labels))
                row.append(np.mean(each) + hard if each else math.nan)
            found[task] = np.array(row)
            self.counted.append((site, task, tuple(sorted(self.asked.get(task, ["all"])))))
        return NoteLosses(found)

    def labels_of(self, site: str, task: str) -> Labels | None:
        return self.support.get((site, task))

    def asking(self, task: str, labels: Labels) -> "Skills | None":
        notes = self.givers[task]
        if all(given <= labels for given in notes):
            return self
        if not any(given & labels for given in notes):
            return None
        return Skills(
            self.quality, self.support, {task: notes}, {task: labels}, counted=self.counted
        )


def skilled(
    support: Mapping[tuple[str, str], set[str]], **quality: float
) -> tuple[Judgement, Skills]:
    """How sites are judged; each gives six notes for each of its tasks."""
    known = {key: frozenset(labels) for key, labels in support.items()}
    givers: dict[str, list[Labels]] = {}
    for (_, task), labels in known.items():
        givers.setdefault(task, []).extend([labels] * 6)
    notes = Skills({"before": 6.0, **quality}, known, givers)
    tasks = {site: {task for name, task in known if name == site} for site in quality}
    found = judged({site: [] for site in (*quality, "before")}, tasks, notes)  # type: ignore[arg-type]
    return found, notes


def test_sites_with_other_modifiers_are_still_compared_on_their_entities() -> None:
    """The label sets of all tasks together contain each other in no case."""
    entities = {"problem", "drug"}
    found, _ = skilled(
        {
            ("north", "entities"): entities,
            ("south", "entities"): entities,
            ("north", "relations"): {"dosage", "<links>"},
            ("south", "relations"): {"negation", "<links>"},
        },
        north=0.2,
        south=0.5,
    )

    assert found.losses["south"] - found.losses["north"] == pytest.approx(0.3)
    assert found.noise < 0.1
    assert found.harmful == ()


def test_sites_that_each_annotate_something_of_their_own_meet_on_what_they_share() -> None:
    """On all notes, each would lose 5 on the other's labels; on problems, `north` is the better."""
    found, notes = skilled(
        {
            ("north", "entities"): {"problem", "drug", "dosage"},
            ("south", "entities"): {"problem", "test", "labvalue"},
        },
        north=0.2,
        south=0.5,
    )

    assert found.losses["south"] - found.losses["north"] == pytest.approx(0.3)
    assert found.noise < 0.1
    assert {labels for site, _, labels in notes.counted if site == "north"} == {
        ("all",),
        ("problem",),
        ("dosage", "drug", "problem"),
    }


def test_three_sites_of_which_any_two_share_another_label_are_put_in_one_order() -> None:
    found, _ = skilled(
        {
            ("north", "entities"): {"problem", "drug"},
            ("south", "entities"): {"problem", "test"},
            ("west", "entities"): {"drug", "test"},
        },
        north=0.2,
        south=0.5,
        west=1.0,
    )

    assert sorted(found.losses, key=found.losses.__getitem__) == ["north", "south", "west"]
    assert found.noise < 0.2


def test_what_modifiers_belong_to_is_asked_only_where_both_sites_annotated_it() -> None:
    found, notes = skilled(
        {
            ("north", "relations"): {"negation", "<links>"},
            ("south", "relations"): {"negation"},
        },
        north=0.2,
        south=0.1,
    )

    # asked for links too, `south` would lose (0.1 + 5) / 2
    assert found.losses["north"] - found.losses["south"] == pytest.approx(0.1)
    assert ("south", "relations", ("negation",)) in notes.counted
    assert ("south", "relations", ("<links>", "negation")) not in notes.counted


def test_sites_that_share_no_label_are_compared_with_nobody_and_judged_against_before() -> None:
    found, _ = skilled(
        {
            ("north", "entities"): {"drug"},
            ("south", "entities"): {"test"},
            ("north", "relations"): {"dosage", "<links>"},
            ("south", "relations"): {"labvalue", "<links>"},
        },
        north=0.2,
        south=7.0,
    )

    assert found.losses == {}
    assert found.noise == math.inf
    assert found.harmful == ("south",)


def test_every_question_and_every_note_counts_once_however_many_sites_ask_alike() -> None:
    alike = {"problem", "drug", "test"}
    found, notes = skilled(
        {(site, "entities"): alike for site in ("a", "b", "c")}, a=0.1, b=0.2, c=0.3
    )

    assert len(notes.counted) == 4  # three sites and the adapter before, once each
    assert found.losses == pytest.approx({"a": -0.1, "b": 0.0, "c": 0.1})


def test_a_site_that_diverged_on_a_narrower_question_only_is_named() -> None:
    rows = {name: NoteLosses({"entities": np.arange(4.0)}) for name in ("north", "drugs", "before")}
    broken = {**rows, "north": NoteLosses({"entities": np.array([0.0, np.nan, 2.0, 3.0])})}
    support = {"north": frozenset({"drug", "test"}), "drugs": frozenset({"drug"})}
    adapters = {site: random_adapter(seed) for seed, site in enumerate(("north", "drugs"), 1)}
    NAMES.update({adapter.digest(): site for site, adapter in adapters.items()})
    tasks = {site: {"entities"} for site in adapters}

    sound = measure(Table(rows, rows, support), adapters, tasks, BEFORE)  # type: ignore[arg-type]
    found = measure(Table(rows, broken, support), adapters, tasks, BEFORE)  # type: ignore[arg-type]

    assert sound.diverged == ()
    assert found.diverged == ("north",)


def test_a_note_with_none_of_the_labels_is_left_out() -> None:
    losses = {"north": [0.1, math.nan, 0.2], "south": [0.4, math.nan, 0.6]}

    found = judged(losses | {"before": [1.0, math.nan, 1.0]})

    assert found.losses["south"] - found.losses["north"] == pytest.approx(0.35)
    assert math.isfinite(found.noise)


def test_a_site_without_a_task_is_not_asked_for_it() -> None:
    def row(entities: float, relations: float) -> NoteLosses:
        return NoteLosses(
            {
                "entities": entities + 0.01 * np.arange(4.0),
                "relations": relations + 0.01 * np.arange(4.0),
            }
        )

    table = Table(
        {
            "north": row(0.2, 0.5),
            "south": row(0.3, 0.6),
            "plain": row(0.1, 9.0),
            "before": row(3, 3),
        }
    )
    both = {"entities", "relations"}
    found = judged(
        {"north": [0.0], "south": [0.0], "plain": [0.0], "before": [0.0]},
        {"north": both, "south": both, "plain": {"entities"}},
        table,
    )

    assert min(found.losses, key=found.losses.__getitem__) == "plain"
    assert found.harmful == ()


def test_few_notes_need_a_larger_gain_as_students_distribution_says() -> None:
    for num_notes in (5, 8, 12, 50):
        needed = stats.t.ppf(stats.norm.cdf(1.645), num_notes - 1)
        assert Difference(-needed * 1.03, 1.0, num_notes).is_gain(1.645)
        assert not Difference(-needed * 0.96, 1.0, num_notes).is_gain(1.645)


def test_a_loss_that_is_no_number_is_a_harm_and_never_a_gain() -> None:
    broken = Difference(math.nan, math.nan, 10)
    assert broken.is_harm(2.0)
    assert not broken.is_gain(1.645)
    assert Difference(math.inf, math.nan, 10).is_harm(2.0)
    assert not difference_of(np.array([5.0])).is_harm(2.0)  # one note, nothing known of noise
    assert not difference_of(np.array([-5.0])).is_gain(1.645)


def test_parts_are_joined_by_task_and_differences_count_tasks_alike() -> None:
    first = NoteLosses({"entities": np.array([1.0, 2.0]), "relations": np.array([5.0, 5.0])})
    second = NoteLosses({"entities": np.array([3.0])})
    assert joined([first, second]).completion["entities"].tolist() == [1.0, 2.0, 3.0]

    zero = NoteLosses({"entities": np.zeros(2), "relations": np.zeros(2)})
    assert paired(first, zero).mean == pytest.approx((1.5 + 5) / 2)
