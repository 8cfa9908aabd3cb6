"""Counts are kept by document and label; ratios are derived from sums of counts, once.

A ratio without a denominator (nothing predicted, or nothing there to find) is 0. The macro F1 is
the plain mean over the labels that occur in gold or predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.evaluation.intervals import NUM_DRAWS, Estimate, estimate_f1

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, false positives and false negatives."""

    tp: int = 0
    fp: int = 0
    fn: int = 0

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

    def to_json(self) -> dict[str, int | float]:
        """Counts and ratios under their contract names."""
        ratios = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {"tp": self.tp, "fp": self.fp, "fn": self.fn, **ratios}


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


@dataclass(frozen=True, slots=True)
class Scores:
    """What one block of a result says: the total, the interval of its F1, and each label.

    `labels` are entity labels or, for relations, pairs such as `dosage-drug`.
    """

    micro: Counts
    f1_ci95: tuple[float, float]
    labels: Mapping[str, Counts]

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that occur in gold or predictions; 0 where none does."""
        occurring = [counts.f1 for counts in self.labels.values() if counts != Counts()]
        return sum(occurring) / len(occurring) if occurring else 0.0


@dataclass(frozen=True, slots=True)
class DocumentCounts:
    """Counts of every document by label, for a fixed list of documents.

    Attributes:
        document_ids: The documents, in the gold order.
        by_label: One mapping a document. A label that is missing there has no counts.
        scored_labels: Labels that are reported even where they have no counts.
    """

    document_ids: tuple[str, ...]
    by_label: tuple[Mapping[str, Counts], ...]
    scored_labels: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The scored labels, then any other that has counts, in alphabetical order."""
        others = {label for counts in self.by_label for label in counts}
        return (*self.scored_labels, *sorted(others - set(self.scored_labels)))

    def total(self) -> Counts:
        """The sum over all documents and labels."""
        return sum((c for counts in self.by_label for c in counts.values()), Counts())

    def matrix(self) -> NDArray[np.int64]:
        """tp, fp, fn of each document over all labels, `(num_documents, 3)`, for the bootstrap."""
        rows = [sum(counts.values(), Counts()) for counts in self.by_label]
        return np.array([(c.tp, c.fp, c.fn) for c in rows], dtype=np.int64).reshape(len(rows), 3)

    def only(self, labels: Sequence[str]) -> DocumentCounts:
        """The same documents with the counts of these labels, in this order."""
        wanted = set(labels)
        kept = tuple({k: c for k, c in counts.items() if k in wanted} for counts in self.by_label)
        return DocumentCounts(self.document_ids, kept, tuple(labels))

    def estimate(self, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Estimate:
        """Micro F1 with its bootstrap draws, for intervals and paired differences."""
        return estimate_f1(self.matrix(), num_draws=num_draws, seed=seed)

    def scores(self, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Scores:
        """Micro and by-label scores with the interval of the micro F1."""
        return Scores(
            micro=self.total(),
            f1_ci95=self.estimate(num_draws=num_draws, seed=seed).ci95,
            labels={label: self.only([label]).total() for label in self.labels},
        )
