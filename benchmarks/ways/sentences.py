"""What is extracted: single sentences of notes, each with its own gold and labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from fedmedlora.core.document import Document, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.schema import default_schema
from fedmedlora.core.seeds import python_rng
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.corpora.sentences import sentence_spans
from fedmedlora.corpora.synthetic import FIVE, generate_site

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Literal

    from fedmedlora.core.example import Prompt
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import TagFormat


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as a document of its own, with the labels to ask for."""

    document: Document
    labels: tuple[str, ...]

    @property
    def span(self) -> Span:
        """The whole sentence."""
        return Span(0, len(self.document.text))

    def prompt(self, tags: TagFormat) -> Prompt:
        """What a model reads."""
        return tags.prompt(self.document, self.span, self.labels)


def artificial_notes(
    role: Literal["train", "external"], notes_per_site: int, seed: int
) -> list[Document]:
    """Notes of the artificial hospitals of one role, the hospitals taking turns."""
    sites = [site.name for site in FIVE if site.role == role]
    columns = [generate_site(name, notes_per_site, seed) for name in sites]
    return [note for row in zip_longest(*columns) for note in row if note is not None]


def corpus_notes(path: Path, seed: int) -> list[Document]:
    """The notes of a corpus in a random order that the seed fixes.

    Where nobody stated which labels were annotated, those that occur are taken.
    """
    corpus = load_corpus(path)
    notes = list(corpus.documents)
    found = frozenset(entity.label for note in notes for entity in note.entities)
    stated = corpus.annotated_labels
    labels = found if stated is None else stated
    notes = [replace(note, annotated_labels=labels) for note in notes]
    python_rng(seed, "benchmark notes").shuffle(notes)
    return notes


def sentences_of(
    notes: Iterable[Document],
    tokenizer: PieceTokenizer,
    *,
    count: int,
    max_source_tokens: int,
) -> list[Sentence]:
    """The first `count` sentences of the notes, those of more than `max_source_tokens` left out.

    White space around a sentence is dropped, and so are entities that are not wholly inside.

    Raises:
        ConfigError: There are fewer.
    """
    found: list[Sentence] = []
    for note in notes:
        for span in sentence_spans(note.text) if note.text else []:
            sentence = _sentence(note, span)
            if sentence is None:
                continue
            if len(tokenizer.encode(sentence.document.text)) <= max_source_tokens:
                found.append(sentence)
            if len(found) == count:
                return found
    raise ConfigError(f"sentences: expected {count}, got {len(found)}. Use more notes.")


def by_length(sentences: Sequence[Sentence]) -> list[Sentence]:
    """The longest first, ties in their order."""
    return sorted(sentences, key=lambda sentence: -len(sentence.document.text))


def _sentence(note: Document, span: Span) -> Sentence | None:
    text = note.text[span.start : span.end]
    start = span.start + len(text) - len(text.lstrip())
    text = text.strip()
    if not text:
        return None
    cover = Span(start, start + len(text))
    asked = note.annotated_labels or frozenset()
    labels = tuple(label for label in default_schema().entity_labels if label in asked)
    entities = [
        replace(
            entity,
            spans=tuple(Span(s.start - cover.start, s.end - cover.start) for s in entity.spans),
        )
        for entity in note.entities
        if entity.label in labels and cover.contains(entity.cover)
    ]
    document = Document(
        id=f"{note.id}@{cover.start}",
        text=text,
        entities=tuple(entities),
        annotated_labels=frozenset(labels),
    )
    return Sentence(document, labels)
