"""Extraction: documents in, the same documents with predicted entities out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.document import Entity, Span
from fedmedlora.inference.step_decoder import decode_batch
from fedmedlora.models.windowing import note_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.cursor import FoundSpan
    from fedmedlora.models.load import BaseModel
    from fedmedlora.prompts.format import TagFormat
    from fedmedlora.prompts.windows import Window


@dataclass(frozen=True, slots=True)
class _Job:
    """One window of one document of a chunk."""

    document: int
    window: Window


class Extractor:
    """A model, a prompt format and a batch plan.

    Args:
        base: The model, adapters merged.
        tags: The format that the adapter was trained with.
        window_tokens: Source tokens a window, as in training.
        batch_size: Windows decoded side by side.
    """

    def __init__(
        self, base: BaseModel, tags: TagFormat, *, window_tokens: int, batch_size: int = 64
    ) -> None:
        self._base = base
        self._tags = tags
        self._window_tokens = window_tokens
        self._batch_size = batch_size

    def extract(
        self, documents: Iterable[Document], labels: Sequence[str], observer: Observer
    ) -> Iterator[Document]:
        """Each document with its predicted entities, in the order of the input.

        Gold entities and relations are dropped. Offsets are exact: every entity is a stretch of the
        document. The observer is told of each document that is done. Documents are read in chunks,
        so memory does not grow with their number.
        """
        chunk: list[Document] = []
        jobs: list[_Job] = []
        for document in documents:
            jobs += [_Job(len(chunk), window) for window in self._windows(document)]
            chunk.append(document)
            if len(jobs) >= 16 * self._batch_size:
                yield from self._answer(chunk, jobs, labels, observer)
                chunk, jobs = [], []
        yield from self._answer(chunk, jobs, labels, observer)

    def _windows(self, document: Document) -> list[Window]:
        return note_windows(document.text, self._base.tokenizer, budget_tokens=self._window_tokens)

    def _answer(
        self,
        chunk: Sequence[Document],
        jobs: Sequence[_Job],
        labels: Sequence[str],
        observer: Observer,
    ) -> Iterator[Document]:
        found: list[list[Entity]] = [[] for _ in chunk]
        open_windows = [0] * len(chunk)
        for job in jobs:
            open_windows[job.document] += 1
        observer.advance(open_windows.count(0))
        # Windows of similar length side by side; the order is a function of the input alone.
        order = sorted(range(len(jobs)), key=lambda i: (-len(jobs[i].window.span), i))
        for start in range(0, len(order), self._batch_size):
            batch = [jobs[index] for index in order[start : start + self._batch_size]]
            prompts = [
                self._tags.prompt(chunk[job.document], job.window.span, labels) for job in batch
            ]
            for job, spans in zip(
                batch, decode_batch(self._base, prompts, self._tags), strict=True
            ):
                found[job.document] += _place(job.window, spans)
                open_windows[job.document] -= 1
                if open_windows[job.document] == 0:
                    observer.advance(1)
        for document, entities in zip(chunk, found, strict=True):
            yield document.with_entities(_numbered(entities))


def _place(window: Window, spans: Iterable[FoundSpan]) -> list[Entity]:
    """Spans of a window as entities of the document; those that its core answers for."""
    base = window.span.start
    return [
        Entity("", span.label, (Span(base + span.start, base + span.end),), _score(span))
        for span in spans
        if window.core.start <= base + span.start < window.core.end
    ]


def _score(span: FoundSpan) -> float:
    return round(math.exp(min(0.0, span.log_probability)), 6)


def _numbered(entities: Iterable[Entity]) -> list[Entity]:
    """In text order with ids T1, T2, …; where overlapping windows disagree, the first wins."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (e.start, e.end, e.label)):
        if not kept or entity.start >= kept[-1].end:
            kept.append(Entity(f"T{len(kept) + 1}", entity.label, entity.spans, entity.score))
    return kept
