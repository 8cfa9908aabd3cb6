"""Counts by document and label, as columns of numbers: an object for each would fill the memory."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from fedmedlora.evaluation.intervals import f1_of
from fedmedlora.evaluation.scores import Counts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


class Tally:
    """Counts as they come in, document by document, in any order."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.places = array("i")
        self.labels = array("i")
        self.values = array("d")

    def add(self, place: int, counts: Mapping[str, Counts]) -> None:
        """Take the counts by label of the document at this place, once for each document."""
        for label, c in counts.items():
            self.places.append(place)
            self.labels.append(self.names.setdefault(label, len(self.names)))
            self.values.extend((c.tp, c.fp, c.fn))


class DocumentCounts:
    """Counts of every document by label, for a fixed list of documents.

    Args:
        document_ids: The documents, in the gold order.
        by_label: One mapping a document, or a tally of all. A label that is missing there has no
            counts.
        scored_labels: Labels that are reported even where they have no counts.
        macro_over_documents: The macro F1 is the mean over all documents, those without any mention
            included with 0; else it is the mean over the labels that occur in gold or predictions.
    """

    def __init__(
        self,
        document_ids: tuple[str, ...],
        by_label: Iterable[Mapping[str, Counts]] | Tally,
        scored_labels: tuple[str, ...] = (),
        macro_over_documents: bool = False,
    ) -> None:
        tally = by_label if isinstance(by_label, Tally) else _tally_of(by_label)
        self.document_ids = document_ids
        self.macro_over_documents = macro_over_documents
        others = sorted(tally.names.keys() - set(scored_labels))
        self.labels = (*scored_labels, *others)
        """The scored labels, then any other that has counts, in alphabetical order."""
        labels = np.array(tally.labels, np.int32)
        order = np.argsort(labels, kind="stable")
        self._documents = np.array(tally.places, np.int32)[order]
        self._values = np.array(tally.values).reshape(-1, 3)[order]
        numbers = np.arange(len(tally.names))
        starts = np.searchsorted(labels[order], numbers, "left")
        ends = np.searchsorted(labels[order], numbers, "right")
        self._rows = {
            name: slice(int(starts[number]), int(ends[number]))
            for name, number in tally.names.items()
        }

    @property
    def macro_f1(self) -> float:
        """The mean F1 over labels or documents; 0 where none of the labels occurs."""
        if self.macro_over_documents:
            values = [float(f1) for f1 in f1_of(self.matrix())]
        else:
            values = [counts.f1 for counts in self.totals().values() if counts != Counts()]
        return sum(values) / len(values) if values else 0.0

    def total(self) -> Counts:
        """The sum over all documents and labels."""
        return _counts(self._values)

    def total_of(self, label: str) -> Counts:
        """The sum over all documents for one label."""
        return _counts(self.rows_of(label)[1])

    def totals(self) -> dict[str, Counts]:
        """The sum over all documents for each label."""
        return {label: self.total_of(label) for label in self.labels}

    def rows_of(self, label: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Where a label has counts: places of documents `(n,)`, and tp, fp, fn there `(n, 3)`."""
        rows = self._rows.get(label, slice(0, 0))
        return self._documents[rows], self._values[rows]

    def matrix(self) -> NDArray[np.float64]:
        """tp, fp, fn of each document over all labels, `(num_documents, 3)`, for the bootstrap."""
        num_documents = len(self.document_ids)
        columns = [
            np.bincount(self._documents, weights=values, minlength=num_documents)
            for values in self._values.T
        ]
        return np.stack(columns, axis=1)


def _tally_of(by_label: Iterable[Mapping[str, Counts]]) -> Tally:
    tally = Tally()
    for place, counts in enumerate(by_label):
        tally.add(place, counts)
    return tally


def _counts(rows: NDArray[np.float64]) -> Counts:
    """The sum of rows of tp, fp, fn; whole numbers as such, halves only where a rule gives them."""
    return Counts(*(int(n) if n.is_integer() else n for n in rows.sum(axis=0).tolist()))
