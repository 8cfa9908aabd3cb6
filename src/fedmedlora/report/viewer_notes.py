"""What the viewer shows of one note: its sides with marks and links, and what is wrong in it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedmedlora.evaluation.rates import unaligned
from fedmedlora.report.viewer_errors import KIND_TITLES, error_lines
from fedmedlora.report.viewer_marks import Marked, marked_text
from fedmedlora.report.viewer_words import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from markupsafe import Markup

    from fedmedlora.core.document import Document, Entity
    from fedmedlora.evaluation.link_mistakes import LinkMistake
    from fedmedlora.evaluation.mistakes import Mistake
    from fedmedlora.report.viewer_errors import ErrorLine
    from fedmedlora.report.viewer_words import Labels

NOT_SCORED = "not scored"
PLAIN_LINK = "modifies"


@dataclass(frozen=True, slots=True)
class LinkLine:
    """A link as it is told: `severity “mild” → problem “mild pain”`."""

    text: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class Side:
    """Gold or predicted annotations of a note."""

    text: Markup
    num_mentions: int
    links: Sequence[LinkLine]


@dataclass(frozen=True, slots=True)
class NoteView:
    """One note as the template shows it.

    Attributes:
        id: Of the document.
        labels: The numbers of the labels in it, with spaces between.
        gold: None where nobody annotated the note.
        predicted: What the model found.
        errors: All of them.
        num_unplaced: Answers that are not in the note.
    """

    id: str
    labels: str
    gold: Side | None
    predicted: Side
    errors: Sequence[ErrorLine]
    num_unplaced: int


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong in one note, and which labels were looked for in it; None: all."""

    mentions: Sequence[Mistake] = ()
    links: Sequence[LinkMistake] = ()
    scored: Collection[str] | None = None


@dataclass(slots=True)
class _Flags:
    """What is said of the mentions and links of one side, by the ids of mentions."""

    kinds: dict[str, str] = field(default_factory=dict)
    links: set[tuple[str, str, str]] = field(default_factory=set)


def note_view(predicted: Document, labels: Labels) -> NoteView:
    """A note that nobody annotated, with what was predicted."""
    return NoteView(
        predicted.id,
        _labels_of([predicted], labels),
        None,
        _side(predicted, labels, _Flags(), None),
        (),
        sum(unaligned(predicted).values()),
    )


def judged_view(gold: Document, predicted: Document, labels: Labels, wrong: Wrong) -> NoteView:
    """A note with gold and predicted annotations, and every error in it."""
    of_gold, of_predicted = _Flags(), _Flags()
    for mistake in wrong.mentions:
        if mistake.gold:
            of_gold.kinds[mistake.gold.id] = mistake.kind
        if mistake.predicted:
            of_predicted.kinds[mistake.predicted.id] = mistake.kind
    for mistaken in wrong.links:
        for link, flags in ((mistaken.gold, of_gold), (mistaken.predicted, of_predicted)):
            if link:
                flags.links.add((link.head.id, link.tail.id, link.label))
    return NoteView(
        gold.id,
        _labels_of([gold, predicted], labels),
        _side(gold, labels, of_gold, wrong.scored),
        _side(predicted, labels, of_predicted, wrong.scored),
        error_lines(gold, predicted, wrong.mentions, wrong.links, labels),
        sum(unaligned(predicted).values()),
    )


def _labels_of(documents: Sequence[Document], labels: Labels) -> str:
    used = {labels.numbers[e.label] for document in documents for e in document.entities}
    return " ".join(map(str, sorted(used)))


def _side(
    document: Document, labels: Labels, flags: _Flags, scored: Collection[str] | None
) -> Side:
    number = {entity.id: n for n, entity in enumerate(document.entities)}
    by_id = {entity.id: entity for entity in document.entities}
    heads, tails = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    arcs = defaultdict[str, list[str]](list)
    lines = []
    for link in document.relations:
        head, tail = by_id[link.head], by_id[link.tail]
        wrong = (head.id, tail.id, link.label) in flags.links
        name = "" if link.label == PLAIN_LINK else f" ({link.label})"
        lines.append(LinkLine(f"{quoted(document, head)} → {quoted(document, tail)}{name}", wrong))
        heads[head.id].append(f"→ {quoted(document, tail)}{name}")
        tails[tail.id].append(f"← {quoted(document, head)}{name}")
        arcs[head.id].append(f"{number[tail.id]}{'x' if wrong else ''}")
    marks = [
        _marked(
            entity,
            number[entity.id],
            labels,
            _badge(entity, flags, scored),
            [*heads[entity.id], *tails[entity.id]],
            arcs[entity.id],
        )
        for entity in document.entities
    ]
    return Side(marked_text(document.text, marks), len(marks), lines)


def _badge(entity: Entity, flags: _Flags, scored: Collection[str] | None) -> str:
    """What is said of the mention beside its label, if anything."""
    if entity.id in flags.kinds:
        return KIND_TITLES[flags.kinds[entity.id]]
    return NOT_SCORED if scored is not None and entity.label not in scored else ""


def _marked(
    entity: Entity,
    number: int,
    labels: Labels,
    badge: str,
    links: Sequence[str],
    arcs: Sequence[str],
) -> Marked:
    places = " and ".join(f"{span.start}-{span.end}" for span in entity.spans)
    said = [f"{entity.label} ({entity.id}), characters {places}"]
    if entity.score is not None:
        said.append(f"probability {entity.score:.2f}")
    if badge:
        said.append(badge)
    classes = labels.classes(entity.label)
    if badge:
        classes += " unscored" if badge == NOT_SCORED else " wrong"
    if entity.is_discontinuous:
        classes += " part"
    return Marked(
        entity.spans,
        classes,
        inner=entity.label in labels.modifiers,
        everywhere={"data-m": number, "title": "\n".join([" · ".join(said), *links])},
        at_start={"data-to": " ".join(arcs)} if arcs else {},
        at_end={"data-l": f"{entity.label}: {badge}" if badge else entity.label},
    )
