"""The one-to-one rules against brute force and the laws that they must obey."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from fedmedlora.evaluation.items import Item
from fedmedlora.evaluation.matching import (
    Matched,
    Rule,
    overlap,
    overlap_and_label,
    same_offsets,
    same_offsets_and_label,
)
from fedmedlora.evaluation.semeval import categories, partly_right

LABELS = ("problem", "drug", "test")
RULES = [same_offsets_and_label, overlap_and_label, same_offsets, overlap, partly_right]


def at(label: str, *spans: tuple[int, int]) -> Item:
    return Item(label, (spans,))


@st.composite
def mentions(draw: st.DrawFn, max_size: int = 9) -> list[Item]:
    """Mentions that may overlap, nest, repeat and be discontinuous."""
    items = []
    for _ in range(draw(st.integers(0, max_size))):
        cuts = sorted(draw(st.sets(st.integers(0, 24), min_size=2, max_size=4)))
        cuts = cuts[: len(cuts) // 2 * 2]
        spans = zip(cuts[::2], cuts[1::2], strict=True)
        items.append(at(draw(st.sampled_from(LABELS)), *spans))
    return items


def characters(item: Item) -> set[int]:
    return {c for span in item.ends[0] for c in range(*span)}


def shared(gold: Sequence[Item], predicted: Sequence[Item], *, blind: bool = False) -> np.ndarray:
    table = [
        [len(characters(g) & characters(p)) * (blind or g.label == p.label) for p in predicted]
        for g in gold
    ]
    return np.array(table, dtype=float).reshape(len(gold), len(predicted))


def most_benefit(benefit: np.ndarray) -> float:
    rows, columns = linear_sum_assignment(benefit, maximize=True)
    return float(benefit[rows, columns].sum())


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    return random.Random(seed).sample(list(items), len(items))


@pytest.mark.parametrize(("rule", "blind"), [(overlap_and_label, False), (overlap, True)])
@given(mentions(), mentions())
@settings(max_examples=120)
def test_overlaps_are_paired_the_most_times_and_then_by_the_most_characters(
    rule: Rule, blind: bool, gold: list[Item], predicted: list[Item]
) -> None:
    table = shared(gold, predicted, blind=blind)

    pairs = rule(gold, predicted).right

    best = most_benefit(np.where(table > 0, 1000 + table, 0))
    assert sum(1000 + table[g, p] for g, p in pairs) == best


@given(mentions(), mentions())
@settings(max_examples=120)
def test_partial_credit_is_the_most_that_any_pairing_gives(
    gold: list[Item], predicted: list[Item]
) -> None:
    matched = partly_right(gold, predicted)

    equal = np.array([[g.ends == p.ends for p in predicted] for g in gold], dtype=float)
    equal = equal.reshape(len(gold), len(predicted))
    credit = 0.5 * ((shared(gold, predicted, blind=True) > 0) + equal)
    assert len(matched.right) + 0.5 * len(matched.half_right) == most_benefit(credit)
    assert all(gold[g].ends == predicted[p].ends for g, p in matched.right)


@given(mentions(), mentions())
@settings(max_examples=80)
def test_every_pair_is_allowed_and_no_mention_is_used_twice(
    gold: list[Item], predicted: list[Item]
) -> None:
    found = {rule: rule(gold, predicted) for rule in RULES}

    for matched in found.values():
        pairs = [*matched.right, *matched.half_right]
        assert len({g for g, _ in pairs}) == len({p for _, p in pairs}) == len(pairs)
        assert all(characters(gold[g]) & characters(predicted[p]) for g, p in pairs)
    for rule in (same_offsets_and_label, overlap_and_label):
        assert all(gold[g].label == predicted[p].label for g, p in found[rule].right)
    for rule in (same_offsets_and_label, same_offsets):
        assert all(gold[g].ends == predicted[p].ends for g, p in found[rule].right)


@given(mentions(), mentions())
@settings(max_examples=80)
def test_equal_offsets_are_all_found_whatever_the_labels(
    gold: list[Item], predicted: list[Item]
) -> None:
    common = Counter(g.ends for g in gold) & Counter(p.ends for p in predicted)
    common_labels = Counter(gold) & Counter(predicted)

    assert len(same_offsets(gold, predicted).right) == common.total()
    assert len(same_offsets_and_label(gold, predicted).right) == common_labels.total()


def by_label(matched: Matched, gold: Sequence[Item], predicted: Sequence[Item]) -> object:
    """What counting needs: how often which labels were paired, in full and half."""
    return [
        Counter((gold[g].label, predicted[p].label) for g, p in pairs)
        for pairs in (matched.right, matched.half_right)
    ]


@pytest.mark.parametrize("rule", RULES)
@given(mentions(), mentions(), st.integers(0, 99))
@settings(max_examples=80)
def test_the_order_of_the_lists_changes_no_count_of_any_label(
    rule: Rule, gold: list[Item], predicted: list[Item], seed: int
) -> None:
    turned_gold, turned_predicted = shuffled(gold, seed), shuffled(predicted, seed + 1)

    turned = by_label(rule(turned_gold, turned_predicted), turned_gold, turned_predicted)

    assert turned == by_label(rule(gold, predicted), gold, predicted)
    assert categories(turned_gold, turned_predicted) == categories(gold, predicted)


def credit(matched: Matched) -> float:
    return len(matched.right) + 0.5 * len(matched.half_right)


@given(mentions(), mentions())
@settings(max_examples=80)
def test_who_asks_for_less_gives_no_less_and_all_rules_are_symmetric(
    gold: list[Item], predicted: list[Item]
) -> None:
    given_credit = {rule: credit(rule(gold, predicted)) for rule in RULES}

    assert given_credit[same_offsets_and_label] <= given_credit[overlap_and_label]
    assert given_credit[same_offsets_and_label] <= given_credit[same_offsets]
    assert given_credit[same_offsets] <= given_credit[partly_right] <= given_credit[overlap]
    assert given_credit[overlap_and_label] <= given_credit[overlap]
    assert given_credit == {rule: credit(rule(predicted, gold)) for rule in RULES}


@pytest.mark.parametrize("rule", RULES)
def test_a_duplicate_of_a_right_prediction_is_not_right_again(rule: Rule) -> None:
    gold = [at("drug", (0, 7))]

    assert credit(rule(gold, gold + gold)) == 1


def test_a_discontinuous_mention_is_strictly_right_only_with_all_its_fragments() -> None:
    gold = [at("problem", (0, 4), (10, 14))]
    cover = [at("problem", (0, 14))]

    assert same_offsets_and_label(gold, gold).right == [(0, 0)]
    assert same_offsets_and_label(gold, cover).right == []
    assert overlap_and_label(gold, cover).right == [(0, 0)]


def test_a_prediction_inside_the_gap_of_a_discontinuous_mention_shares_nothing_with_it() -> None:
    gold = [at("problem", (0, 4), (10, 14))]

    assert overlap_and_label(gold, [at("problem", (5, 9))]).right == []


def test_two_exact_pairs_are_worth_more_than_three_half_right_ones() -> None:
    gold = [at("drug", (0, 3)), at("drug", (2, 6)), at("drug", (5, 9))]
    predicted = [at("drug", (2, 6)), at("drug", (5, 9)), at("drug", (8, 12))]

    # One step aside, each gold mention would have a partner.
    matched = partly_right(gold, predicted)

    assert (matched.right, matched.half_right) == ([(1, 0), (2, 1)], [])
    assert len(overlap(gold, predicted).right) == 3


def test_a_half_right_pair_of_one_label_is_preferred_to_a_larger_overlap() -> None:
    found = categories([at("drug", (0, 4))], [at("test", (0, 3)), at("drug", (2, 4))])

    assert found["type"]["correct"] == 1


def test_a_label_blind_rule_prefers_the_mention_of_the_same_label_at_the_same_place() -> None:
    gold = [at("drug", (0, 7)), at("test", (0, 7))]
    predicted = [at("test", (0, 7))]

    assert same_offsets(gold, predicted).right == [(1, 0)]


@pytest.mark.parametrize("rule", [overlap_and_label, partly_right])
def test_matching_takes_time_as_the_number_of_mentions_grows_not_as_its_square(
    rule: Rule, grows_linearly
) -> None:
    def many(count: int) -> list[Item]:
        rng = random.Random(3 + count)
        starts = [rng.randrange(40 * count) for _ in range(count)]
        return [at("drug", (s, s + rng.randint(2, 60))) for s in starts]

    made = {count: (many(count), many(count)) for count in (125, 1000)}

    def match(count: int) -> None:
        matched = rule(*made[count])
        assert len(matched.right) + len(matched.half_right) > 0.4 * count

    assert grows_linearly(match, 1000)
