"""A link is right if its name and both ends are."""

from __future__ import annotations

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.evaluation.relations import (
    Link,
    links_of,
    match_links_lenient,
    match_links_strict,
)

DOSE = Entity.at("T1", "dosage", 0, 5)
DRUG = Entity.at("T2", "drug", 10, 17)
OTHER_DRUG = Entity.at("T3", "drug", 30, 37)
GOLD = [Link("modifies", DOSE, DRUG)]


@pytest.mark.parametrize(
    ("predicted", "strict", "lenient"),
    [
        pytest.param([Link("modifies", DOSE, DRUG)], 1, 1, id="right"),
        pytest.param(
            [Link("modifies", Entity.at("T1", "dosage", 0, 3), DRUG)], 0, 1, id="modifier short"
        ),
        pytest.param(
            [Link("modifies", DOSE, Entity.at("T2", "treatment", 10, 17))], 0, 0, id="other label"
        ),
        pytest.param([Link("modifies", DRUG, DOSE)], 0, 0, id="ends swapped"),
        pytest.param([Link("modifies", DOSE, OTHER_DRUG)], 0, 0, id="wrong drug"),
        pytest.param([Link("causes", DOSE, DRUG)], 0, 0, id="other name"),
        pytest.param(
            [
                Link("modifies", Entity.at("T1", "dosage", 0, 2), DRUG),
                Link("modifies", Entity.at("T4", "dosage", 2, 5), DRUG),
            ],
            0,
            1,
            id="split modifier",
        ),
        pytest.param([], 0, 0, id="nothing"),
    ],
)
def test_the_worked_examples_of_links(predicted: list[Link], strict: int, lenient: int) -> None:
    assert len(match_links_strict(GOLD, predicted)) == strict
    assert len(match_links_lenient(GOLD, predicted)) == lenient


def test_a_link_found_twice_is_right_once() -> None:
    assert len(match_links_strict(GOLD, GOLD + GOLD)) == 1
    assert len(match_links_lenient(GOLD, GOLD + GOLD)) == 1


def test_lenient_gives_up_a_larger_overlap_for_one_more_right_link() -> None:
    wide = Entity.at("T4", "dosage", 0, 9)
    late = Entity.at("T5", "dosage", 6, 9)
    gold = [Link("modifies", DOSE, DRUG), Link("modifies", late, DRUG)]
    predicted = [
        Link("modifies", wide, DRUG),
        Link("modifies", Entity.at("T6", "dosage", 0, 4), DRUG),
    ]

    # Characters 0 to 5 overlap the wide one most, but only it can also be the late one.
    assert match_links_lenient(gold, predicted) == [(0, 1), (1, 0)]


def test_links_with_an_end_that_is_not_scored_are_left_out() -> None:
    document = Document("d", "x" * 40, (DOSE, DRUG), (Relation("R1", "modifies", "T1", "T2"),))

    assert [link.pair for link in links_of(document, {"dosage", "drug"})] == ["dosage-drug"]
    assert links_of(document, {"drug"}) == []
    assert links_of(document, {"dosage", "drug"}, names=()) == []
