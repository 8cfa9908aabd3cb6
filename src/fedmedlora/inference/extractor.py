"""Extraction: documents in, the same documents with predicted entities out."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedmedlora.core.answer_counts import (
    ALIGNMENT,
    NUM_TRUNCATED,
    NUM_UNPARSABLE,
    NUM_WINDOWS,
    UNALIGNED,
)
from fedmedlora.core.document import Entity, Span
from fedmedlora.inference.chunks import answers_by_document, chunks_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.decoder import Decoder, FoundSpan, WindowAnswer
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.format import PromptFormat
    from fedmedlora.prompts.windows import Window


class Extractor:
    """Notes cut into windows, the windows answered by a decoder, the answers placed in the notes.

    Args:
        decoder: Answers the prompts.
        tokenizer: The base model's.
        tags: The format that the adapter was trained with.
        window_tokens: Source tokens a window, as in training.
        chunk_windows: Notes are answered in chunks of about this many windows; more of them fill
            the decoder's batches better, fewer take less memory.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PieceTokenizer,
        tags: PromptFormat,
        *,
        window_tokens: int,
        chunk_windows: int = 512,
    ) -> None:
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._tags = tags
        self._window_tokens = window_tokens
        self._chunk_windows = chunk_windows

    def extract(
        self, documents: Iterable[Document], labels: Sequence[str], observer: Observer
    ) -> Iterator[Document]:
        """Each document with its predicted entities, in the order of the input.

        Gold entities and relations are dropped. Offsets are exact: every entity is a stretch of the
        document. The observer is told of each document that is done. The metadata tells how many
        windows were asked about, and how many answers were unparsable, truncated or not in the
        note (`core/answer_counts.py`).
        """
        for chunk in self.extract_chunks(documents, labels, observer):
            yield from chunk

    def extract_chunks(
        self, documents: Iterable[Document], labels: Sequence[str], observer: Observer
    ) -> Iterator[list[Document]]:
        """As `extract`, chunk by chunk, so that memory does not grow with the number of documents.

        A chunk's answers depend on its own documents only: whoever starts again behind one of the
        chunks gets the rest as it would have been.
        """
        for chunk in chunks_of(
            documents,
            self._tokenizer,
            window_tokens=self._window_tokens,
            chunk_windows=self._chunk_windows,
        ):
            prompts = [
                self._tags.prompt(chunk.documents[index], window.span, labels)
                for index, window in chunk.windows
            ]
            found = answers_by_document(chunk, prompts, self._decoder, observer)
            yield [_answered(*pair) for pair in zip(chunk.documents, found, strict=True)]


def _answered(document: Document, found: Sequence[tuple[Window, WindowAnswer]]) -> Document:
    """The document with what its windows' answers hold, and their counts in the metadata."""
    entities = [entity for window, answer in found for entity in _place(window, answer.spans)]
    unaligned: Counter[str] = Counter()
    for _, answer in found:
        unaligned.update(answer.unaligned)
    counts: dict[str, Any] = {
        NUM_WINDOWS: len(found),
        NUM_UNPARSABLE: sum(answer.unparsable for _, answer in found),
        NUM_TRUNCATED: sum(answer.truncated for _, answer in found),
    }
    if unaligned:
        counts[UNALIGNED] = dict(sorted(unaligned.items()))
    alignment = Counter(
        span.alignment for window, answer in found for span in answered_for(window, answer.spans)
    )
    if alignment.keys() - {"exact"}:
        counts[ALIGNMENT] = dict(sorted(alignment.items()))
    return replace(
        document.with_entities(_numbered(entities)), metadata={**document.metadata, **counts}
    )


def _place(window: Window, spans: Iterable[FoundSpan]) -> list[Entity]:
    """Spans of a window as entities of the document; those that its core answers for."""
    base = window.span.start
    return [
        Entity("", span.label, (Span(base + span.start, base + span.end),), score_of(span))
        for span in answered_for(window, spans)
    ]


def answered_for(window: Window, spans: Iterable[FoundSpan]) -> list[FoundSpan]:
    """The spans that start in the window's core."""
    base = window.span.start
    return [span for span in spans if window.core.start <= base + span.start < window.core.end]


def score_of(span: FoundSpan) -> float | None:
    """The probability of the decisions that made the span; None where the backend cannot tell."""
    if math.isnan(span.log_probability):
        return None
    return round(math.exp(min(0.0, span.log_probability)), 6)


def _numbered(entities: Iterable[Entity]) -> list[Entity]:
    """In text order with ids T1, T2, …; where overlapping windows disagree, the first wins."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (e.start, e.end, e.label)):
        if not kept or entity.start >= kept[-1].end:
            kept.append(Entity(f"T{len(kept) + 1}", entity.label, entity.spans, entity.score))
    return kept
