"""Extraction without a model: a decoder that answers by rule, and requests in small chunks."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.adapters.files import save_adapter
from fedmedlora.core.document import Document
from fedmedlora.core.example import Prompt
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.inference.decoder import FoundSpan, WindowAnswer
from fedmedlora.inference.extractor import Extractor
from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.prompts.registry import get_format
from fedmedlora.study.extract import ExtractionRequest
from fedmedlora.study.note_extractor import NoteExtractor
from fedmedlora.testing.adapters import random_adapter
from fedmedlora.testing.tiny import tiny_tokenizer

TEXT = "Given aspirin 81 mg daily for chest pain.\r\nNo fever 😀, scan of the chest: {} masses.\n"


@dataclass
class Marker:
    """A decoder that marks about every third word; an answer depends on its prompt alone.

    `watch` is called before each chunk.
    """

    watch: Callable[[], object] = lambda: None
    num_chunks: int = 0
    documents: list[str] = field(default_factory=list)

    def decode(
        self, prompts: Sequence[Prompt], on_done: Callable[[int], None]
    ) -> list[WindowAnswer]:
        self.num_chunks += 1
        self.watch()
        answers = []
        for index, prompt in enumerate(prompts):
            self.documents.append(prompt.document_id)
            answers.append(answer(prompt))
            on_done(index)
        return answers


def answer(prompt: Prompt) -> WindowAnswer:
    spans = []
    for word in re.finditer(r"\w+", prompt.source):
        code = zlib.crc32(word[0].encode())
        if code % 3 == 0:
            label = prompt.labels[code % len(prompt.labels)]
            spans.append(FoundSpan(label, word.start(), word.end(), -(code % 97) / 60))
    code = zlib.crc32(prompt.source.encode())
    unaligned = {"drug": 2} if code % 3 == 0 else {}
    return WindowAnswer(tuple(spans), unaligned, code % 5 < 2, code % 7 < 2)


@pytest.fixture
def marker(monkeypatch: pytest.MonkeyPatch) -> Marker:
    """The decoder of every extraction of this test; no model is loaded."""
    marker = Marker()
    tokenizer = PieceTokenizer(tiny_tokenizer(), "tiny")

    def load(_trained: Any, _observer: Any, _machine: Any, *, chunk_windows: int, **_: Any) -> Any:
        extractor = Extractor(
            marker, tokenizer, get_format("compact"), window_tokens=40, chunk_windows=chunk_windows
        )
        return NoteExtractor(extractor, None), "f" * 64

    monkeypatch.setattr("fedmedlora.study.extract.load_extractor", load)
    return marker


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    save_adapter(folder, random_adapter(0))
    return folder


@pytest.fixture(scope="session")
def notes() -> list[Document]:
    """Short and long notes, an empty one, some with ids that name folders."""
    return [
        Document(
            f"ward{i % 3}/note-{i}" if i % 2 else f"note-{i}",
            TEXT.format(i) * (i % 4),
            metadata={"visit": i},
        )
        for i in range(16)
    ]


@pytest.fixture
def request_of(
    adapter: Path, notes: list[Document], tmp_path: Path
) -> Callable[..., ExtractionRequest]:
    """A request for some notes in small chunks."""
    source = tmp_path / "notes.jsonl"
    write_jsonl(source, notes)

    def make(out: str = "out", **options: Any) -> ExtractionRequest:
        options = {"inputs": (source,), "chunk_windows": 3} | options
        return ExtractionRequest(adapter=adapter, out=tmp_path / out, **options)

    return make
