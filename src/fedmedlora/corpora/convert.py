"""From one storage format of notes to another, with an account of what happened to each note."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fedmedlora.core.errors import CorpusError
from fedmedlora.core.words import counted
from fedmedlora.corpora.brat import BratReader
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.formats import TARGETS, SourceFormat, Target, TargetFormat
from fedmedlora.corpora.label_studio import CONFIG_NAME, labeling_config
from fedmedlora.corpora.mapped import MappedReader
from fedmedlora.corpora.open_corpus import CorpusSource, find_source
from fedmedlora.corpora.reader import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedmedlora.core.document import Document
    from fedmedlora.corpora.mapping import Mapping
    from fedmedlora.corpora.reader import Reader


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    Attributes:
        written_to: The file or folder.
        num_read: Notes met, the bad ones included; next, what the good ones hold.
        num_entities_read: Before a mapping.
        num_relations_read: Before a mapping.
        num_skipped: Notes left out, because they could not be read or written exactly.
        num_written: Notes written; next, what they hold.
        num_entities: As written.
        num_relations: As written.
        mapped: By kind, what became what by the mapping.
        adjusted: By kind, what was repaired or changed on the way in.
        dropped: By kind and reason, what the reader or the mapping left out.
        lost: By kind, what the target format cannot hold.
        faults: Why notes were skipped.
    """

    written_to: Path
    num_read: int
    num_entities_read: int
    num_relations_read: int
    num_skipped: int
    num_written: int
    num_entities: int
    num_relations: int
    mapped: dict[str, int]
    adjusted: dict[str, int]
    dropped: dict[str, int]
    lost: dict[str, int]
    faults: tuple[Fault, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`; `skipped_reasons` counts the faults of left out notes.

        `dropped` holds all that did not arrive, so `lost` as well.
        """
        reasons = Counter(fault.code for fault in self.faults)
        return {
            "written_to": str(self.written_to),
            "num_read": self.num_read,
            "num_entities_read": self.num_entities_read,
            "num_relations_read": self.num_relations_read,
            "num_skipped": self.num_skipped,
            "num_written": self.num_written,
            "num_entities": self.num_entities,
            "num_relations": self.num_relations,
            "mapped": self.mapped,
            "adjusted": self.adjusted,
            "dropped": _ordered(Counter(self.dropped) + Counter(self.lost)),
            "skipped_reasons": dict(sorted(reasons.items())),
            "faults": [fault.to_json() for fault in self.faults],
        }


def convert(
    source_path: Path,
    source_format: SourceFormat,
    target_format: TargetFormat,
    out: Path,
    *,
    mapping: Mapping | None = None,
    skip_bad_notes: bool = False,
) -> Conversion:
    """The account of a conversion; no documents are left at `out` if it fails.

    `out` is a folder or, for formats with all notes in one file, also a file. A folder gets the
    card of the source, or one for the labels of the mapping, because only a card knows which labels
    were annotated.

    Raises:
        ConfigError: There is no corpus at the source, or it has another format.
        CorpusError: A note cannot be read or written exactly and `skip_bad_notes` is not set, no
            note is left, or the target folder is not empty.
    """
    source = find_source(source_path, source_format)
    target = TARGETS[target_format]
    work = _Work(source, target, mapping, skip_bad_notes)
    is_file = bool(target.suffixes) and out.name.endswith(target.suffixes)
    path = out if is_file or target.file_name is None else out / target.file_name
    num_written = target.write(path, work.documents())
    if not is_file:
        _write_companions(out, target_format, source, mapping, work, num_written)
    return Conversion(
        out,
        work.reader.num_read + work.reader.num_skipped,
        *work.num_items_read,
        work.reader.num_read + work.reader.num_skipped - num_written,
        num_written,
        work.num_entities,
        work.num_relations,
        _ordered(work.mapped),
        _ordered(work.reader.adjusted),
        _ordered(work.reader.dropped),
        _ordered(work.lost),
        (*work.reader.faults, *work.faults),
    )


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return {kind: count for kind, count in sorted(counts.items()) if count}


def _write_companions(
    folder: Path,
    target_format: TargetFormat,
    source: CorpusSource,
    mapping: Mapping | None,
    work: _Work,
    num_written: int,
) -> None:
    """Write the card and, for Label Studio, the project's interface beside the documents."""
    target = TARGETS[target_format]
    if target_format == "label-studio":
        xml = labeling_config(sorted(work.labels), sorted(work.relation_labels))
        (folder / CONFIG_NAME).write_text(xml, encoding="utf-8", newline="")
    card = source.card
    if mapping is not None:
        card = replace(
            card or CorpusCard(source.name, "", ()),
            annotated_labels=mapping.labels,
            annotated_relations=mapping.relation_labels,
        )
    if card is None:
        return
    card = replace(
        card,
        documents=target.file_name or ".",
        format="" if target_format in ("jsonl", "brat") else target_format,
        num_documents=num_written,
        num_entities=work.num_entities,
        num_relations=work.num_relations,
    )
    if not target.holds_relations:
        card = replace(card, annotated_relations=())
    write_card(folder, card)


class _Work:
    """The documents on their way from reader to writer, and what is counted on the way."""

    def __init__(
        self, source: CorpusSource, target: Target, mapping: Mapping | None, skip_bad_notes: bool
    ) -> None:
        self.reader: Reader = source.reader(skip_bad_notes=skip_bad_notes)
        self.mapped: Counter[str] = Counter()
        if mapping is not None:
            if isinstance(self.reader, BratReader):
                self.reader.text_may_stop_at_line_end = mapping.text_may_stop_at_line_end
            self.reader = MappedReader(self.reader, mapping)
            self.mapped = self.reader.mapped
        self.target = target
        self.skip_bad_notes = skip_bad_notes
        self.lost: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.labels: set[str] = set()
        self.relation_labels: set[str] = set()
        self.num_entities = self.num_relations = 0
        self._num_entities_met = self._num_relations_met = 0

    @property
    def num_items_read(self) -> tuple[int, int]:
        """Entities and relations in the notes read, before a mapping."""
        if isinstance(self.reader, MappedReader):
            return self.reader.num_entities_read, self.reader.num_relations_read
        return self._num_entities_met, self._num_relations_met

    def documents(self) -> Iterator[Document]:
        """The documents as the target format can hold them."""
        num_writable = 0
        for document in self.reader:
            self._num_entities_met += len(document.entities)
            self._num_relations_met += len(document.relations)
            lost: Counter[str] = Counter()
            fitted = self.target.fit(document, lost)
            if self._is_writable(fitted):
                num_writable += 1
                self.lost.update(lost)
                self.num_entities += len(fitted.entities)
                self.num_relations += len(fitted.relations)
                self.labels.update(entity.label for entity in fitted.entities)
                self.relation_labels.update(relation.label for relation in fitted.relations)
                yield fitted
        if not num_writable:
            raise CorpusError(
                f"{self.reader.path}: no note is left to write; "
                f"{counted(len(self.reader.faults), 'fault')} in those read "
                "(`fedmedlora corpus validate` lists them)."
            )

    def _is_writable(self, document: Document) -> bool:
        try:
            self.target.check(document)
        except CorpusError as error:
            if not self.skip_bad_notes:
                raise
            self.faults.append(Fault(self.reader.path, None, "unwritable", str(error)))
            return False
        return True
