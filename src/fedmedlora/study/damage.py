"""Artificial damage to one site's training notes: to see what a method withstands."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fedmedlora.core.seeds import python_rng

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedmedlora.core.document import Document, Entity
    from fedmedlora.study.config import DamageConfig


def damaged(
    documents: Sequence[Document], labels: Sequence[str], damage: DamageConfig, seed: int
) -> tuple[Document, ...]:
    """The notes with the labels of a share of their entities wrong; spans and all else stay.

    Which entities, and which label they get, depends on seed, site, note and entity only.

    Args:
        documents: A training split.
        labels: Entity labels that the site annotates; of fewer than two none can be wrong.
        damage: What to do.
        seed: Of the study.
    """
    if len(labels) < 2:
        return tuple(documents)

    def wrong(document: Document, entity: Entity) -> Entity:
        if entity.label not in labels:
            return entity
        rng = python_rng(seed, "damage", damage.site, document.id, entity.id)
        if rng.random() >= damage.share:
            return entity
        place = labels.index(entity.label)
        if damage.kind == "permute-labels":
            return replace(entity, label=labels[(place + 1) % len(labels)])
        others = [label for label in labels if label != entity.label]
        return replace(entity, label=rng.choice(others))

    return tuple(
        replace(document, entities=tuple(wrong(document, entity) for entity in document.entities))
        for document in documents
    )
