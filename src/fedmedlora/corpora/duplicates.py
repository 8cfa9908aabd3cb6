"""Notes of different corpora that are nearly the same, found exactly and in a fixed order.

Two notes are compared by their shingles, the runs of three words in them: their similarity is the
share of shingles that both have (Jaccard). Only pairs that can reach the threshold are compared:
two sets that are that similar share one of their rarest shingles.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.corpora.open_corpus import Corpus

THRESHOLD = 0.8
MIN_WORDS = 8
_SHINGLE_WORDS = 3
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
    shingles: list[int]


def near_duplicates(
    corpora: Sequence[Corpus], *, threshold: float = THRESHOLD, min_words: int = MIN_WORDS
) -> list[NearDuplicate]:
    """Pairs of notes from different corpora, the most similar first.

    Notes with fewer words than `min_words` are not compared: headings and stock phrases are the
    same everywhere. A short note inside a long one is not found.

    Args:
        corpora: At least two, or there is nothing to compare.
        threshold: The lowest similarity to report, above 0, at most 1.
        min_words: The fewest words that a note needs.
    """
    notes = _notes(corpora, min_words)
    holders: dict[int, list[list[int]]] = defaultdict(lambda: [[] for _ in corpora])
    found: list[NearDuplicate] = []
    for index, note in enumerate(notes):
        size = len(note.shingles)
        candidates: set[int] = set()
        num_needed = ceil(threshold * size - _ROUNDING)
        for shingle in note.shingles[: size - num_needed + 1]:
            for corpus, indices in enumerate(holders[shingle]):
                if corpus != note.corpus:
                    candidates.update(indices)
            holders[shingle][note.corpus].append(index)
        for other in sorted(candidates):
            similarity = _jaccard(notes[other].shingles, note.shingles)
            if similarity >= threshold:
                found.append(_pair(corpora, notes[other], note, similarity))
    return sorted(found, key=lambda p: (-p.similarity, p.first, p.first_id, p.second, p.second_id))


def _notes(corpora: Sequence[Corpus], min_words: int) -> list[_Note]:
    hashed: list[tuple[int, str, set[tuple[str, ...]]]] = []
    for number, corpus in enumerate(corpora):
        for document in corpus.documents:
            words = _WORD.findall(document.text.lower())
            if len(words) >= max(min_words, _SHINGLE_WORDS):
                runs = (words[start:] for start in range(_SHINGLE_WORDS))
                hashed.append((number, document.id, set(zip(*runs, strict=False))))
    frequency = Counter(shingle for _, _, shingles in hashed for shingle in shingles)
    ordered = sorted(frequency, key=lambda shingle: (frequency[shingle], shingle))
    rank = {shingle: number for number, shingle in enumerate(ordered)}
    return [
        _Note(number, identity, sorted(rank[shingle] for shingle in shingles))
        for number, identity, shingles in hashed
    ]


def _jaccard(first: list[int], second: list[int]) -> float:
    shared = len(set(first).intersection(second))
    return shared / (len(first) + len(second) - shared)


def _pair(
    corpora: Sequence[Corpus], first: _Note, second: _Note, similarity: float
) -> NearDuplicate:
    return NearDuplicate(
        corpora[first.corpus].name, first.id, corpora[second.corpus].name, second.id, similarity
    )
