"""Counts are summed; ratios are derived from sums of counts, once.

A ratio without a denominator (nothing predicted, or nothing there to find) is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmedlora.evaluation.intervals import MIN_DOCUMENTS, NUM_DRAWS, f1_intervals, sums_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedmedlora.evaluation.document_counts import DocumentCounts
    from fedmedlora.evaluation.intervals import Interval


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, false positives and false negatives; halves where a rule gives half."""

    tp: float = 0
    fp: float = 0
    fn: float = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Share of the predictions that is right."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the gold that was found."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    def to_json(self) -> dict[str, float]:
        """Counts and ratios under their contract names."""
        ratios = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {"tp": self.tp, "fp": self.fp, "fn": self.fn, **ratios}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """What one figure of a result says: the total, each label, and intervals of their F1.

    `labels` are entity labels or, for relations, pairs such as `dosage-drug`; `labels_f1_ci95` has
    the same keys. An interval is None where there are too few documents for one.
    """

    micro: Counts
    f1_ci95: Interval | None
    macro_f1: float
    labels: Mapping[str, Counts]
    labels_f1_ci95: Mapping[str, Interval | None]


def scores_of(
    counts: Sequence[DocumentCounts], *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> list[Scores]:
    """The scores of several figures on the same documents, all from the same draws of them."""
    intervals = iter(_intervals(counts, num_draws, seed))
    found = []
    for each in counts:
        own = next(intervals)
        found.append(
            Scores(
                micro=each.total(),
                f1_ci95=own,
                macro_f1=each.macro_f1,
                labels=each.totals(),
                labels_f1_ci95={label: next(intervals) for label in each.labels},
            )
        )
    return found


def _intervals(
    counts: Sequence[DocumentCounts], num_draws: int, seed: int
) -> list[Interval | None]:
    """Of each figure the interval over all labels, then that of each label."""
    matrices = [each.matrix() for each in counts]
    num_documents = len(matrices[0])
    hits = [
        n for each in counts for n in (each.total().tp, *(c.tp for c in each.totals().values()))
    ]
    if num_documents < MIN_DOCUMENTS:
        return [None] * len(hits)
    # Without a hit the F1 of every draw is 0. Most pairs of labels that only a system links are so.
    kind = sums_type(np.concatenate(matrices))
    columns = np.zeros((num_documents, 2 * sum(n > 0 for n in hits)), kind)
    places = iter(range(0, columns.shape[1], 2))
    for each, matrix in zip(counts, matrices, strict=True):
        if each.total().tp:
            _fill(columns, next(places), slice(None), matrix)
        for label, total in each.totals().items():
            if total.tp:
                _fill(columns, next(places), *each.rows_of(label))
    known = iter(f1_intervals(columns, num_draws=num_draws, seed=seed))
    return [next(known) if n else (0.0, 0.0) for n in hits]


def _fill(
    columns: NDArray[Any], place: int, documents: slice | NDArray[np.int32], rows: NDArray[Any]
) -> None:
    """Set hits and errors of these documents, from rows of tp, fp, fn."""
    columns[documents, place] = rows[:, 0]
    columns[documents, place + 1] = rows[:, 1] + rows[:, 2]
