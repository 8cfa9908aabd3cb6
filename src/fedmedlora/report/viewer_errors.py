"""The errors of a note as the viewer lists them: kind, labels, mentions, and a line of words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmedlora.evaluation.link_mistakes import LINK, LINK_END
from fedmedlora.evaluation.mistakes import BOTH, BOUNDARY, MISSED, SPURIOUS, TYPE
from fedmedlora.report.viewer_words import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Entity
    from fedmedlora.evaluation.link_mistakes import LinkMistake
    from fedmedlora.evaluation.mistakes import Mistake
    from fedmedlora.report.viewer_words import Labels

KIND_TITLES = {
    MISSED: "missed",
    SPURIOUS: "spurious",
    TYPE: "wrong label",
    BOUNDARY: "wrong boundaries",
    BOTH: "wrong label and boundaries",
    LINK: "wrong link",
    LINK_END: "link with a wrong end",
}


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """One error.

    Attributes:
        kind: A key of `KIND_TITLES`.
        labels: The numbers of the labels that it is about, with spaces between.
        gold: The places of its gold mentions among those of the note, likewise.
        predicted: The same for the predicted ones.
        text: What is wrong, in words.
    """

    kind: str
    labels: str
    gold: str
    predicted: str
    text: str

    @property
    def title(self) -> str:
        """The kind in words."""
        return KIND_TITLES[self.kind]


def error_lines(
    gold: Document,
    predicted: Document,
    mentions: Sequence[Mistake],
    links: Sequence[LinkMistake],
    labels: Labels,
) -> list[ErrorLine]:
    """The errors of a note, those in mentions first."""
    of_gold, of_predicted = _places(gold), _places(predicted)
    lines = []
    for mistake in mentions:
        wrong = [e for e in (mistake.gold, mistake.predicted) if e is not None]
        said = []
        if mistake.gold:
            said.append(f"gold {_with_offsets(gold, mistake.gold)}")
        if mistake.predicted:
            said.append(f"predicted {_with_offsets(predicted, mistake.predicted)}")
        lines.append(
            ErrorLine(
                mistake.kind,
                _numbers(wrong, labels),
                str(of_gold[mistake.gold.id]) if mistake.gold else "",
                str(of_predicted[mistake.predicted.id]) if mistake.predicted else "",
                ", ".join(said),
            )
        )
    for mistaken in links:
        for link, document, places, words in (
            (mistaken.gold, gold, of_gold, "gold, not predicted"),
            (mistaken.predicted, predicted, of_predicted, "predicted, not gold"),
        ):
            if link is not None:
                ends = f"{places[link.head.id]} {places[link.tail.id]}"
                told = f"{words}: {quoted(document, link.head)} → {quoted(document, link.tail)}"
                is_gold = link is mistaken.gold
                lines.append(
                    ErrorLine(
                        mistaken.kind,
                        _numbers((link.head, link.tail), labels),
                        ends if is_gold else "",
                        "" if is_gold else ends,
                        told,
                    )
                )
    return lines


def _places(document: Document) -> dict[str, int]:
    return {entity.id: place for place, entity in enumerate(document.entities)}


def _numbers(entities: Sequence[Entity], labels: Labels) -> str:
    return " ".join(dict.fromkeys(str(labels.numbers[entity.label]) for entity in entities))


def _with_offsets(document: Document, entity: Entity) -> str:
    return f"{quoted(document, entity)} {entity.start}-{entity.end}"
