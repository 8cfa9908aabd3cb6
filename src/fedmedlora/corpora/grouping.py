"""Which notes must not be parted by a split: those of one patient, one source, or one text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fedmedlora.corpora.split import patient_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fedmedlora.core.document import Document
    from fedmedlora.corpora.split import GroupOf


def source_groups(documents: Iterable[Document], id_pattern: str | None = None) -> GroupOf:
    """The group of a document: notes that share any of the three are in the same one.

    The patient is metadata `patient_id`. The source is the first group of `id_pattern`, a regular
    expression, in the document's id, such as the abstract that a sentence comes from. Texts are the
    same if they differ in case and white space only; copied notes would otherwise be tested on
    after they were learnt.
    """
    pattern = re.compile(id_pattern) if id_pattern else None
    leader: dict[str, str] = {}

    def find(key: str) -> str:
        while leader.setdefault(key, key) != key:
            leader[key] = leader[leader[key]]
            key = leader[key]
        return key

    def join(first: str, second: str) -> None:
        a, b = sorted((find(first), find(second)))
        leader[b] = a

    for document in documents:
        own = f"id:{document.id}"
        join(own, "text:" + " ".join(document.text.casefold().split()))
        patient = patient_of(document)
        if patient is not None:
            join(own, f"patient:{patient}")
        match = pattern.search(document.id) if pattern else None
        if match:
            join(own, f"source:{match[1]}")
    return lambda document: find(f"id:{document.id}")
