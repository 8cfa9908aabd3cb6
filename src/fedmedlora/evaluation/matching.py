"""Which predicted items are right: the one-to-one rules, in one document.

A rule takes gold and predicted items and pairs them. An item is in at most one pair, so a
duplicate of a right prediction is a false positive. What a rule counts does not depend on the
order of the lists.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from fedmedlora.evaluation.assignment import best_assignment
from fedmedlora.evaluation.items import Item

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from fedmedlora.evaluation.items import End

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Matched:
    """What a rule found, as indices `(gold, predicted)`.

    Attributes:
        right: Pairs that count in full.
        half_right: Pairs that count half.
        ignored: Predicted items that count neither as right nor as wrong.
    """

    right: Sequence[Pair] = ()
    half_right: Sequence[Pair] = ()
    ignored: frozenset[int] = frozenset()


Rule = Callable[[Sequence[Item], Sequence[Item]], Matched]


def same_offsets_and_label(gold: Sequence[Item], predicted: Sequence[Item]) -> Matched:
    """Equal label and equal offsets; all fragments of a discontinuous mention count."""
    return Matched(_pairs_of_equals(gold, predicted))


def overlap_and_label(gold: Sequence[Item], predicted: Sequence[Item]) -> Matched:
    """Equal label and a shared character at every end: most pairs, then largest total overlap."""
    shared = shared_characters(gold, predicted)
    same = {(g, p): n for (g, p), n in shared.items() if gold[g].label == predicted[p].label}
    return Matched(assign(gold, predicted, same))


def same_offsets(gold: Sequence[Item], predicted: Sequence[Item]) -> Matched:
    """Equal offsets, whatever the label; pairs of one label come first."""
    where: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, item in enumerate(gold):
        where[item.name, item.ends].append(index)
    equal = {
        (g, p): int(gold[g].label == item.label)
        for p, item in enumerate(predicted)
        for g in where.get((item.name, item.ends), ())
    }
    return Matched(assign(gold, predicted, equal))


def overlap(gold: Sequence[Item], predicted: Sequence[Item]) -> Matched:
    """A shared character at every end, whatever the label: most pairs, then largest overlap."""
    return Matched(assign(gold, predicted, shared_characters(gold, predicted)))


def assign(
    gold: Sequence[Item],
    predicted: Sequence[Item],
    weights: Mapping[Pair, int],
    *,
    most_pairs: bool = True,
) -> list[Pair]:
    """The best one-to-one pairs out of those with a weight; see `best_assignment`.

    Which one of several equally good assignments is taken depends on what the items are, not on
    their order: under rules that are blind to labels it decides which label a pair counts for.
    """
    if len({g for g, _ in weights}) == len(weights) == len({p for _, p in weights}):
        return sorted(weights)  # no item has a choice, as in most documents
    rank_gold, rank_predicted = _ranks(gold), _ranks(predicted)
    of_gold = {rank: index for index, rank in enumerate(rank_gold)}
    of_predicted = {rank: index for index, rank in enumerate(rank_predicted)}
    ranked = {(rank_gold[g], rank_predicted[p]): weight for (g, p), weight in weights.items()}
    chosen = best_assignment(ranked, most_pairs=most_pairs)
    return sorted((of_gold[g], of_predicted[p]) for g, p in chosen)


def shared_characters(gold: Sequence[Item], predicted: Sequence[Item]) -> dict[Pair, int]:
    """How many characters two items share, over all ends, for pairs that share some at each end.

    Items with different names share nothing. The characters of a discontinuous mention are those
    of its fragments, not of the gaps.
    """
    if not gold or not predicted:
        return {}
    by_end = [
        _shared_at_one_end([g.ends[end] for g in gold], [p.ends[end] for p in predicted])
        for end in range(len(gold[0].ends))
    ]
    return {
        (g, p): sum(shared[g, p] for shared in by_end)
        for g, p in by_end[0]
        if all((g, p) in shared for shared in by_end) and gold[g].name == predicted[p].name
    }


def _pairs_of_equals(gold: Sequence[Item], predicted: Sequence[Item]) -> list[Pair]:
    only = {item: index for index, item in enumerate(gold)}
    if len(only) == len(gold):  # nothing is there twice, as nearly always
        found = ((only.pop(item, None), index) for index, item in enumerate(predicted))
        return sorted((g, p) for g, p in found if g is not None)
    waiting: defaultdict[Item, list[int]] = defaultdict(list)
    for index, item in enumerate(gold):
        waiting[item].append(index)
    pairs = []
    for index, item in enumerate(predicted):
        if same := waiting.get(item):
            pairs.append((same.pop(0), index))
    return sorted(pairs)


def _ranks(items: Sequence[Item]) -> list[int]:
    """The place of each item in a fixed order of items."""
    ranks = [0] * len(items)
    order = sorted(range(len(items)), key=lambda i: (items[i].label, items[i].ends, items[i].name))
    for rank, index in enumerate(order):
        ranks[index] = rank
    return ranks


def _shared_at_one_end(gold: Sequence[End], predicted: Sequence[End]) -> dict[Pair, int]:
    pieces = sorted((*span, index) for index, spans in enumerate(predicted) for span in spans)
    starts = [start for start, _, _ in pieces]
    furthest = list(accumulate((end for _, end, _ in pieces), max))
    shared: defaultdict[Pair, int] = defaultdict(int)
    for index, spans in enumerate(gold):
        for own_start, own_end in spans:
            at = bisect_left(starts, own_end) - 1
            while at >= 0 and furthest[at] > own_start:
                start, end, other = pieces[at]
                num = min(end, own_end) - max(start, own_start)
                if num > 0:
                    shared[index, other] += num
                at -= 1
    return dict(shared)
