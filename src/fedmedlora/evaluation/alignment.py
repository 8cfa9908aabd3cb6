"""Gold and predicted documents brought together by id."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.core.errors import CorpusError
from fedmedlora.core.words import counted
from fedmedlora.corpora.reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmedlora.core.document import Document

_MOST_IDS_SHOWN = 5


def align_documents(
    gold: Iterable[Document], predicted: Iterable[Document]
) -> list[tuple[Document, Document]]:
    """Every gold document, in order, with its prediction.

    A gold document without a prediction gets an empty one: all its mentions are missed.

    Raises:
        CorpusError: There is no gold document, an id occurs twice on one side, a predicted
            document is not among the gold ones, or the two texts of an id differ.
    """
    gold_by_id = _by_id(gold, "gold")
    predicted_by_id = _by_id(predicted, "predicted")
    if not gold_by_id:
        raise CorpusError("gold: there is no document to score; expected at least one.")
    strangers = [id for id in predicted_by_id if id not in gold_by_id]
    if strangers:
        raise CorpusError(
            f"predicted: {counted(len(strangers), 'document')} not among the gold ones: "
            f"{_shown(strangers)}. Score predictions against the notes that they were made on."
        )
    differing = [id for id, d in predicted_by_id.items() if d.text != gold_by_id[id].text]
    if differing:
        raise CorpusError(
            f"predicted: {counted(len(differing), 'document')} with another text than the gold: "
            f"{_shown(differing)}. Offsets can only be compared on the same characters."
        )
    return [
        (document, predicted_by_id.get(id) or _without_prediction(document))
        for id, document in gold_by_id.items()
    ]


def _without_prediction(gold: Document) -> Document:
    # The gold metadata is not the extractor's: its counts would be taken for the extractor's own.
    return replace(gold, entities=(), relations=(), metadata={})


def _by_id(documents: Iterable[Document], side: str) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for document in documents:
        if document.id in found:
            raise CorpusError(f"{side}: document id {shown(document.id)} occurs twice.")
        found[document.id] = document
    return found


def _shown(ids: list[str]) -> str:
    more = ", ..." if len(ids) > _MOST_IDS_SHOWN else ""
    return ", ".join(shown(id) for id in ids[:_MOST_IDS_SHOWN]) + more
