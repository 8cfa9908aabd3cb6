"""What a corpus holds, in counts, and how far the labels of two corpora are apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from itertools import combinations
from math import log2
from typing import TYPE_CHECKING, Any

from fedmedlora.corpora.sentences import sentence_spans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedmedlora.corpora.open_corpus import NamedNotes


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """Counts of one corpus.

    `entities` counts by label; `relations` by pair of labels, `modifier-entity`; both with the most
    frequent first. `annotated_labels` None says that nobody stated them.
    """

    name: str
    num_documents: int
    num_sentences: int
    num_characters: int
    entities: Mapping[str, int]
    relations: Mapping[str, int]
    annotated_labels: tuple[str, ...] | None

    @property
    def num_entities(self) -> int:
        """All entities."""
        return sum(self.entities.values())

    @property
    def num_relations(self) -> int:
        """All relations."""
        return sum(self.relations.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        totals = {"num_entities": self.num_entities, "num_relations": self.num_relations}
        return asdict(self) | totals


def summarize(corpus: NamedNotes) -> CorpusSummary:
    """The counts of a corpus, whose notes are read once and not kept."""
    entities: Counter[str] = Counter()
    relations: Counter[str] = Counter()
    num_documents = num_sentences = num_characters = 0
    for document in corpus.documents:
        num_documents += 1
        num_sentences += len(sentence_spans(document.text))
        num_characters += len(document.text)
        labels = {entity.id: entity.label for entity in document.entities}
        entities.update(labels.values())
        relations.update(f"{labels[r.head]}-{labels[r.tail]}" for r in document.relations)
    annotated = corpus.annotated_labels
    return CorpusSummary(
        corpus.name,
        num_documents,
        num_sentences,
        num_characters,
        dict(entities.most_common()),
        dict(relations.most_common()),
        None if annotated is None else tuple(sorted(annotated)),
    )


def divergence(first: Mapping[str, int], second: Mapping[str, int]) -> float | None:
    """The Jensen-Shannon divergence of two label distributions, 0 to 1 bit.

    None if one of them has no entities, and so no distribution.
    """
    sums = sum(first.values()), sum(second.values())
    if not all(sums):
        return None
    total = 0.0
    for label in sorted(first.keys() | second.keys()):  # the last digits depend on the order
        p, q = first.get(label, 0) / sums[0], second.get(label, 0) / sums[1]
        middle = (p + q) / 2
        total += sum(share * log2(share / middle) / 2 for share in (p, q) if share)
    return max(0.0, total)


def divergences(summaries: Sequence[CorpusSummary]) -> list[dict[str, Any]]:
    """The divergence of each pair, in bits, in the order of the summaries."""
    return [
        {"first": a.name, "second": b.name, "bits": divergence(a.entities, b.entities)}
        for a, b in combinations(summaries, 2)
    ]
