"""Modifiers and links in `scores.json`: three scores, the rule linker beside them."""

from __future__ import annotations

from typing import Any

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.study.compare import (
    Cell,
    TaskCell,
    score_cell,
    score_rules_on_gold,
    score_tasks,
    scores_json,
)
from fedmedlora.study.conditions import arms_of
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import Cohort

TEXT = "fever and cough, severe; given aspirin daily"
FEVER = Entity.at("T1", "problem", 0, 5)
COUGH = Entity.at("T2", "problem", 10, 15)
SEVERE = Entity.at("T3", "severity", 17, 23)
ASPIRIN = Entity.at("T4", "drug", 31, 38)
DAILY = Entity.at("T5", "frequency", 39, 44)
MENTIONS = (FEVER, COUGH, SEVERE, ASPIRIN, DAILY)
TO_FEVER, TO_COUGH = (Relation("R1", "modifies", "T3", to) for to in ("T1", "T2"))
TO_DRUG = Relation("R2", "modifies", "T5", "T4")
# The rule takes the cough, which is nearer; the annotators meant the fever.
GOLD = tuple(Document(f"n{i}", TEXT, MENTIONS, (TO_FEVER, TO_DRUG)) for i in range(3))
ENTITIES, MODIFIERS = ("problem", "drug"), ("severity", "frequency")
PRESETS = ("strict", "lenient")

NORTH = Cohort("north", "in-domain", ENTITIES, GOLD)
SOUTH = Cohort("south", "in-domain", ENTITIES, GOLD)
EAST = Cohort("east", "external", ENTITIES, GOLD)
WEST = Cohort("west", "external", ENTITIES, GOLD)
# South annotates no modifiers; west annotates modifiers, but no links.
ANNOTATES: dict[str, dict[str, Any]] = {
    "north": {"modifiers": MODIFIERS, "relations": True},
    "south": {"modifiers": (), "relations": False},
    "east": {"modifiers": MODIFIERS, "relations": True},
    "west": {"modifiers": MODIFIERS, "relations": False},
}
COHORTS = [NORTH, SOUTH, EAST, WEST]


def config(**changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "name": "study",
        "sites": [{"name": name, "corpus": name} for name in ("north", "south")],
        "cohorts": [{"name": name, "corpus": name} for name in ("east", "west")],
        "strategies": [{"name": "fedavg"}],
        "evaluation": {"presets": list(PRESETS), "draws": 40},
    }
    return StudyConfig.model_validate(values | changes)


def right() -> tuple[Document, ...]:
    return GOLD


def by_distance() -> tuple[Document, ...]:
    return tuple(d.with_entities(d.entities, (TO_COUGH, TO_DRUG)) for d in GOLD)


def without_drugs() -> tuple[Document, ...]:
    return tuple(d.only_labels(("problem", "severity", "frequency")) for d in GOLD)


PREDICTED = {
    "zero-shot": tuple(d.with_entities(()) for d in GOLD),
    "single-site/north": by_distance(),
    "single-site/south": without_drugs(),
    "centralized": right(),
    "fedavg": right(),
}


def scores(study: StudyConfig | None = None, *, tasks: bool = True) -> dict[str, Any]:
    study = study or config()
    counts: dict[Cell, Any] = {}
    task_counts: dict[TaskCell, Any] = {}
    for arm, predicted in PREDICTED.items():
        for cohort in COHORTS:
            for preset in PRESETS:
                counts[arm, cohort.name, preset] = score_cell(cohort, predicted, preset)
            for given in ("predicted", "gold"):
                task_counts |= score_tasks(
                    arm, cohort, predicted, given, PRESETS, **ANNOTATES[cohort.name]
                )
    for cohort in COHORTS:
        task_counts |= score_rules_on_gold(cohort, PRESETS, **ANNOTATES[cohort.name])
    known = task_counts if tasks else None
    return scores_json(study, arms_of(study), COHORTS, counts, {"study": "study"}, known)


def f1s(rows: list[dict[str, Any]], **wanted: Any) -> dict[tuple[Any, ...], float]:
    """F1 of strict rows by task, given, linker, arm and, of a cohort, its name."""
    found = {}
    for row in rows:
        value = row["scores"]["micro"]["f1"] if "scores" in row else row["macro_f1"]
        key = (row["task"], row["given"], row["linker"], row["arm"], row.get("cohort"))
        if row["preset"] == "strict" and all(row[name] == v for name, v in wanted.items()):
            assert key not in found
            found[key] = value
    return found


def test_a_study_of_entities_alone_has_the_keys_it_always_had() -> None:
    plain, full = scores(tasks=False), scores()

    assert set(full) - set(plain) == {"task_results", "task_summary", "task_comparisons"}
    assert {key: full[key] for key in plain} == plain


def test_each_cohort_is_scored_on_what_it_annotates() -> None:
    rows = scores()["task_results"]

    seen: dict[str, set[tuple[str, str, str | None]]] = {}
    for row in rows:
        seen.setdefault(row["cohort"], set()).add((row["task"], row["given"], row["linker"]))
    modifiers = {("modifiers", "predicted", None), ("modifiers", "gold", None)}
    links = {
        ("relations", given, linker)
        for given in ("predicted", "gold")
        for linker in ("model", "rules")
    }
    rule_alone = {("relations", "gold-spans", "rules")}
    assert seen == {
        "north": modifiers | links | rule_alone,
        "east": modifiers | links | rule_alone,
        "west": modifiers,
    }


