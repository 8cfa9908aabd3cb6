"""The best one-to-one assignment in a sparse bipartite graph, by number of pairs or by weight.

Knows nothing about text. The graph is cut into its connected components, which are tiny for real
annotations; each is solved exactly by the Hungarian method in integers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Edge = tuple[int, int]


def best_assignment(weights: Mapping[Edge, int], *, most_pairs: bool = True) -> list[Edge]:
    """Pairs `(left, right)`, sorted: as many as possible, then with the largest total weight.

    `weights` holds the allowed pairs with their weights >= 0. Without `most_pairs` only the total
    weight matters, and all weights must be > 0. Where several assignments are equally good, the
    one returned depends on the numbering of the nodes only.
    """
    chosen: list[Edge] = []
    for edges in _components(sorted(weights)):
        lefts = sorted({left for left, _ in edges})
        rights = sorted({right for _, right in edges})
        if len(lefts) == 1 or len(rights) == 1:
            chosen.append(max(edges, key=lambda edge: weights[edge]))
            continue
        # A pair more is worth more than any weight that it could cost.
        most = max(weights[edge] for edge in edges)
        bonus = 1 + min(len(lefts), len(rights)) * most if most_pairs else 0
        benefit = np.zeros((len(lefts), len(rights)), dtype=np.int64)
        for left, right in edges:
            place = bisect_left(lefts, left), bisect_left(rights, right)
            benefit[place] = bonus + weights[left, right]
        chosen += [(lefts[i], rights[j]) for i, j in _most_beneficial(benefit)]
    return sorted(chosen)


def _components(edges: Sequence[Edge]) -> Iterator[list[Edge]]:
    of_left: defaultdict[int, list[Edge]] = defaultdict(list)
    of_right: defaultdict[int, list[Edge]] = defaultdict(list)
    for edge in edges:
        of_left[edge[0]].append(edge)
        of_right[edge[1]].append(edge)
    seen_left: set[int] = set()
    for first in of_left:
        if first in seen_left:
            continue
        seen_left.add(first)
        waiting, found, seen_right = [first], list[Edge](), set[int]()
        while waiting:
            here = of_left[waiting.pop()]
            found += here
            for right in {right for _, right in here} - seen_right:
                seen_right.add(right)
                fresh = {left for left, _ in of_right[right]} - seen_left
                seen_left |= fresh
                waiting += fresh
        yield sorted(found)


def _most_beneficial(benefit: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The cells of an assignment of most total benefit, without those of benefit 0."""
    if benefit.shape[0] > benefit.shape[1]:
        return [(i, j) for j, i in _most_beneficial(benefit.T)]
    return [(i, j) for i, j in enumerate(_hungarian(-benefit)) if benefit[i, j] > 0]


def _hungarian(cost: NDArray[np.int64]) -> list[int]:
    """The column of each row in an assignment of least total cost; needs rows <= columns.

    Shortest augmenting paths with potentials, one row at a time. Index 0 of the column arrays is a
    virtual column that holds the row being placed.
    """
    num_rows, num_columns = cost.shape
    infinity = np.iinfo(np.int64).max // 4
    row_potential = np.zeros(num_rows, dtype=np.int64)
    column_potential = np.zeros(num_columns + 1, dtype=np.int64)
    row_of = np.full(num_columns + 1, -1, dtype=np.int64)
    for row in range(num_rows):
        row_of[0] = row
        slack = np.full(num_columns + 1, infinity, dtype=np.int64)
        came_from = np.zeros(num_columns + 1, dtype=np.int64)
        done = np.zeros(num_columns + 1, dtype=np.bool_)
        column = 0
        while row_of[column] >= 0:
            done[column] = True
            here = row_of[column]
            reduced = cost[here] - row_potential[here] - column_potential[1:]
            better = 1 + np.flatnonzero(~done[1:] & (reduced < slack[1:]))
            slack[better] = reduced[better - 1]
            came_from[better] = column
            column = 1 + int(np.argmin(np.where(done[1:], infinity, slack[1:])))
            step = slack[column]
            row_potential[row_of[done]] += step
            column_potential[done] -= step
            slack[~done] -= step
        while column:
            before = int(came_from[column])
            row_of[column] = row_of[before]
            column = before
    columns = [0] * num_rows
    for column in range(1, num_columns + 1):
        if row_of[column] >= 0:
            columns[row_of[column]] = column - 1
    return columns
