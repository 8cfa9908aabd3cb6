"""Documents a chunk at a time: their windows asked, and the answers sorted back to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    Args:
        chunk: The documents.
        prompts: One for each window of the chunk.
        decoder: Answers them.
        observer: Told of each document that is done.
    """
    open_windows = [0] * len(chunk.documents)
    for document, _ in chunk.windows:
        open_windows[document] += 1
    if num_empty := open_windows.count(0):
        observer.advance(num_empty)

    def done(index: int) -> None:
        document, _ = chunk.windows[index]
        open_windows[document] -= 1
        if open_windows[document] == 0:
            observer.advance(1)

    found: list[list[tuple[Window, WindowAnswer]]] = [[] for _ in chunk.documents]
    for (document, window), answer in zip(
        chunk.windows, decoder.decode(prompts, done), strict=True
    ):
        found[document].append((window, answer))
    return found