def test_the_rule_linker_stands_beside_the_model_on_the_same_mentions() -> None:
    found = f1s(scores()["task_results"], cohort="north", task="relations", given="predicted")

    linked = {(arm, linker): value for (_, _, linker, arm, _), value in found.items()}
    assert linked == {
        ("zero-shot", "model"): 0,
        ("zero-shot", "rules"): 0,
        ("single-site/north", "model"): 0.5,
        ("single-site/north", "rules"): 0.5,
        # without drugs: one of two links is there to be had, and the rule gets it wrong
        ("single-site/south", "model"): pytest.approx(2 / 3),
        ("single-site/south", "rules"): 0,
        ("centralized", "model"): 1,
        ("centralized", "rules"): 0.5,
        ("fedavg", "model"): 1,
        ("fedavg", "rules"): 0.5,
    }


def test_the_rule_linker_alone_has_a_row_without_an_arm() -> None:
    table = scores()

    assert f1s(table["task_results"], given="gold-spans") == {
        ("relations", "gold-spans", "rules", None, "north"): 0.5,
        ("relations", "gold-spans", "rules", None, "east"): 0.5,
    }
    assert f1s(table["task_summary"], given="gold-spans", setting="external") == {
        ("relations", "gold-spans", "rules", None, None): 0.5
    }


def test_labels_that_are_not_scored_draw_no_links_to_themselves() -> None:
    # The treatment is nearer, but the cohort does not annotate treatments.
    text = "rash after stent in May"
    rash = Entity.at("T1", "problem", 0, 4)
    may = Entity.at("T2", "temporal", 20, 23)
    gold = Document("n", text, (rash, may), (Relation("R1", "modifies", "T2", "T1"),))
    predicted = gold.with_entities((rash, may, Entity.at("T3", "treatment", 11, 16)))
    cohort = Cohort("north", "in-domain", ("problem",), (gold,))

    counts = score_tasks(
        "a", cohort, [predicted], "predicted", ["strict"], modifiers=("temporal",), relations=True
    )

    by_rule = [c.total() for (*_, figure), c in counts.items() if figure.linker == "rules"]
    assert [(c.tp, c.fp, c.fn) for c in by_rule] == [(1, 0, 0)]


def test_means_are_over_the_cohorts_that_allow_the_score() -> None:
    rows = [r for r in scores()["task_summary"] if r["preset"] == "strict" and r["arm"] == "fedavg"]

    where = {(r["task"], r["given"], r["linker"], r["setting"]): r["cohorts"] for r in rows}
    assert where["modifiers", "gold", None, "in-domain"] == ["north"]
    assert where["modifiers", "gold", None, "external"] == ["east", "west"]
    assert where["relations", "predicted", "model", "external"] == ["east"]


def test_the_mean_single_site_model_leaves_out_the_site_that_has_no_such_notes_of_its_own() -> None:
    summary = scores()["task_summary"]
    means = {
        (r["setting"], r["linker"]): r["macro_f1"]
        for r in summary
        if (r["arm"], r["task"], r["given"], r["preset"])
        == ("single-site (mean)", "relations", "predicted", "strict")
    }
    assert means == {
        ("in-domain", "model"): 0.5,  # north's model only: south annotates no links
        ("in-domain", "rules"): 0.5,
        ("external", "model"): pytest.approx((0.5 + 2 / 3) / 2),
        ("external", "rules"): 0.25,
    }


def test_an_arm_that_does_no_relations_has_no_row() -> None:
    counts = {
        (arm, cohort.name, preset): score_cell(cohort, predicted, preset)
        for arm, predicted in PREDICTED.items()
        for cohort in COHORTS
        for preset in PRESETS
    }
    only = score_tasks("fedavg", EAST, right(), "predicted", PRESETS, **ANNOTATES["east"])

    study = config()
    table = scores_json(study, arms_of(study), COHORTS, counts, {}, only)

    assert {row["arm"] for row in table["task_results"]} == {"fedavg"}
    assert {row["arm"] for row in table["task_summary"]} == {"fedavg"}
    assert {row["given"] for row in table["task_results"]} == {"predicted"}


def test_federated_arms_are_compared_with_others_and_every_arm_with_the_rule() -> None:
    rows = [r for r in scores()["task_comparisons"] if r["preset"] == "strict"]
    links = [r for r in rows if (r["task"], r["given"]) == ("relations", "predicted")]

    between_arms = {
        (r["setting"], r["against"]): r["difference"] for r in links if "against_linker" not in r
    }
    assert between_arms == {
        ("in-domain", "zero-shot"): 1,
        ("in-domain", "single-site (mean)"): 0.5,
        ("in-domain", "centralized"): 0,
        ("external", "zero-shot"): 1,
        ("external", "single-site (mean)"): pytest.approx(1 - (0.5 + 2 / 3) / 2),
        ("external", "centralized"): 0,
    }
    against_rule = {r["arm"]: r["difference"] for r in links if r.get("against_linker") == "rules"}
    assert against_rule == {
        "zero-shot": 0,
        "single-site/north": 0,
        "single-site/south": pytest.approx(2 / 3),
        "centralized": 0.5,
        "fedavg": 0.5,
        "single-site (mean)": pytest.approx((0.5 + 2 / 3) / 2 - 0.25),
    }
    assert all(row["linker"] != "rules" for row in rows)
