"""Every storage format of annotated notes: its reader, its writer, and what it cannot hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedmedlora.corpora import bio, doccano, jsonl, label_studio
from fedmedlora.corpora.brat import BratReader
from fedmedlora.corpora.brat_writer import brat_losses, note_files, write_brat
from fedmedlora.corpora.i2b2 import I2b2Reader
from fedmedlora.corpora.kiwi_json import KiwiJsonReader

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.corpora.reader import Reader

SourceFormat = Literal["jsonl", "brat", "i2b2-2010", "bio", "doccano", "kiwi-json", "label-studio"]
TargetFormat = Literal["jsonl", "brat", "bio", "doccano", "label-studio"]

READERS: dict[SourceFormat, type[Reader]] = {
    "jsonl": jsonl.JsonlReader,
    "brat": BratReader,
    "i2b2-2010": I2b2Reader,
    "bio": bio.BioReader,
    "doccano": doccano.DoccanoReader,
    "kiwi-json": KiwiJsonReader,
    "label-studio": label_studio.LabelStudioReader,
}
FOLDERS_ONLY: frozenset[SourceFormat] = frozenset({"brat", "i2b2-2010"})


@dataclass(frozen=True, slots=True)
class Target:
    """How documents are written in one format.

    Attributes:
        fit: The document as the format can hold it; counts by kind what is lost.
        check: Raises a `CorpusError` for a fitted document that cannot be written.
        write: Writes all documents to a file, or to a folder if there is no `file_name`.
        file_name: The file that holds the documents in a folder.
        suffixes: How the name of such a file may end.
        holds_relations: Whether it does.
    """

    fit: Callable[[Document, Counter[str]], Document]
    check: Callable[[Document], object]
    write: Callable[[Path, Iterable[Document]], int]
    file_name: str | None = None
    suffixes: tuple[str, ...] = ()
    holds_relations: bool = True


def _fit_all(document: Document, _lost: Counter[str]) -> Document:
    return document


def _fit_brat(document: Document, lost: Counter[str]) -> Document:
    lost.update(brat_losses(document))
    return document


TARGETS: dict[TargetFormat, Target] = {
    "jsonl": Target(
        _fit_all, jsonl.document_line, jsonl.write_jsonl, "documents.jsonl", jsonl.SUFFIXES
    ),
    "brat": Target(_fit_brat, note_files, write_brat),
    "bio": Target(bio.fit_bio, bio.bio_file, bio.write_bio, holds_relations=False),
    "doccano": Target(
        doccano.fit_doccano,
        doccano.doccano_line,
        doccano.write_doccano,
        "doccano.jsonl",
        doccano.SUFFIXES,
    ),
    "label-studio": Target(
        label_studio.fit_label_studio,
        label_studio.task_bytes,
        label_studio.write_label_studio,
        "tasks.json",
        (".json",),
    ),
}
