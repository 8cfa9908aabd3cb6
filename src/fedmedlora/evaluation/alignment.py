"""Gold and predicted documents brought together by id, while both are being read.

All sides are read in turn, and a document waits only until the others of its id have come. With
predictions in the order of the gold notes, as extractors write them, hardly any does: however many
notes there are, a few are in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.core.errors import CorpusError
from fedmedlora.core.words import counted
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fedmedlora.core.document import Document

    Together = tuple[int, Document, tuple[Document, ...]]

PREDICTED, AGAINST = "predicted", "against"
_MOST_IDS_SHOWN = 5


def align_documents(
    gold: Iterable[Document], predicted: Iterable[Document]
) -> list[tuple[Document, Document]]:
    """Every gold document, in order, with its prediction.

    A gold document without a prediction gets an empty one: all its mentions are missed.

    Raises:
        CorpusError: There is no gold document, an id occurs twice on one side, a predicted
            document is not among the gold ones, or the two texts of an id differ.
    """
    together = sorted(AlignedStream(gold, {PREDICTED: predicted}), key=lambda found: found[0])
    return [(document, of_it) for _, document, (of_it,) in together]


class AlignedStream:
    """Gold documents with those of each side, as soon as all of an id were read.

    One iteration gives `(place, gold, of_each_side)`: the place among the gold documents, which
    need not come in order, and in the order of the sides what each has of it, an empty document
    where it has nothing. What is wrong is raised at the latest at the end. After it, `ids` are
    those of the gold documents in order, and `missing` says how many of them each side lacks.

    Args:
        gold: Documents with what the annotators found.
        sides: By name, the same notes with what a system found.
    """

    def __init__(self, gold: Iterable[Document], sides: Mapping[str, Iterable[Document]]) -> None:
        self._names = ("gold", *sides)
        self._streams = (gold, *sides.values())
        self._ids: tuple[dict[str, int], ...] = ()
        self.missing: dict[str, int] = dict.fromkeys(sides, 0)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the gold documents that were read, in order."""
        return tuple(self._ids[0])

    def __iter__(self) -> Iterator[Together]:
        """Every gold document with those of the sides.

        Raises:
            CorpusError: See `align_documents`.
        """
        self._ids = tuple({} for _ in self._names)
        self.missing = dict.fromkeys(self.missing, 0)
        waiting: dict[str, list[Document | None]] = {}
        differing: dict[str, list[str]] = {name: [] for name in self._names}
        for side, document in self._in_turn():
            known = self._ids[side]
            if document.id in known:
                id = shown(document.id)
                raise CorpusError(f"{self._names[side]}: document id {id} occurs twice.")
            known[document.id] = len(known)
            found = waiting.setdefault(document.id, [None] * len(self._names))
            found[side] = document
            if all(found):
                del waiting[document.id]
                yield from self._complete(found, differing)
        self._refuse(waiting, differing)
        for id in [id for id in self._ids[0] if id in waiting]:
            yield from self._complete(waiting.pop(id), differing)
        self._refuse({}, differing)

    def _in_turn(self) -> Iterator[tuple[int, Document]]:
        """One document of each side after the other, until all have ended."""
        reading = {side: iter(stream) for side, stream in enumerate(self._streams)}
        while reading:
            for side, stream in list(reading.items()):
                document = next(stream, None)
                if document is None:
                    del reading[side]
                else:
                    yield side, document

    def _complete(
        self, found: list[Document | None], differing: Mapping[str, list[str]]
    ) -> Iterator[Together]:
        gold, *others = found
        if gold is None:
            raise TypeError("documents of no gold document are refused before")
        sides = []
        for name, document in zip(self._names[1:], others, strict=True):
            if document is None:
                self.missing[name] += 1
                # The gold metadata is not the extractor's: its counts would be taken for its own.
                document = replace(gold, entities=(), relations=(), metadata={})
            elif document.text != gold.text:
                differing[name].append(gold.id)
            sides.append(document)
        if not any(differing.values()):  # else nothing is scored
            yield self._ids[0][gold.id], gold, tuple(sides)

    def _refuse(
        self, waiting: Mapping[str, list[Document | None]], differing: Mapping[str, list[str]]
    ) -> None:
        if not self._ids[0]:
            raise CorpusError("gold: there is no document to score; expected at least one.")
        for side, name in enumerate(self._names):
            strangers = [id for id, found in waiting.items() if found[0] is None and found[side]]
            if strangers:
                raise CorpusError(
                    f"{name}: {counted(len(strangers), 'document')} not among the gold ones: "
                    f"{_shown(strangers)}. Score predictions against the notes that they were made "
                    "on."
                )
            if differing[name]:
                raise CorpusError(
                    f"{name}: {counted(len(differing[name]), 'document')} with another text than "
                    f"the gold: {_shown(differing[name])}. Offsets can only be compared on the "
                    "same characters."
                )


def _shown(ids: list[str]) -> str:
    more = ", ..." if len(ids) > _MOST_IDS_SHOWN else ""
    return ", ".join(shown(id) for id in ids[:_MOST_IDS_SHOWN]) + more
