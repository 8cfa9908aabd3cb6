"""Documents a chunk at a time: their windows asked, and the answers sorted back to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.example import RelationPrompt
from fedmedlora.models.windowing import note_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fedmedlora.core.document import Document
    from fedmedlora.core.example import Prompt
    from fedmedlora.core.records import Observer
    from fedmedlora.inference.decoder import Decoder, WindowAnswer
    from fedmedlora.models.tokens import PieceTokenizer
    from fedmedlora.prompts.windows import Window


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some documents, and their windows: each with the index of its document."""

    documents: list[Document]
    windows: list[tuple[int, Window]]


def chunks_of(
    documents: Iterable[Document],
    tokenizer: PieceTokenizer,
    *,
    window_tokens: int,
    chunk_windows: int,
) -> Iterator[Chunk]:
    """The documents in order, parted so that a chunk has about `chunk_windows` windows.

    Whoever starts again behind one of the chunks gets the rest as it would have been.
    """
    chunk = Chunk([], [])
    for document in documents:
        found = note_windows(document.text, tokenizer, budget_tokens=window_tokens)
        chunk.windows.extend((len(chunk.documents), window) for window in found)
        chunk.documents.append(document)
        if max(len(chunk.windows), len(chunk.documents)) >= chunk_windows:
            yield chunk
            chunk = Chunk([], [])
    if chunk.documents:
        yield chunk


def answers_by_document(
    chunk: Chunk, prompts: Sequence[Prompt], decoder: Decoder, observer: Observer
) -> list[list[tuple[Window, WindowAnswer]]]:
    """For each document of the chunk, its windows with their answers.

    A question that several windows ask, word for word, is answered once.

    Args:
        chunk: The documents.
        prompts: One for each window of the chunk.
        decoder: Answers them.
        observer: Told of each window that is answered, and of each document that is done.
    """
    open_windows = [0] * len(chunk.documents)
    for document, _ in chunk.windows:
        open_windows[document] += 1
    if num_empty := open_windows.count(0):
        observer.advance(num_empty)

    asked: dict[tuple[object, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        asked.setdefault(_question(prompt), []).append(index)
    askers = list(asked.values())

    def done(question: int) -> None:
        for index in askers[question]:
            document, window = chunk.windows[index]
            observer.read(len(window.core))
            open_windows[document] -= 1
            if open_windows[document] == 0:
                observer.advance(1)

    answers = decoder.decode([prompts[indices[0]] for indices in askers], done)
    by_window = {
        index: answer for indices, answer in zip(askers, answers, strict=True) for index in indices
    }
    found: list[list[tuple[Window, WindowAnswer]]] = [[] for _ in chunk.documents]
    for index, (document, window) in enumerate(chunk.windows):
        found[document].append((window, by_window[index]))
    return found


def _question(prompt: Prompt) -> tuple[object, ...]:
    """What an answer depends on: prompts with the same question get the same answer."""
    question: tuple[object, ...] = (prompt.text, prompt.source, prompt.labels)
    if isinstance(prompt, RelationPrompt):
        # Which numbers a modifier may have follows from the labels.
        question += (prompt.marked, prompt.linked, tuple(entity.label for entity in prompt.given))
    return question
