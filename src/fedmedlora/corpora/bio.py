"""Tokens with BIO tags: `token<TAB>tag` a line, a blank line between sentences, one note a file.

The format holds neither the note's white space nor overlaps, fragments, relations, scores and
metadata. A note that is read has one blank between tokens and one line end between sentences.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING

from fedmedlora.core.document import Document, Span
from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.flatten import keep_entities, without_fragments, without_overlaps
from fedmedlora.corpora.note_builder import NoteBuilder
from fedmedlora.corpora.note_folder import (
    check_file_name,
    check_labels,
    note_id,
    note_paths,
    write_notes,
)
from fedmedlora.corpora.reader import BadNote, Fault, Reader, shown
from fedmedlora.corpora.sentences import sentence_spans
from fedmedlora.corpora.text import read_text

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from fedmedlora.core.document import Entity

SUFFIXES = (".bio", ".conll", ".iob", ".iob2", ".tsv", ".txt")

_DOCSTART = "-DOCSTART-"
_TAG = re.compile(r"O|[BI]-\S+")
# Numbers with their points, words with combining marks, and every other character by itself.
_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|(?:\w[\u0300-\u036f]*)+|\S")
_REPAIRED = "I- tag that continues no mention: read as B-"


class BioReader(Reader):
    """The notes of one folder, ordered by id, or of one file.

    A `-DOCSTART-` line begins another note in the same file; such notes are numbered.
    """

    def notes(self) -> Iterator[Document | BadNote]:
        """Every note, the bad ones as what is wrong with them."""
        by_id: dict[str, list[Path]] = {}
        for path in note_paths(self.path, SUFFIXES):
            by_id.setdefault(note_id(self.path, path), []).append(path)
        for identity, (path, *others) in sorted(by_id.items()):
            for other in others:
                reason = f"document id {shown(identity)} occurs twice, here and in {path.name}."
                yield BadNote((Fault(other, None, "duplicate-id", reason),))
            faults: list[Fault] = []
            content = read_text(path, faults)
            if content is None:
                yield BadNote(tuple(faults))
            else:
                yield from self._file(path, identity, content)
        if not by_id:
            reason = f"no file ending in {', '.join(SUFFIXES)} in the folder."
            yield BadNote((Fault(self.path, None, "empty-file", reason),))

    def _file(self, path: Path, identity: str, content: str) -> Iterator[Document | BadNote]:
        lines = [line.removesuffix("\r") for line in content.split("\n")]
        starts = [n for n, line in enumerate(lines) if line.split("\t")[0].strip() == _DOCSTART]
        if not starts:
            yield self._note(path, identity, lines, 0)
            return
        if any(lines[: starts[0]]):
            starts.insert(0, -1)
        for number, (start, end) in enumerate(
            zip(starts, [*starts[1:], len(lines)], strict=True), 1
        ):
            yield self._note(path, f"{identity}-{number}", lines[start + 1 : end], start + 1)

    def _note(
        self, path: Path, identity: str, lines: list[str], skipped: int
    ) -> Document | BadNote:
        faults: list[Fault] = []
        pieces: list[str] = []
        glue, end = "", 0
        mentions: list[tuple[str, int, int, int]] = []
        is_open = False
        repaired = 0
        for number, line in enumerate(lines, skipped + 1):
            if not line.strip():
                glue, is_open = "\n" if pieces else "", False
                continue
            token, _, tag = line.partition("\t")
            if not re.fullmatch(r"\S+", token) or not _TAG.fullmatch(tag):
                reason = "expected a token, a tab and one of O, B-label and I-label."
                faults.append(Fault(path, number, "broken-line", reason))
                continue
            pieces += (glue, token)
            start = end + len(glue)
            glue, end = " ", start + len(token)
            label = tag[2:]
            if tag[0] == "I" and is_open and mentions[-1][0] == label:
                mentions[-1] = (*mentions[-1][:2], end, mentions[-1][3])
            elif label:
                repaired += tag[0] == "I"
                mentions.append((label, start, end, number))
            is_open = bool(label)
        note = NoteBuilder(self, path, identity, "".join(pieces))
        note.faults += faults
        note.adjusted[_REPAIRED] = repaired
        for index, (label, start, end, number) in enumerate(mentions, 1):
            note.add_entity(f"T{index}", label, start, end, number)
        return note.build()


def write_bio(folder: Path, documents: Iterable[Document]) -> int:
    """The number of notes written, one `.bio` file each; all of them or none.

    Raises:
        CorpusError: The folder holds something already, two documents have the same id, or one of
            them is not as `fit_bio` makes it.
    """
    return write_notes(folder, ((d.id, {".bio": bio_file(d)}) for d in documents))


def fit_bio(document: Document, lost: Counter[str]) -> Document:
    """What the format can hold of the document: mentions without overlap. The rest is counted."""
    flat = without_overlaps(without_fragments(document, lost), lost)
    worded = [e for e in flat.entities if flat.entity_text(e).strip()]
    if num_blank := len(flat.entities) - len(worded):
        lost["mention of white space only"] += num_blank
    flat = keep_entities(flat, worded, lost)
    lost["relation"] += len(flat.relations)
    lost["score"] += sum(entity.score is not None for entity in flat.entities)
    ids = [entity.id for entity in sorted(flat.entities, key=lambda e: e.start)]
    lost["id of a mention: numbered in text order when read"] += sum(
        identity != f"T{number}" for number, identity in enumerate(ids, 1)
    )
    lost["metadata of a note"] += bool(document.metadata)
    fitted = flat.with_entities(flat.entities)
    sentences = _sentences(fitted)
    text = "\n".join(" ".join(fitted.text[t.start : t.end] for t in tokens) for tokens in sentences)
    lost["white space of a note: one blank between tokens when read"] += text != document.text
    return fitted


def bio_file(document: Document) -> bytes:
    """The bytes of the document's file.

    Raises:
        CorpusError: The id cannot be a path, a label holds white space, mentions overlap or are in
            fragments, or the text is one that reading would refuse.
    """
    check_file_name(document.id)
    check_labels(document.id, [entity.label for entity in document.entities])
    where = f"document {shown(document.id)}"
    ordered = sorted(document.entities, key=lambda e: e.start)
    if any(a.end > b.start for a, b in pairwise(ordered)) or any(
        entity.is_discontinuous for entity in ordered
    ):
        raise CorpusError(f"{where}: mentions overlap or are in fragments, which BIO cannot hold.")
    blocks = []
    for tokens in _sentences(document):
        lines, before = [], None
        for token in tokens:
            mention = _mention_at(ordered, token.start)
            tag = "O" if mention is None else f"{'I' if mention is before else 'B'}-{mention.label}"
            lines.append(f"{document.text[token.start : token.end]}\t{tag}\n")
            before = mention
        blocks.append("".join(lines))
    content = "\n".join(blocks)
    if "\0" in content or content.startswith("\ufeff"):
        raise CorpusError(f"{where}: the text holds a NUL or starts with a byte order mark.")
    try:
        return content.encode()
    except UnicodeEncodeError:
        raise CorpusError(f"{where}: holds half a surrogate pair.") from None


def _sentences(document: Document) -> list[list[Span]]:
    """The tokens of each sentence; no token and no sentence ends within a mention."""
    ordered = sorted(document.entities, key=lambda e: e.start)
    cuts = sorted({offset for e in ordered for offset in (e.start, e.end)})
    ends = []
    for sentence in sentence_spans(document.text):
        mention = _mention_at(ordered, sentence.end - 1)
        if mention is None or mention.end == sentence.end:
            ends.append(sentence.end)
    sentences: list[list[Span]] = [[] for _ in ends]
    # Each stretch between two cuts by itself, so that a token stays one when it is read again.
    for start, end in pairwise([0, *cuts, len(document.text)]):
        for match in _TOKEN.finditer(document.text, start, end):
            sentences[bisect_left(ends, match.end())].append(Span(*match.span()))
    return [tokens for tokens in sentences if tokens]


def _mention_at(ordered: Sequence[Entity], offset: int) -> Entity | None:
    """The mention that covers the character at an offset, of mentions in text order."""
    index = bisect_right(ordered, offset, key=lambda e: e.start) - 1
    return ordered[index] if index >= 0 and ordered[index].end > offset else None
