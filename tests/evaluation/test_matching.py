"""Strict and lenient matching against outside scorers, brute force and the laws they must obey."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator
from scipy.optimize import linear_sum_assignment
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

from fedmedlora.core.document import Entity, Span
from fedmedlora.evaluation.matching import Pair, match_lenient, match_strict

LABELS = ("problem", "drug", "test")


@st.composite
def entity_lists(draw: st.DrawFn, max_size: int = 9) -> list[Entity]:
    """Entities that may overlap, nest, repeat and be discontinuous."""
    entities = []
    for index in range(draw(st.integers(0, max_size))):
        cuts = sorted(draw(st.sets(st.integers(0, 24), min_size=2, max_size=4)))
        cuts = cuts[: len(cuts) // 2 * 2]
        spans = tuple(Span(s, e) for s, e in zip(cuts[::2], cuts[1::2], strict=True))
        entities.append(Entity(f"T{index}", draw(st.sampled_from(LABELS)), spans))
    return entities


def flat_entities(rng: random.Random, num_tokens: int) -> list[Entity]:
    """Entities that do not overlap; token i of the made-up text is the character i."""
    entities, at = [], 0
    while at < num_tokens - 4:
        at += rng.randint(0, 3)
        end = at + rng.randint(1, 3)
        entities.append(Entity.at(f"T{at}", rng.choice(LABELS), at, end))
        at = end
    return entities


def perturbed(rng: random.Random, gold: Sequence[Entity]) -> list[Entity]:
    """The same mentions with misses, shifted starts and other labels, still without overlap."""
    found = []
    for entity in gold:
        start = entity.start + (rng.random() < 0.3 and entity.end - entity.start > 1)
        label = rng.choice(LABELS) if rng.random() < 0.2 else entity.label
        if rng.random() > 0.15:
            found.append(Entity.at(entity.id, label, start, entity.end))
    return found


def tags(entities: Sequence[Entity], num_tokens: int) -> list[str]:
    row = ["O"] * num_tokens
    for entity in entities:
        row[entity.start : entity.end] = [f"I-{entity.label}"] * (entity.end - entity.start)
        row[entity.start] = f"B-{entity.label}"
    return row


def characters(entity: Entity) -> set[int]:
    return {c for span in entity.spans for c in range(span.start, span.end)}


def overlap(a: Entity, b: Entity) -> int:
    return len(characters(a) & characters(b)) if a.label == b.label else 0


def shuffled(items: Sequence[Entity], seed: int) -> list[Entity]:
    return random.Random(seed).sample(list(items), len(items))


@pytest.mark.parametrize("seed", range(12))
def test_strict_counts_equal_seqeval_and_nervaluate_on_flat_annotations(seed: int) -> None:
    rng, num_tokens = random.Random(seed), 120
    gold = flat_entities(rng, num_tokens)
    predicted = perturbed(rng, gold)

    num_right = len(match_strict(gold, predicted))

    precision, recall, _, _ = precision_recall_fscore_support(
        [tags(gold, num_tokens)], [tags(predicted, num_tokens)], scheme=IOB2, average="micro"
    )
    assert 0 < num_right < len(gold)
    assert num_right / len(predicted) == pytest.approx(precision)
    assert num_right / len(gold) == pytest.approx(recall)

    def as_dicts(entities: Sequence[Entity]) -> list[dict[str, object]]:
        # nervaluate's ends are inclusive
        return [{"label": e.label, "start": e.start, "end": e.end - 1} for e in entities]

    result = Evaluator([as_dicts(gold)], [as_dicts(predicted)], tags=list(LABELS), loader="dict")
    assert result.evaluate()["overall"]["strict"].correct == num_right


@given(entity_lists(), entity_lists())
@settings(max_examples=150)
def test_lenient_finds_the_most_pairs_and_then_the_largest_overlap(
    gold: list[Entity], predicted: list[Entity]
) -> None:
    pairs = match_lenient(gold, predicted)

    weights = np.array([[overlap(g, p) for p in predicted] for g in gold], dtype=float)
    weights = weights.reshape(len(gold), len(predicted))
    benefit = np.where(weights > 0, 1000 + weights, 0)
    rows, columns = linear_sum_assignment(benefit, maximize=True)
    best = benefit[rows, columns].sum()
    assert sum(1000 + overlap(gold[g], predicted[p]) for g, p in pairs) == best


@given(entity_lists(), entity_lists())
@settings(max_examples=80)
def test_every_pair_is_allowed_and_no_entity_is_used_twice(
    gold: list[Entity], predicted: list[Entity]
) -> None:
    strict, lenient = match_strict(gold, predicted), match_lenient(gold, predicted)

    for pairs in (strict, lenient):
        assert len({g for g, _ in pairs}) == len({p for _, p in pairs}) == len(pairs)
    assert all(gold[g].label == predicted[p].label for g, p in strict)
    assert all(gold[g].spans == predicted[p].spans for g, p in strict)
    assert all(overlap(gold[g], predicted[p]) > 0 for g, p in lenient)


def by_label(pairs: Sequence[Pair], gold: Sequence[Entity]) -> list[str]:
    return sorted(gold[g].label for g, _ in pairs)


@given(entity_lists(), entity_lists(), st.integers(0, 99))
@settings(max_examples=80)
@pytest.mark.parametrize("match", [match_strict, match_lenient])
def test_the_order_of_the_lists_changes_no_count(
    match: type[match_strict], gold: list[Entity], predicted: list[Entity], seed: int
) -> None:
    turned_gold, turned_predicted = shuffled(gold, seed), shuffled(predicted, seed + 1)

    turned = by_label(match(turned_gold, turned_predicted), turned_gold)

    assert turned == by_label(match(gold, predicted), gold)


@given(entity_lists(), entity_lists())
@settings(max_examples=80)
def test_strict_is_never_above_lenient_and_both_are_symmetric(
    gold: list[Entity], predicted: list[Entity]
) -> None:
    strict, lenient = match_strict(gold, predicted), match_lenient(gold, predicted)

    assert len(strict) <= len(lenient)
    assert len(match_strict(predicted, gold)) == len(strict)
    assert len(match_lenient(predicted, gold)) == len(lenient)


def test_a_duplicate_of_a_right_prediction_is_not_right_again() -> None:
    gold = [Entity.at("T1", "drug", 0, 7)]
    twice = [Entity.at("T1", "drug", 0, 7), Entity.at("T2", "drug", 0, 7)]

    assert len(match_strict(gold, twice)) == 1
    assert len(match_lenient(gold, twice)) == 1


def test_a_discontinuous_mention_is_strictly_right_only_with_all_its_fragments() -> None:
    gold = [Entity("T1", "problem", (Span(0, 4), Span(10, 14)))]
    cover = [Entity.at("T1", "problem", 0, 14)]

    assert match_strict(gold, gold) == [(0, 0)]
    assert match_strict(gold, cover) == []
    assert match_lenient(gold, cover) == [(0, 0)]


def test_a_prediction_inside_the_gap_of_a_discontinuous_mention_shares_nothing_with_it() -> None:
    gold = [Entity("T1", "problem", (Span(0, 4), Span(10, 14)))]

    assert match_lenient(gold, [Entity.at("T1", "problem", 5, 9)]) == []


def test_touching_mentions_share_no_character() -> None:
    assert match_lenient([Entity.at("T1", "drug", 0, 5)], [Entity.at("T1", "drug", 5, 9)]) == []


# The table of worked examples; one character stands for a token.
@pytest.mark.parametrize(
    ("gold", "predicted", "strict", "lenient"),
    [
        pytest.param([("p", 0, 3)], [("p", 1, 3)], 0, 1, id="boundary"),
        pytest.param([("t", 0, 3)], [("d", 0, 3)], 0, 0, id="type"),
        pytest.param([("p", 0, 4)], [("p", 0, 2), ("p", 2, 4)], 0, 1, id="split"),
        pytest.param([("p", 0, 2), ("p", 2, 4)], [("p", 0, 4)], 0, 1, id="merge"),
        pytest.param([("p", 0, 3)], [("t", 0, 1), ("p", 1, 3)], 0, 1, id="type and overlap"),
        pytest.param(
            [("p", 0, 2), ("p", 2, 6)], [("p", 0, 3), ("p", 3, 6)], 0, 2, id="shifted cut"
        ),
    ],
)
def test_the_worked_examples_come_out_as_published(
    gold: list[tuple[str, int, int]],
    predicted: list[tuple[str, int, int]],
    strict: int,
    lenient: int,
) -> None:
    gold_entities = [Entity.at(f"T{i}", *e) for i, e in enumerate(gold)]
    predicted_entities = [Entity.at(f"T{i}", *e) for i, e in enumerate(predicted)]

    assert len(match_strict(gold_entities, predicted_entities)) == strict
    assert len(match_lenient(gold_entities, predicted_entities)) == lenient


def test_a_document_with_500_entities_is_matched_in_a_moment() -> None:
    rng = random.Random(3)

    def many() -> list[Entity]:
        starts = [rng.randrange(20_000) for _ in range(500)]
        return [Entity.at(f"T{i}", "drug", s, s + rng.randint(2, 60)) for i, s in enumerate(starts)]

    gold, predicted = many(), many()
    started = time.process_time()
    pairs = match_lenient(gold, predicted)

    assert len(pairs) > 200
    assert time.process_time() - started < 1.0
