"""Modifiers and links are scored apart, and only where somebody annotated them."""

from __future__ import annotations

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.evaluation.presets import LENIENT, STRICT
from fedmedlora.evaluation.relation_scores import Annotated, Figure, count_modifiers_and_links
from fedmedlora.evaluation.scores import Counts

TEXT = "aspirin 81 mg daily, no fever"
ASPIRIN = Entity.at("T1", "drug", 0, 7)
STRENGTH = Entity.at("T2", "strength", 8, 13)
DAILY = Entity.at("T3", "frequency", 14, 19)
NO = Entity.at("T4", "negation", 21, 23)
FEVER = Entity.at("T5", "problem", 24, 29)
GOLD = Document(
    "n",
    TEXT,
    (ASPIRIN, STRENGTH, DAILY, NO, FEVER),
    (
        Relation("R1", "modifies", "T2", "T1"),
        Relation("R2", "modifies", "T3", "T1"),
        Relation("R3", "modifies", "T4", "T5"),
    ),
)
ANNOTATED = Annotated(("problem", "drug"), ("strength", "frequency", "negation"), relations=True)


def totals(predicted: Document, annotated: Annotated = ANNOTATED) -> dict[Figure, Counts]:
    counts = count_modifiers_and_links(
        [GOLD], {"model": [predicted]}, STRICT, annotated, "predicted"
    )
    return {figure: found.total() for figure, found in counts.items()}


MODIFIERS = Figure("modifiers", "predicted")
LINKS = Figure("relations", "predicted", "model")


def test_a_wrong_link_costs_nothing_of_the_modifiers_and_a_wrong_entity_costs_its_links() -> None:
    other_way = GOLD.with_entities(
        GOLD.entities, (*GOLD.relations[:2], Relation("R3", "modifies", "T4", "T1"))
    )
    assert totals(other_way) == {MODIFIERS: Counts(tp=3), LINKS: Counts(2, 1, 1)}

    longer = (Entity.at("T1", "drug", 0, 13), *GOLD.entities[1:])
    assert totals(GOLD.with_entities(longer, GOLD.relations)) == {
        MODIFIERS: Counts(tp=3),
        LINKS: Counts(1, 2, 2),
    }


def test_a_modifier_without_its_entity_counts_as_a_modifier_only() -> None:
    alone = GOLD.with_entities([STRENGTH, DAILY])

    assert totals(alone) == {MODIFIERS: Counts(2, 0, 1), LINKS: Counts(0, 0, 3)}


def test_labels_that_the_cohort_does_not_annotate_are_neither_missed_nor_wrong() -> None:
    fewer = Annotated(("drug",), ("strength",), relations=True)

    assert totals(GOLD, fewer) == {MODIFIERS: Counts(tp=1), LINKS: Counts(tp=1)}


def test_of_a_cohort_without_links_or_modifiers_nothing_is_said_of_them() -> None:
    no_links = Annotated(("drug",), ("strength",), relations=False)
    assert totals(GOLD, no_links) == {MODIFIERS: Counts(tp=1)}

    assert totals(GOLD, Annotated(("drug",), (), relations=True)) == {}


def test_links_by_rule_alone_have_no_score_of_modifiers() -> None:
    found = count_modifiers_and_links([GOLD], {"rules": [GOLD]}, STRICT, ANNOTATED, "gold-spans")

    assert {figure: counts.total() for figure, counts in found.items()} == {
        Figure("relations", "gold-spans", "rules"): Counts(tp=3)
    }


@pytest.mark.parametrize(("preset", "right"), [(STRICT, 2), (LENIENT, 3)])
def test_a_link_with_a_shorter_end_is_right_in_the_lenient_way_only(preset, right) -> None:
    shorter = tuple(
        Entity.at("T2", "strength", 8, 10) if e.id == "T2" else e for e in GOLD.entities
    )
    predicted = GOLD.with_entities(shorter, GOLD.relations)

    found = count_modifiers_and_links([GOLD], {"model": [predicted]}, preset, ANNOTATED, "gold")

    wrong = 3 - right
    assert {figure.task: counts.total() for figure, counts in found.items()} == dict.fromkeys(
        ("modifiers", "relations"), Counts(right, wrong, wrong)
    )


def test_counts_are_kept_by_label_and_by_pair() -> None:
    found = count_modifiers_and_links([GOLD], {"model": [GOLD]}, STRICT, ANNOTATED, "predicted")

    assert found[MODIFIERS].labels == ANNOTATED.modifiers
    assert found[LINKS].labels == ("frequency-drug", "negation-problem", "strength-drug")
