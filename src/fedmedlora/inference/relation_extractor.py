"""Relations: documents with entities in, the same with modifiers and links out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.core.document import Entity, Relation, Span
from fedmedlora.inference.chunks import answers_by_document, chunks_of
from fedmedlora.inference.extractor import answered_for, score_of
from fedmedlora.prompts.relation_answer import MODIFIES
from fedmedlora.prompts.relation_marks import given_entities

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.decoder import Decoder, FoundSpan, WindowAnswer
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.relation_format import RelationFormat
    from fedmedlora.prompts.windows import Window


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
        self, documents: Iterable[Document], labels: Sequence[str], observer: Observer
    ) -> Iterator[Document]:
        """Each document with its main entities as they are, and predicted modifiers and relations.

        Modifiers and relations that it had are dropped. The observer is told of each document that
        is done.

        Args:
            documents: Their main entities are given to the model.
            labels: Modifiers to ask for; without any, nothing is asked.
            observer: Told of the progress.
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
                self._formatted.prompt(
                    chunk.documents[index], window.span, labels, linked=self._linked
                )
                for index, window in chunk.windows
            ]
            found = answers_by_document(chunk, prompts, self._decoder, observer)
            for document, answers in zip(chunk.documents, found, strict=True):
                yield self._linked_document(document, answers)

    def _linked_document(
        self, document: Document, found: Sequence[tuple[Window, WindowAnswer]]
    ) -> Document:
        """The document with the modifiers of its windows' answers, and their relations."""
        placed: list[tuple[Span, FoundSpan, tuple[str, ...]]] = []
        for window, answer in found:
            base = window.span.start
            given = given_entities(document, window.span, self._formatted.schema)
            for span in answered_for(window, answer.spans):
                tails = tuple(given[number - 1].id for number in span.numbers or ())
                placed.append((Span(base + span.start, base + span.end), span, tails))
        placed.sort(key=lambda item: (item[0].start, -item[0].end))
        taken = {entity.id for entity in document.entities}
        entities: list[Entity] = []
        relations: list[Relation] = []
        for place, span, tails in placed:
            number = len(entities) + 1
            while (name := f"M{number}") in taken:
                number += 1
            taken.add(name)
            entities.append(Entity(name, span.label, (place,), score_of(span)))
            relations += [
                Relation(f"R{len(relations) + index}", MODIFIES, name, tail)
                for index, tail in enumerate(tails, start=1)
            ]
        return document.with_entities((*document.entities, *entities), relations)
