"""Hypothesis strategies: notes as hostile as real ones, with entities anywhere in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Span

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

LABELS = ("problem", "treatment", "test", "drug")

_WORDS = ("pain", " pain", " the", " aspirin 81mg", " q6h", ".", ", ", "\n", "\r\n", "\t", " 5")
_HOSTILE = (
    "\u00a0", "\u2003", "\x85", "e\u0301", "\u0301", "😀", "👩\u200d⚕️", "ﬁ", "\u212b", "½",
    "_", "&", "&amp;", "<", ">", "</", "<problem>", " <drug>", "</>", "</problem>", "</span>",
    '<span class="problem">', '<span class="', "<|end|>", "<|begin|>", "x" * 70, " " * 70,
)  # fmt: skip
_ANY = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)


def note_texts(*, max_parts: int = 24) -> SearchStrategy[str]:
    """Texts of words, white space of all kinds, emoji, and our own tag strings."""
    parts = st.sampled_from(_WORDS) | st.sampled_from(_HOSTILE) | _ANY
    return st.lists(parts, max_size=max_parts).map("".join)


@st.composite
def spans_of(draw: DrawFn, text: str) -> Span:
    """A stretch of a text that is not empty; nothing says that it lies at word boundaries."""
    start = draw(st.integers(0, len(text) - 1))
    return Span(start, draw(st.integers(start + 1, min(len(text), start + 40))))


@st.composite
def documents(draw: DrawFn, *, max_parts: int = 24, max_entities: int = 8) -> Document:
    """Notes whose entities may overlap, cross, be discontinuous, or begin within a word."""
    text = draw(note_texts(max_parts=max_parts).filter(bool))
    entities = []
    for number in range(draw(st.integers(0, max_entities))):
        first, second = sorted((draw(spans_of(text)), draw(spans_of(text))))
        broken = first.end < second.start and draw(st.booleans())
        label = draw(st.sampled_from(LABELS))
        entities.append(Entity(f"T{number}", label, (first, second) if broken else (first,)))
    return Document("note", text, tuple(entities))
