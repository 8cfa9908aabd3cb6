"""Counts are kept by document and label; ratios are derived from sums of counts, once.

A ratio without a denominator (nothing predicted, or nothing there to find) is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.evaluation.intervals import NUM_DRAWS, Estimate, bootstrap_f1, estimate_f1, interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


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
    the same keys.
    """

    micro: Counts
    f1_ci95: tuple[float, float]
    macro_f1: float
    labels: Mapping[str, Counts]
    labels_f1_ci95: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class DocumentCounts:
    """Counts of every document by label, for a fixed list of documents.

    Attributes:
        document_ids: The documents, in the gold order.
        by_label: One mapping a document. A label that is missing there has no counts.
        scored_labels: Labels that are reported even where they have no counts.
        macro_over_documents: The macro F1 is the mean over all documents, those without any mention
            included with 0; else it is the mean over the labels that occur in gold or predictions.
    """

    document_ids: tuple[str, ...]
    by_label: tuple[Mapping[str, Counts], ...]
    scored_labels: tuple[str, ...] = ()
    macro_over_documents: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """The scored labels, then any other that has counts, in alphabetical order."""
        others = {label for counts in self.by_label for label in counts}
        return (*self.scored_labels, *sorted(others - set(self.scored_labels)))

    @property
    def macro_f1(self) -> float:
        """The mean F1 over labels or documents; 0 where none of the labels occurs."""
        if self.macro_over_documents:
            values = [counts.f1 for counts in self._documents()]
        else:
            totals = [self.total_of(label) for label in self.labels]
            values = [counts.f1 for counts in totals if counts != Counts()]
        return sum(values) / len(values) if values else 0.0

    def total(self) -> Counts:
        """The sum over all documents and labels."""
        return sum(self._documents(), Counts())

    def total_of(self, label: str) -> Counts:
        """The sum over all documents for one label."""
        return sum((counts[label] for counts in self.by_label if label in counts), Counts())

    def matrix(self) -> NDArray[np.float64]:
        """tp, fp, fn of each document over all labels, `(num_documents, 3)`, for the bootstrap."""
        total: NDArray[np.float64] = self.matrices()[0]
        return total

    def only(self, labels: Sequence[str]) -> DocumentCounts:
        """The same documents with the counts of these labels, in this order."""
        wanted = set(labels)
        kept = tuple({k: c for k, c in counts.items() if k in wanted} for counts in self.by_label)
        return DocumentCounts(self.document_ids, kept, tuple(labels), self.macro_over_documents)

    def estimate(self, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Estimate:
        """Micro F1 with its bootstrap draws, for intervals and paired differences."""
        return estimate_f1(self.matrix(), num_draws=num_draws, seed=seed)

    def scores(self, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Scores:
        """Micro, macro and by-label scores with intervals."""
        return scores_of([self], num_draws=num_draws, seed=seed)[0]

    def _documents(self) -> list[Counts]:
        return [sum(counts.values(), Counts()) for counts in self.by_label]

    def matrices(self) -> NDArray[np.float64]:
        """`matrix` over all labels, then of each label: `(1 + num_labels, num_documents, 3)`."""
        place = {label: index for index, label in enumerate(self.labels, 1)}
        rows = np.zeros((1 + len(place), len(self.by_label), 3))
        for document, counts in enumerate(self.by_label):
            for label, c in counts.items():
                rows[place[label], document] = c.tp, c.fp, c.fn
        rows[0] = rows.sum(axis=0)
        return rows


def scores_of(
    counts: Sequence[DocumentCounts], *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> list[Scores]:
    """The scores of several figures on the same documents, all from the same draws of them."""
    rows = np.concatenate([each.matrices() for each in counts])
    # Without a hit the F1 of every draw is 0. Most pairs of labels that only a system links are so.
    has_hit = rows[..., 0].sum(axis=1) > 0
    draws = iter(bootstrap_f1(rows[has_hit], num_draws=num_draws, seed=seed))
    intervals = iter([interval(next(draws)) if hit else (0.0, 0.0) for hit in has_hit])
    found = []
    for each in counts:
        own = next(intervals)
        found.append(
            Scores(
                micro=each.total(),
                f1_ci95=own,
                macro_f1=each.macro_f1,
                labels={label: each.total_of(label) for label in each.labels},
                labels_f1_ci95={label: next(intervals) for label in each.labels},
            )
        )
    return found
