"""From one storage format of notes to another, with an account of what happened to each note."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.corpora.brat_writer import note_files, write_brat
from fedmedlora.corpora.card import write_card
from fedmedlora.corpora.jsonl import document_line, is_jsonl, write_jsonl
from fedmedlora.corpora.open_corpus import CorpusSource, Format, find_source
from fedmedlora.corpora.reader import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmedlora.core.document import Document

_DOCUMENTS_NAME = "documents.jsonl"


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did. `dropped` counts by kind what could not be kept."""

    written_to: Path
    num_read: int
    num_skipped: int
    num_written: int
    num_entities: int
    num_relations: int
    dropped: dict[str, int]
    faults: tuple[Fault, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`; `skipped_reasons` counts the faults of left out notes."""
        reasons = Counter(fault.code for fault in self.faults)
        return {
            "written_to": str(self.written_to),
            "num_read": self.num_read,
            "num_skipped": self.num_skipped,
            "num_written": self.num_written,
            "num_entities": self.num_entities,
            "num_relations": self.num_relations,
            "dropped": self.dropped,
            "skipped_reasons": dict(sorted(reasons.items())),
            "faults": [fault.to_json() for fault in self.faults],
        }


def convert(
    source_path: Path,
    source_format: Format,
    target_format: Format,
    out: Path,
    *,
    skip_bad_notes: bool = False,
) -> Conversion:
    """The account of a conversion; nothing is left at `out` if it fails.

    `out` is a folder, or for JSON lines also a file. A folder gets the card of the source, if there
    is one, because only the card knows which labels were annotated.

    Raises:
        ConfigError: There is no corpus at the source, or it has another format.
        CorpusError: A note cannot be read or written exactly and `skip_bad_notes` is not set, no
            note is left, or the target folder is not empty.
    """
    source = find_source(source_path)
    if source.format != source_format:
        raise ConfigError(f"{source_path}: holds {source.format}, not {source_format}.")
    work = _Work(source, target_format, skip_bad_notes)
    is_file = target_format == "jsonl" and is_jsonl(out)
    if target_format == "jsonl":
        num_written = write_jsonl(out if is_file else out / _DOCUMENTS_NAME, work.documents())
    else:
        num_written = write_brat(out, work.documents())
    if source.card is not None and not is_file:
        card = replace(
            source.card,
            documents=_DOCUMENTS_NAME if target_format == "jsonl" else ".",
            num_documents=num_written,
            num_entities=work.num_entities,
            num_relations=work.num_relations,
        )
        write_card(out, card)
    return Conversion(
        out,
        work.num_read,
        work.num_read - num_written,
        num_written,
        work.num_entities,
        work.num_relations,
        dict(sorted((work.reader.dropped + work.dropped).items())),
        (*work.reader.faults, *work.faults),
    )


class _Work:
    """The documents on their way from reader to writer, and what is counted on the way."""

    def __init__(self, source: CorpusSource, target: Format, skip_bad_notes: bool) -> None:
        self.reader = source.reader(skip_bad_notes=skip_bad_notes)
        self.target = target
        self.skip_bad_notes = skip_bad_notes
        self.dropped: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.num_entities = 0
        self.num_relations = 0

    @property
    def num_read(self) -> int:
        """Notes met so far, the bad ones included."""
        return self.reader.num_read + self.reader.num_skipped

    def documents(self) -> Iterator[Document]:
        """The documents that the target format can hold."""
        num_writable = 0
        for document in self.reader:
            if self._is_writable(document):
                num_writable += 1
                self.num_entities += len(document.entities)
                self.num_relations += len(document.relations)
                if self.target == "brat" and document.metadata:
                    self.dropped["metadata"] += 1
                yield document
        if not num_writable:
            raise CorpusError(
                f"{self.reader.path}: no note is left to write; {len(self.reader.faults)} faults "
                "in those read (`fedmedlora corpus validate` lists them)."
            )

    def _is_writable(self, document: Document) -> bool:
        try:
            if self.target == "jsonl":
                document_line(document)
            else:
                note_files(document)
        except CorpusError as error:
            if not self.skip_bad_notes:
                raise
            self.faults.append(Fault(self.reader.path, None, "unwritable", str(error)))
            return False
        return True
