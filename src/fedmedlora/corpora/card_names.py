"""Names in a corpus card that nothing knows: labels, relations and the role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.core.suggest import closest, did_you_mean, slip
from fedmedlora.corpora.card import line_of
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from fedmedlora.core.schema import TaskSchema
    from fedmedlora.corpora.card import CorpusCard

RELATIONS = ("modifies",)
"""What a modifier's relation to its entity is called here."""

ROLES = ("train", "external", "new-site")
"""The usual roles. A card may name one of its own."""


@dataclass(frozen=True, slots=True)
class WrongName:
    """A name in a card that is not known, where it stands, and what was probably meant."""

    key: str
    name: str
    line: int | None
    reason: str
    meant: str | None


def wrong_names(
    path: Path,
    card: CorpusCard,
    schema: TaskSchema | None,
    relations: Collection[str] = (),
) -> list[WrongName]:
    """The names in the card at `path` that neither the schema nor the notes know.

    Without a schema any label is taken. `relations` are the names of those that the notes hold; a
    card may announce `modifies` where they hold none.
    """
    text = path.read_text("utf-8")
    found: list[WrongName] = []

    def refuse(key: str, name: str, known: Collection[str], where: str) -> None:
        line = line_of(text, key, name)
        hint = did_you_mean(name, known) or f" Expected some of {', '.join(sorted(known))}."
        reason = f"{key} names {shown(name)}, which {where}.{hint}"
        found.append(WrongName(key, name, line, reason, closest(name, known)))

    for label in card.annotated_labels:
        if schema is not None and label not in schema.labels:
            refuse("annotated_labels", label, schema.labels, f"is not in the schema {schema.id}")
    known = {*RELATIONS, *relations}
    for name in card.annotated_relations:
        if name not in known and (schema is not None or relations):
            refuse("annotated_relations", name, known, "no relation here is called")
    if slip(card.role, ROLES):
        refuse("role", card.role, ROLES, "is not a role")
    return found


def misspelt_names(path: Path, card: CorpusCard, schema: TaskSchema) -> list[str]:
    """Faults of those labels and relations only that are a slip of one that is known.

    A card may list labels that a study has no use for, but a misspelt one would be left out
    without a word. A role decides nothing once a study names its sites.
    """
    return [
        f"{path}{f':{wrong.line}' if wrong.line else ''}: {wrong.reason}"
        for wrong in wrong_names(path, card, schema)
        if wrong.key != "role" and wrong.meant and slip(wrong.name, [wrong.meant])
    ]
