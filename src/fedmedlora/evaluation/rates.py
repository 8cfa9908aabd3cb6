"""What went wrong before anything could be scored: answers that are in no note, broken, or cut off.

Extractors record it in the metadata of a predicted document. All keys are optional.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedmedlora.core.answer_counts import NUM_TRUNCATED, NUM_UNPARSABLE, NUM_WINDOWS, UNALIGNED
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fedmedlora.core.document import Document


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of a prediction set; `None` where no document says what is needed.

    Attributes:
        num_unaligned: Mentions that could not be placed in their note, over all labels.
        hallucination: Of all predicted mentions, placed or not, the share that could not be placed.
        parse_failure: Of all answers, the share that could not be read.
        truncation: Of all answers, the share that was cut off.
    """

    num_unaligned: int
    hallucination: float
    parse_failure: float | None
    truncation: float | None

    def to_json(self) -> dict[str, float | None]:
        """The rates under their contract names."""
        return {
            "unaligned_predictions": self.num_unaligned,
            "hallucination_rate": self.hallucination,
            "parse_failure_rate": self.parse_failure,
            "truncation_rate": self.truncation,
        }


def unaligned(predicted: Document) -> Mapping[str, int]:
    """Answers that could not be placed in the note, by label, as the extractor recorded them.

    Raises:
        CorpusError: What is recorded is no whole number by label.
    """
    recorded: Any = predicted.metadata.get(UNALIGNED, {})
    if isinstance(recorded, dict) and all(type(n) is int and n >= 0 for n in recorded.values()):
        return {label: num for label, num in recorded.items() if num}
    raise CorpusError(
        f"predicted document {shown(predicted.id)}: metadata {UNALIGNED}: expected whole numbers "
        'by label, such as {"drug": 2}. Otherwise these answers would not count as false.'
    )


def rates_of(predicted: Iterable[Document]) -> Rates:
    """The rates over all predicted documents.

    Raises:
        CorpusError: A count in the metadata is no whole number, counts are not given by label
            where they should be, or more answers went wrong than there were.
    """
    tally = RateTally()
    for document in predicted:
        tally.add(document)
    return tally.rates()


class RateTally:
    """What the rates are made of, as documents come in."""

    def __init__(self) -> None:
        self._num_unaligned = self._num_placed = 0
        self._parse_failure, self._truncation = _Share(NUM_UNPARSABLE), _Share(NUM_TRUNCATED)

    def add(self, predicted: Document) -> None:
        """Count one predicted document.

        Raises:
            CorpusError: See `rates_of`.
        """
        self._num_unaligned += sum(unaligned(predicted).values())
        self._num_placed += len(predicted.entities)
        self._parse_failure.add(predicted)
        self._truncation.add(predicted)

    def rates(self) -> Rates:
        """The rates over all documents so far."""
        num_all = self._num_unaligned + self._num_placed
        return Rates(
            self._num_unaligned,
            hallucination=self._num_unaligned / num_all if num_all else 0.0,
            parse_failure=self._parse_failure.value,
            truncation=self._truncation.value,
        )


class _Share:
    """Of the answers of the documents that state both counts, the share counted under `key`."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._num_windows = self._num_wrong = 0

    def add(self, document: Document) -> None:
        if NUM_WINDOWS in document.metadata and self._key in document.metadata:
            windows = _count(document, NUM_WINDOWS, None)
            self._num_windows += windows
            self._num_wrong += _count(document, self._key, windows)

    @property
    def value(self) -> float | None:
        return self._num_wrong / self._num_windows if self._num_windows else None


def _count(document: Document, key: str, most: int | None) -> int:
    value: Any = document.metadata[key]
    if type(value) is int and value >= 0 and (most is None or value <= most):
        return value
    upper = "" if most is None else f" and at most {NUM_WINDOWS}, {most}"
    raise CorpusError(
        f"predicted document {shown(document.id)}: metadata {key}: expected a whole number, "
        f"at least 0{upper}. Leave the key out where it is not known."
    )
