"""What the viewer calls labels and mentions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fedmedlora.core.document import Document, Entity
    from fedmedlora.core.schema import TaskSchema

_NUM_COLOURS = 8
_MOST_CHARS_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a page.

    Attributes:
        numbers: What each is called in the page's attributes, whatever its name; in the order of
            the legend, entities first.
        colours: The class of each one's colour.
        modifiers: Those that are modifiers.
    """

    numbers: Mapping[str, int]
    colours: Mapping[str, str]
    modifiers: frozenset[str]

    def classes(self, label: str) -> str:
        """The class of the label's colour, and the one that only this label has."""
        return f"{self.colours[label]} L{self.numbers[label]}"


def page_labels(used: Collection[str], schema: TaskSchema) -> Labels:
    """The labels in use: those of the schema in its order, where each has a colour of its own.

    A label that the schema does not know is an entity.
    """
    others = sorted(set(used).difference(schema.labels))
    entities, modifiers = [*schema.entity_labels, *others], list(schema.modifier_labels)
    return Labels(
        {label: n for n, label in enumerate(e for e in (*entities, *modifiers) if e in used)},
        {label: f"c{n % _NUM_COLOURS}" for n, label in enumerate(entities)}
        | {label: f"m{n % _NUM_COLOURS}" for n, label in enumerate(modifiers)},
        frozenset(modifiers),
    )


def quoted(document: Document, entity: Entity) -> str:
    """`drug “aspirin”`, on one line and cut where it is long."""
    text = " … ".join(document.text[span.start : span.end] for span in entity.spans)
    text = re.sub(r"\s+", " ", text).strip()
    if len(text) > _MOST_CHARS_QUOTED:
        text = text[:_MOST_CHARS_QUOTED] + "…"
    return f"{entity.label} “{text}”"
