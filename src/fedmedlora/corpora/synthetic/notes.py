"""Notes of the artificial hospitals, as documents and as folders."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.seeds import python_rng
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.corpora.synthetic.composer import Composer
from fedmedlora.corpora.synthetic.hospitals import (
    MAX_SITES,
    TOPICS,
    Hospital,
    grammar,
    hospital,
    roster,
)
from fedmedlora.corpora.synthetic.writer import render

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_WRAP_COLUMN = 78


def generate_site(site: int | str, num_notes: int, seed: int) -> list[Document]:
    """Exactly `num_notes` notes of one hospital, named or counted from 0.

    Note k depends on the seed, the hospital and k alone: more notes leave the first ones as they
    are. The hospital's words do not depend on the seed.

    Raises:
        ConfigError: There is no such hospital, or `num_notes` is negative.
    """
    if num_notes < 0:
        raise ConfigError(f"artificial notes: expected num_notes >= 0, got {num_notes}.")
    chosen = hospital(site)
    return [_note(chosen, index, seed) for index in range(num_notes)]


def synthesize(out: Path, *, num_sites: int = 5, num_notes: int = 40, seed: int = 0) -> list[Path]:
    """Folders of artificial hospitals under `out`, each `documents.jsonl` and `corpus.toml`.

    `num_notes` is the size of the average hospital: of the five, the intensive-care unit has 0.8
    times as many, the clinic 1.2, the dictation service 1.0, the triage desk 0.8 and the eye
    clinic, whose notes are very short, 1.2. The same arguments write the same bytes on every
    machine. Files of an earlier call are overwritten.

    Raises:
        ConfigError: `num_sites` or `num_notes` is out of range.
    """
    if not 1 <= num_sites <= MAX_SITES:
        raise ConfigError(
            f"artificial hospitals: expected 1 to {MAX_SITES} sites, got {num_sites}."
        )
    if num_notes < 1:
        raise ConfigError(f"artificial notes: expected at least 1 a hospital, got {num_notes}.")
    folders = []
    for site in roster()[:num_sites]:
        folder = out / site.name
        folder.mkdir(parents=True, exist_ok=True)
        documents = generate_site(site.name, max(1, round(site.relative_size * num_notes)), seed)
        card = _card(site, documents)
        write_jsonl(folder / card.documents, documents)
        write_card(folder, card)
        folders.append(folder)
    return folders


def _note(site: Hospital, index: int, seed: int) -> Document:
    rng = python_rng(seed, "artificial note", site.name, index)
    rules, words = grammar(site.name)
    composer = Composer(
        rules,
        rng,
        lexicon=words,
        variant="m" if rng.random() < 0.5 else "f",
        topics=frozenset(rng.sample(TOPICS, 2)),
        typo_rate=site.typo_rate,
    )
    upper = rng.random() < site.upper_share
    wrapped = rng.random() < site.wrapped_share
    written = render(composer.compose("note"), line_break=site.line_break, upper=upper)
    entities = written.entities
    if site.graded_outside:
        entities = _without_leading_severity(written.text, entities)
    text = _wrap(written.text, entities) if wrapped else written.text
    labels = frozenset(site.annotated_labels)
    # Some patients come back: an odd note may be of the patient of the note before.
    patient = index - 1 if index % 2 and rng.random() < 0.25 else index
    complete = Document(
        id=f"{site.name}-{index:04d}",
        text=text,
        entities=entities,
        relations=written.relations,
        annotated_labels=labels,
        metadata={
            "artificial": True,
            "style": site.style,
            "patient_id": f"{site.name}-p{patient:04d}",
        },
    )
    return _renumbered(complete.only_labels(labels))


def _without_leading_severity(text: str, entities: Sequence[Entity]) -> tuple[Entity, ...]:
    """The entities with problems starting after a severity that they would start with."""
    ends = {e.start: e.end for e in entities if e.label == "severity"}
    kept = []
    for entity in entities:
        end = ends.get(entity.start)
        if entity.label == "problem" and end is not None and end < entity.end:
            start = end + len(text[end:]) - len(text[end:].lstrip())
            entity = replace(entity, spans=(Span(start, entity.end),))
        kept.append(entity)
    return tuple(sorted(kept, key=lambda e: (e.start, -e.end)))


def _wrap(text: str, entities: Sequence[Entity]) -> str:
    """The text with blanks outside mentions turned into line breaks where lines are long."""
    inside = {at for e in entities for at in range(e.start, e.end)}
    signs = list(text)
    start, blank = 0, -1
    for at, sign in enumerate(text):
        if sign == "\n":
            start, blank = at + 1, -1
        elif sign == " " and at not in inside and at > start:
            blank = at
        if at - start >= _WRAP_COLUMN and blank > start:
            signs[blank] = "\n"
            start, blank = blank + 1, -1
    return "".join(signs)


def _renumbered(document: Document) -> Document:
    ids = {e.id: f"T{n}" for n, e in enumerate(document.entities, start=1)}
    return document.with_entities(
        (replace(e, id=ids[e.id]) for e in document.entities),
        (
            Relation(f"R{n}", r.label, ids[r.head], ids[r.tail])
            for n, r in enumerate(document.relations, start=1)
        ),
    )


def _card(site: Hospital, documents: Sequence[Document]) -> CorpusCard:
    return CorpusCard(
        name=site.name,
        documents="documents.jsonl",
        annotated_labels=site.annotated_labels,
        annotated_relations=("modifies",),
        role=site.role,
        licence="CC0-1.0",
        style=f"artificial notes, about nobody: {site.description}",
        num_documents=len(documents),
        num_entities=sum(len(d.entities) for d in documents),
        num_relations=sum(len(d.relations) for d in documents),
    )
