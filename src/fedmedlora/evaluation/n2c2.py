"""The counting of the n2c2 2018 medication task, surplus rule included.

Its scorer does not pair one to one. Predicted items are taken in file order; one that touches a
gold item which an earlier one has touched is deleted: it is neither right nor wrong, even where it
also touches a gold item of its own, which is then used up. A discontinuous mention counts as one
stretch from its first to its last character.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from fedmedlora.evaluation.items import without_gaps
from fedmedlora.evaluation.matching import Matched, Pair, shared_characters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fedmedlora.evaluation.items import Item


def n2c2_lenient(gold: Sequence[Item], predicted: Sequence[Item]) -> Matched:
    """Equal label and overlapping stretches at every end."""
    return _count(_touching(gold, predicted))


def n2c2_strict(gold: Sequence[Item], predicted: Sequence[Item]) -> Matched:
    """Equal label and equal stretches at every end."""
    stretches_gold, stretches_predicted = without_gaps(gold), without_gaps(predicted)
    return _count(
        (g, p) for g, p in _touching(gold, predicted) if stretches_gold[g] == stretches_predicted[p]
    )


def _touching(gold: Sequence[Item], predicted: Sequence[Item]) -> list[Pair]:
    shared = shared_characters(without_gaps(gold), without_gaps(predicted))
    return [(g, p) for g, p in shared if gold[g].label == predicted[p].label]


def _count(touching: Iterable[Pair]) -> Matched:
    hits: defaultdict[int, list[int]] = defaultdict(list)
    for g, p in touching:
        hits[p].append(g)
    used: set[int] = set()
    right: list[Pair] = []
    ignored: set[int] = set()
    for p in sorted(hits):
        if used.intersection(hits[p]):
            ignored.add(p)
        else:
            right.append((min(hits[p]), p))
        used.update(hits[p])
    return Matched(right, ignored=frozenset(ignored))
