"""One door to annotated notes on disk: a folder with a card, BRAT files, or one JSON lines file.

A card may name any format; without a card, formats other than these two have to be named.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args

from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.corpora.brat import holds_brat
from fedmedlora.corpora.card import CARD_NAME, CorpusCard, load_card
from fedmedlora.corpora.formats import FOLDERS_ONLY, READERS, SourceFormat
from fedmedlora.corpora.jsonl import SUFFIXES, is_jsonl
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.corpora.reader import LabelCheck, Reader


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Where a corpus is and how it is stored; nothing but the card was read yet."""

    name: str
    format: SourceFormat
    documents: Path
    card: CorpusCard | None

    @property
    def annotated_labels(self) -> frozenset[str] | None:
        """What the card says was annotated; None without a card."""
        return None if self.card is None else frozenset(self.card.annotated_labels)

    def notes(self) -> NotesOnDisk:
        """The corpus for a few passes over it."""
        return NotesOnDisk(self.name, self.reader(), self.annotated_labels)

    def reader(
        self, *, skip_bad_notes: bool = False, check_label: LabelCheck | None = None
    ) -> Reader:
        """The reader of the documents, which get the card's name and labels."""
        return READERS[self.format](
            self.documents,
            skip_bad_notes=skip_bad_notes,
            source=self.name,
            annotated_labels=self.annotated_labels,
            check_label=check_label,
        )


class NamedNotes(Protocol):
    """Notes that can be gone over more than once, in memory or not."""

    @property
    def name(self) -> str:
        """Of the corpus."""

    @property
    def documents(self) -> Iterable[Document]:
        """The notes in their order."""

    @property
    def annotated_labels(self) -> frozenset[str] | None:
        """What the annotators looked for; None says that nobody stated it."""


@dataclass(frozen=True, slots=True)
class NotesOnDisk:
    """A corpus whose `documents` are read anew each time."""

    name: str
    documents: Reader
    annotated_labels: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus in memory. `annotated_labels` None says that nobody stated them."""

    name: str
    documents: tuple[Document, ...]
    annotated_labels: frozenset[str] | None
    card: CorpusCard | None = None


def load_corpus(path: Path, *, skip_bad_notes: bool = False) -> Corpus:
    """All documents of a folder with a `corpus.toml`, a folder of BRAT files or a JSON lines file.

    Raises:
        ConfigError: There is no corpus at `path`.
        CorpusError: The card is wrong, or a note cannot be read exactly and `skip_bad_notes` is
            not set.
    """
    source = find_source(path)
    with _without_searches_for_cycles():
        documents = tuple(source.reader(skip_bad_notes=skip_bad_notes))
    return Corpus(source.name, documents, source.annotated_labels, source.card)


@contextmanager
def _without_searches_for_cycles() -> Iterator[None]:
    """Pauses the garbage collector, which would walk all notes read so far again and again.

    Notes hold no cycles, and it took more than half of the time of reading.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def find_source(path: Path, wanted: SourceFormat | None = None) -> CorpusSource:
    """What is stored at `path`.

    Raises:
        ConfigError: There is no corpus at `path`, or none of the wanted format.
        CorpusError: The card is wrong or names documents that are not there.
    """
    if not path.exists():
        raise ConfigError(f"{path}: not found; expected a corpus folder or a .jsonl file.")
    if path.name == CARD_NAME:
        path = path.parent
    if wanted not in (None, "jsonl", "brat") and not (path / CARD_NAME).is_file():
        if wanted in FOLDERS_ONLY and path.is_file():
            raise ConfigError(f"{path}: expected a folder of {wanted} files, got a file.")
        return CorpusSource(path.resolve().name.split(".")[0], wanted, path, None)
    found = _find(path)
    if wanted not in (None, found.format):
        raise ConfigError(f"{path}: holds {found.format}, not {wanted}.")
    return found


def _find(path: Path) -> CorpusSource:
    if path.is_file():
        if not is_jsonl(path):
            raise ConfigError(
                f"{path}: expected a file ending in {', '.join(SUFFIXES)}. Convert notes in "
                "another format first: fedmedlora corpus convert --from FORMAT."
            )
        return CorpusSource(path.name.split(".jsonl")[0], "jsonl", path, None)
    if (path / CARD_NAME).is_file():
        return _from_card(path / CARD_NAME)
    # What `extract` and `convert` write.
    written = [file for suffix in SUFFIXES if (file := path / f"documents{suffix}").is_file()]
    if len(written) == 1:
        return CorpusSource(path.resolve().name, "jsonl", written[0], None)
    if holds_brat(path):
        return CorpusSource(path.resolve().name, "brat", path, None)
    raise ConfigError(
        f"{path}: no corpus here; expected {CARD_NAME}, one documents.jsonl, or BRAT files (.txt "
        "with .ann). Name any other .jsonl file itself, and the format of other files with --from."
    )


def _from_card(path: Path) -> CorpusSource:
    card = load_card(path)
    documents = path.parent / card.documents
    if card.format and documents.exists():
        if card.format not in READERS:
            known = ", ".join(get_args(SourceFormat))
            raise CorpusError(f"{path}: format is {shown(card.format)}; expected one of {known}.")
        return CorpusSource(card.name, card.format, documents, card)
    if documents.is_file() and is_jsonl(documents):
        return CorpusSource(card.name, "jsonl", documents, card)
    if documents.is_dir():
        return CorpusSource(card.name, "brat", documents, card)
    raise CorpusError(
        f"{path}: documents names neither a file ending in {', '.join(SUFFIXES)} nor a folder of "
        "BRAT files beside the card. Correct the card."
    )


def find_corpora(path: Path) -> list[Path]:
    """The corpora at `path`: itself, or the folders with a card in it, by name.

    The folder that `corpus synthesize` writes is of the second kind.
    """
    if path.is_dir() and not (path / CARD_NAME).is_file():
        inside = sorted(card.parent for card in path.glob(f"*/{CARD_NAME}"))
        if inside:
            return inside
    return [path]
