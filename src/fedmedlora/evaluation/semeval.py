"""SemEval 2013 task 9.1: part of the credit for part of the characters, and its five categories.

One pairing serves all four schemes of that task: the one-to-one pairing of overlapping items with
the most credit (1 for equal offsets, 1/2 for an overlap), then the most equal labels, then the
largest overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedmedlora.evaluation.matching import Matched, Pair, assign, shared_characters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.evaluation.items import Item

SCHEMES = ("strict", "exact", "partial", "type")
CATEGORIES = ("correct", "incorrect", "partial", "missed", "spurious")


def partly_right(gold: Sequence[Item], predicted: Sequence[Item]) -> Matched:
    """Full credit for equal offsets, half for a shared character, whatever the label."""
    pairs = _pairing(gold, predicted)
    return Matched(
        right=[(g, p) for g, p in pairs if gold[g].ends == predicted[p].ends],
        half_right=[(g, p) for g, p in pairs if gold[g].ends != predicted[p].ends],
    )


def categories(gold: Sequence[Item], predicted: Sequence[Item]) -> dict[str, dict[str, int]]:
    """For each scheme, how many items are in each category.

    `strict` asks a pair for offsets and label, `exact` for offsets, `type` for the label; a pair
    that has not what is asked for is incorrect. `partial` asks for offsets and is content with
    half; it has no incorrect ones.
    """
    tally = {scheme: dict.fromkeys(CATEGORIES, 0) for scheme in SCHEMES}
    pairs = _pairing(gold, predicted)
    for g, p in pairs:
        same_offsets = gold[g].ends == predicted[p].ends
        same_label = gold[g].label == predicted[p].label
        tally["strict"]["correct" if same_offsets and same_label else "incorrect"] += 1
        tally["exact"]["correct" if same_offsets else "incorrect"] += 1
        tally["partial"]["correct" if same_offsets else "partial"] += 1
        tally["type"]["correct" if same_label else "incorrect"] += 1
    for scheme in SCHEMES:
        tally[scheme]["missed"] = len(gold) - len(pairs)
        tally[scheme]["spurious"] = len(predicted) - len(pairs)
    return tally


def _pairing(gold: Sequence[Item], predicted: Sequence[Item]) -> list[Pair]:
    shared = shared_characters(gold, predicted)
    # Credit before labels before characters: each step outweighs all that the next can add up to.
    label_step = 1 + sum(shared.values())
    credit_step = label_step * (1 + min(len(gold), len(predicted)))
    weights = {
        (g, p): num
        + label_step * (gold[g].label == predicted[p].label)
        + credit_step * (2 if gold[g].ends == predicted[p].ends else 1)
        for (g, p), num in shared.items()
    }
    return assign(gold, predicted, weights, most_pairs=False)
