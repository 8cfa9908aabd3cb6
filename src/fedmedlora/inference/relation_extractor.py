"""Relations: documents with entities in, the same with modifiers and links out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedmedlora.core.document import Entity, Relation, Span
from fedmedlora.inference.chunks import Chunk, answers_by_document, chunks_of
from fedmedlora.inference.extractor import answered_for, score_of
from fedmedlora.prompts.relation_answer import MODIFIES
from fedmedlora.prompts.relation_marks import given_entities

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.example import RelationPrompt
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.decoder import Decoder, WindowAnswer
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.relation_format import RelationFormat
    from fedmedlora.prompts.windows import Window


@dataclass(frozen=True, slots=True)
class _Placed:
    """A modifier of a document: where, what, how sure, and the ids of what it belongs to."""

    place: Span
    label: str
    score: float | None
    tails: tuple[str, ...]


class RelationExtractor:
    """The modifiers of a note's entities, gold or predicted, and what they belong to.

    Args:
        decoder: Answers the prompts.
        tokenizer: The base model's.
        formatted: The format that the adapter was trained with.
        window_tokens: Source tokens a window, as in training.
        linked: Whether to ask what a modifier belongs to.
        chunk_windows: As for `Extractor`.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PieceTokenizer,
        formatted: RelationFormat,
        *,
        window_tokens: int,
        linked: bool = True,
        chunk_windows: int = 512,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._formatted = formatted
        self._window_tokens = window_tokens
        self._linked = linked
        self._chunk_windows = chunk_windows

    def extract(
        self,
        documents: Iterable[Document],
        labels: Sequence[str],
        observer: Observer,
        answered: Mapping[str, Document] | None = None,
    ) -> Iterator[Document]:
        """Each document with its main entities as they are, and predicted modifiers and relations.

        Modifiers and relations that it had are dropped. The observer is told of each document that
        is done.

        Args:
            documents: Their main entities are given to the model.
            labels: Modifiers to ask for; without any, nothing is asked.
            observer: Told of the progress.
            answered: By id, notes as this extractor has answered them for these labels, maybe
                between other entities. Where a window's entities are the same, so is its answer:
                it is taken from there.
        """
        schema = self._formatted.schema
        given = (
            replace(
                document,
                entities=tuple(e for e in document.entities if e.label in schema.entity_labels),
                relations=(),
            )
            for document in documents
        )
        if not labels:
            for document in given:
                observer.advance(1)
                yield document
            return
        for chunk in chunks_of(
            given,
            self._tokenizer,
            window_tokens=self._window_tokens,
            chunk_windows=self._chunk_windows,
        ):
            prompts = [
                self._prompt(chunk.documents[index], window, labels)
                for index, window in chunk.windows
            ]
            placed: list[list[_Placed]] = [[] for _ in chunk.documents]
            asked = Chunk(chunk.documents, [])
            asked_prompts = []
            for (index, window), prompt in zip(chunk.windows, prompts, strict=True):
                earlier = (answered or {}).get(chunk.documents[index].id)
                known = self._taken_over(earlier, window, prompt) if earlier is not None else None
                if known is None:
                    asked.windows.append((index, window))
                    asked_prompts.append(prompt)
                else:
                    observer.read(len(window.core))
                    placed[index] += known
            found = answers_by_document(asked, asked_prompts, self._decoder, observer)
            for document, own, answers in zip(chunk.documents, placed, found, strict=True):
                for window, answer in answers:
                    own += self._read(document, window, answer)
                yield _linked_document(document, own)

    def _prompt(self, document: Document, window: Window, labels: Sequence[str]) -> RelationPrompt:
        return self._formatted.prompt(document, window.span, labels, linked=self._linked)

    def _taken_over(
        self, earlier: Document, window: Window, prompt: RelationPrompt
    ) -> list[_Placed] | None:
        """The window's modifiers in an earlier answer; None if it was asked something else."""
        before = self._prompt(earlier, window, prompt.labels)
        same = before.source == prompt.source and before.marked == prompt.marked
        if not same or [e.label for e in before.given] != [e.label for e in prompt.given]:
            return None
        now = {old.id: new.id for old, new in zip(before.given, prompt.given, strict=True)}
        return [
            _Placed(
                entity.spans[0],
                entity.label,
                entity.score,
                tuple(now[link.tail] for link in earlier.relations if link.head == entity.id),
            )
            for entity in earlier.entities
            if entity.label in prompt.labels and window.core.start <= entity.start < window.core.end
        ]

    def _read(self, document: Document, window: Window, answer: WindowAnswer) -> list[_Placed]:
        """The modifiers that a window answers for."""
        base = window.span.start
        given = given_entities(document, window.span, self._formatted.schema)
        return [
            _Placed(
                Span(base + span.start, base + span.end),
                span.label,
                score_of(span),
                tuple(given[number - 1].id for number in span.numbers or ()),
            )
            for span in answered_for(window, answer.spans)
        ]


def _linked_document(document: Document, placed: list[_Placed]) -> Document:
    """The document with these modifiers, numbered in text order, and their relations."""
    taken = {entity.id for entity in document.entities}
    entities: list[Entity] = []
    relations: list[Relation] = []
    for modifier in sorted(placed, key=lambda item: (item.place.start, -item.place.end)):
        number = len(entities) + 1
        while (name := f"M{number}") in taken:
            number += 1
        taken.add(name)
        entities.append(Entity(name, modifier.label, (modifier.place,), modifier.score))
        relations += [
            Relation(f"R{len(relations) + index}", MODIFIES, name, tail)
            for index, tail in enumerate(modifier.tails, start=1)
        ]
    return document.with_entities((*document.entities, *entities), relations)
