"""Labels of notes without a corpus card: which occur, and the line that a study file needs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmedlora.core.document import Document
    from fedmedlora.core.schema import TaskSchema


def found_labels(documents: Iterable[Document], schema: TaskSchema) -> list[str]:
    """The entity labels of the schema that occur in the notes, in its order."""
    held = {entity.label for document in documents for entity in document.entities}
    return [label for label in schema.entity_labels if label in held]


def what_to_write(documents: Iterable[Document], schema: TaskSchema) -> str:
    """What to do about notes of which nobody says what was annotated."""
    labels = found_labels(documents, schema)
    if not labels:
        return (
            f"Its notes hold none of {', '.join(schema.entity_labels)}. Convert them with a "
            "mapping first: fedmedlora corpus convert --map."
        )
    return (
        f"Below its name in the study file write labels = {json.dumps(labels)}, the labels that "
        "occur in its notes; add those that the annotators looked for and did not find."
    )
