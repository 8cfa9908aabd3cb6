"""How much of real annotation a format can hold at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.prompts.pieces import cut

FOLDER = os.environ.get("FEDMEDLORA_CORPORA", "")
pytestmark = [
    pytest.mark.corpora,
    pytest.mark.skipif(
        not FOLDER, reason="FEDMEDLORA_CORPORA does not name a folder with the real cohorts"
    ),
]


@pytest.mark.parametrize("name", ["chia", "glaucoma_ohsu", "lct", "maccrobat", "phee"])
def test_nearly_every_annotated_boundary_lies_between_two_pieces(name: str) -> None:
    labels = default_schema().entity_labels
    num_reached = num_boundaries = 0
    for document in load_corpus(Path(FOLDER, name)).documents:
        pieces = cut(document.text)
        starts = {piece.core_start for piece in pieces}
        ends = {piece.end for piece in pieces}
        for entity in document.entities:
            if entity.label in labels:
                num_boundaries += 2 * len(entity.spans)
                num_reached += sum(s.start in starts for s in entity.spans)
                num_reached += sum(s.end in ends for s in entity.spans)

    assert num_boundaries > 100
    assert num_reached / num_boundaries >= 0.99
