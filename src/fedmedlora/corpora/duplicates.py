"""Notes of different corpora that are nearly the same, found exactly and in a fixed order.

Two notes are compared by their shingles, the runs of three words in them: their similarity is the
share of shingles that both have (Jaccard). Only pairs that can reach the threshold are compared:
two sets that are that similar share one of their rarest shingles.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmedlora.core.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedmedlora.corpora.open_corpus import NamedNotes

THRESHOLD = 0.8
MIN_WORDS = 8
_SHINGLE_WORDS = 3
_WORD_BITS = 21  # three fit into a number of 64 bits
_ROUNDING = 1e-9
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two notes of different corpora, and the share of shingles that both have."""

    first: str
    first_id: str
    second: str
    second_id: str
    similarity: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self) | {"similarity": round(self.similarity, 4)}


@dataclass(frozen=True, slots=True)
class _Note:
    """One note's shingles as numbers: the rarest shingle of all notes has the lowest."""

    corpus: int
    id: str
    shingles: NDArray[np.int32]


def near_duplicates(
    corpora: Sequence[NamedNotes], *, threshold: float = THRESHOLD, min_words: int = MIN_WORDS
) -> list[NearDuplicate]:
    """Pairs of notes from different corpora, the most similar first.

    Notes with fewer words than `min_words` are not compared: headings and stock phrases are the
    same everywhere. A short note inside a long one is not found. Of the notes nothing is kept but
    the numbers of their shingles.

    Args:
        corpora: At least two, or there is nothing to compare.
        threshold: The lowest similarity to report, above 0, at most 1.
        min_words: The fewest words that a note needs.

    Raises:
        CorpusError: There are more different words than can be told apart.
    """
    if len(corpora) < 2:  # not even read
        return []
    notes, num_single = _notes(corpora, min_words)
    holders: dict[tuple[int, int], list[int]] = defaultdict(list)
    found: list[NearDuplicate] = []
    for index, note in enumerate(notes):
        size = len(note.shingles)
        candidates: set[int] = set()
        num_needed = ceil(threshold * size - _ROUNDING)
        for shingle in note.shingles[: size - num_needed + 1].tolist():
            if shingle < num_single:  # no other note has it
                continue
            for corpus in range(len(corpora)):
                if corpus != note.corpus:
                    candidates.update(holders.get((shingle, corpus), ()))
            holders[shingle, note.corpus].append(index)
        for other in sorted(candidates):
            similarity = _jaccard(notes[other].shingles, note.shingles)
            if similarity >= threshold:
                found.append(_pair(corpora, notes[other], note, similarity))
    return sorted(found, key=lambda p: (-p.similarity, p.first, p.first_id, p.second, p.second_id))


def _notes(corpora: Sequence[NamedNotes], min_words: int) -> tuple[list[_Note], int]:
    """The notes to compare, and below which number a shingle is in one note only."""
    words: dict[str, int] = {}
    held: list[tuple[int, str, NDArray[np.int64]]] = []
    for number, corpus in enumerate(corpora):
        for document in corpus.documents:
            found = _WORD.findall(document.text.lower())
            if len(found) >= max(min_words, _SHINGLE_WORDS):
                ids = [words.setdefault(word, len(words)) for word in found]
                held.append((number, document.id, _shingles(ids)))
    if len(words) > 2**_WORD_BITS:
        raise CorpusError(
            f"near duplicates: {len(words):,} different words; expected at most "
            f"{2**_WORD_BITS:,}. Compare fewer corpora at once."
        )
    if not held:
        return [], 0
    known, frequency = np.unique(
        np.concatenate([shingles for *_, shingles in held]), return_counts=True
    )
    rank = np.empty(len(known), np.int32)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(known), dtype=np.int32)
    notes = [
        _Note(number, identity, np.sort(rank[np.searchsorted(known, shingles)]))
        for number, identity, shingles in held
    ]
    return notes, int((frequency == 1).sum())


def _shingles(words: list[int]) -> NDArray[np.int64]:
    """Each run of three words as one number, once."""
    ids = np.array(words, np.int64)
    runs = ids[:-2] << 2 * _WORD_BITS | ids[1:-1] << _WORD_BITS | ids[2:]
    distinct: NDArray[np.int64] = np.unique(runs)
    return distinct


def _jaccard(first: NDArray[np.int32], second: NDArray[np.int32]) -> float:
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def _pair(
    corpora: Sequence[NamedNotes], first: _Note, second: _Note, similarity: float
) -> NearDuplicate:
    return NearDuplicate(
        corpora[first.corpus].name, first.id, corpora[second.corpus].name, second.id, similarity
    )
