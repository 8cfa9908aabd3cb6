"""A link is right if its name and both ends are, each end by the rule of the preset."""

from __future__ import annotations

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.evaluation.counting import count_links
from fedmedlora.evaluation.items import Link, link_items, links_of
from fedmedlora.evaluation.matching import overlap, overlap_and_label, same_offsets_and_label
from fedmedlora.evaluation.presets import LENIENT, PRESETS, STRICT, Preset
from fedmedlora.evaluation.scores import Counts

DOSE = Entity.at("T1", "dosage", 0, 5)
DRUG = Entity.at("T2", "drug", 10, 17)
OTHER_DRUG = Entity.at("T3", "drug", 30, 37)
GOLD = [Link("modifies", DOSE, DRUG)]


def num_right(rule: object, gold: list[Link], predicted: list[Link]) -> int:
    return len(rule(link_items(gold), link_items(predicted)).right)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("predicted", "strict", "lenient", "blind"),
    [
        pytest.param([Link("modifies", DOSE, DRUG)], 1, 1, 1, id="right"),
        pytest.param(
            [Link("modifies", Entity.at("T1", "dosage", 0, 3), DRUG)], 0, 1, 1, id="modifier short"
        ),
        pytest.param(
            [Link("modifies", DOSE, Entity.at("T2", "test", 10, 17))], 0, 0, 1, id="other label"
        ),
        pytest.param([Link("modifies", DRUG, DOSE)], 0, 0, 0, id="ends swapped"),
        pytest.param([Link("modifies", DOSE, OTHER_DRUG)], 0, 0, 0, id="wrong drug"),
        pytest.param([Link("causes", DOSE, DRUG)], 0, 0, 0, id="other name"),
        pytest.param([], 0, 0, 0, id="nothing"),
    ],
)
def test_what_each_rule_forgives_in_a_link(
    predicted: list[Link], strict: int, lenient: int, blind: int
) -> None:
    assert num_right(same_offsets_and_label, GOLD, predicted) == strict
    assert num_right(overlap_and_label, GOLD, predicted) == lenient
    assert num_right(overlap, GOLD, predicted) == blind


def test_a_link_found_twice_is_right_once() -> None:
    assert num_right(same_offsets_and_label, GOLD, GOLD + GOLD) == 1
    assert num_right(overlap_and_label, GOLD, GOLD + GOLD) == 1


def test_lenient_gives_up_a_larger_overlap_for_one_more_right_link() -> None:
    wide = Entity.at("T4", "dosage", 0, 9)
    late = Entity.at("T5", "dosage", 6, 9)
    gold = [Link("modifies", DOSE, DRUG), Link("modifies", late, DRUG)]
    predicted = [
        Link("modifies", wide, DRUG),
        Link("modifies", Entity.at("T6", "dosage", 0, 4), DRUG),
    ]

    # Characters 0 to 5 overlap the wide one most, but only it can also be the late one.
    pairs = overlap_and_label(link_items(gold), link_items(predicted)).right
    assert pairs == [(0, 1), (1, 0)]


def test_links_with_an_end_that_is_not_scored_are_left_out() -> None:
    document = Document("d", "x" * 40, (DOSE, DRUG), (Relation("R1", "modifies", "T1", "T2"),))

    assert [link.pair for link in links_of(document, {"dosage", "drug"})] == ["dosage-drug"]
    assert links_of(document, {"drug"}) == []
    assert links_of(document, {"dosage", "drug"}, names=()) == []


def note(entities: list[Entity], links: list[tuple[str, str]]) -> Document:
    relations = tuple(Relation(f"R{i}", "modifies", *link) for i, link in enumerate(links))
    return Document("d", "x" * 40, tuple(entities), relations)


GOLD_NOTE = note([DOSE, DRUG, OTHER_DRUG], [("T1", "T2"), ("T1", "T3")])


def given_mentions(predicted: Document, preset: Preset) -> Counts:
    labels = ("dosage", "drug")
    counts = count_links([(GOLD_NOTE, predicted)], preset, labels, given_mentions=True)
    return counts.total()


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_on_gold_mentions_linking_alone_and_end_to_end_are_the_same(preset: Preset) -> None:
    predicted = note([DOSE, DRUG, OTHER_DRUG], [("T1", "T2"), ("T2", "T3")])

    end_to_end = count_links([(GOLD_NOTE, predicted)], preset, ("dosage", "drug")).total()

    assert given_mentions(predicted, preset) == end_to_end == Counts(tp=1, fp=1, fn=1)


def test_a_mention_that_was_not_found_is_no_fault_of_the_linking() -> None:
    predicted = note([DOSE, DRUG], [("T1", "T2")])

    assert given_mentions(predicted, STRICT) == Counts(tp=1)


def test_a_mention_that_is_not_there_is_no_fault_of_the_linking() -> None:
    made_up = Entity.at("T9", "drug", 20, 25)
    predicted = note([DOSE, DRUG, OTHER_DRUG, made_up], [("T1", "T2"), ("T1", "T9")])

    assert given_mentions(predicted, STRICT) == Counts(tp=1, fn=1)


def test_whether_a_short_mention_was_found_is_for_the_preset_to_say() -> None:
    short = Entity.at("T1", "dosage", 0, 3)
    predicted = note([short, DRUG], [("T1", "T2")])

    assert given_mentions(predicted, STRICT) == Counts()
    assert given_mentions(predicted, LENIENT) == Counts(tp=1)
