"""Which predicted entities are right: strict and lenient one-to-one matching in one document.

A matcher takes gold and predicted entities and gives index pairs `(gold, predicted)`. An entity is
in at most one pair, so a duplicate of a right prediction is a false positive. How many pairs there
are does not depend on the order of the lists.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

from fedmedlora.evaluation.assignment import best_assignment

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from fedmedlora.core.document import Entity, Span

Pair = tuple[int, int]


def match_strict(gold: Sequence[Entity], predicted: Sequence[Entity]) -> list[Pair]:
    """Pairs with equal label and equal offsets; all fragments of a discontinuous entity count."""
    return pair_equal([(e.label, e.spans) for e in gold], [(e.label, e.spans) for e in predicted])


def match_lenient(gold: Sequence[Entity], predicted: Sequence[Entity]) -> list[Pair]:
    """Pairs with equal label that share a character: most pairs, then largest total overlap.

    The characters of a discontinuous entity are those of its fragments, not of the gaps.
    """
    shared = shared_characters([e.spans for e in gold], [e.spans for e in predicted])
    return best_assignment(
        {(g, p): num for (g, p), num in shared.items() if gold[g].label == predicted[p].label}
    )


def pair_equal(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> list[Pair]:
    """Index pairs of equal keys, each index used once."""
    waiting: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(gold):
        waiting[key].append(index)
    pairs = []
    for index, key in enumerate(predicted):
        if waiting[key]:
            pairs.append((waiting[key].pop(0), index))
    return sorted(pairs)


def shared_characters(
    gold: Sequence[tuple[Span, ...]], predicted: Sequence[tuple[Span, ...]]
) -> dict[Pair, int]:
    """How many characters each gold and predicted item share, for the pairs that share any."""
    pieces = sorted((s.start, s.end, index) for index, spans in enumerate(predicted) for s in spans)
    starts = [start for start, _, _ in pieces]
    furthest = list(accumulate((end for _, end, _ in pieces), max))
    shared: defaultdict[Pair, int] = defaultdict(int)
    for index, spans in enumerate(gold):
        for span in spans:
            at = bisect_left(starts, span.end) - 1
            while at >= 0 and furthest[at] > span.start:
                start, end, other = pieces[at]
                num = min(end, span.end) - max(start, span.start)
                if num > 0:
                    shared[index, other] += num
                at -= 1
    return dict(shared)
