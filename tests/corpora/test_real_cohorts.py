"""The real cohorts, where they are: read in full, cut at few mentions, converted unchanged."""

import os
from pathlib import Path

import pytest

from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.convert import convert
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.corpora.sentences import sentence_spans
from fedmedlora.corpora.validate import validate

FOLDER = os.environ.get("FEDMEDLORA_CORPORA", "")
COHORTS = ["chia", "glaucoma_ohsu", "lct", "maccrobat", "phee"]
pytestmark = [
    pytest.mark.corpora,
    pytest.mark.skipif(
        not FOLDER, reason="FEDMEDLORA_CORPORA does not name a folder with the real cohorts"
    ),
]


@pytest.mark.parametrize("name", COHORTS)
def test_a_cohort_is_read_in_full_and_without_a_fault(name):
    corpus = load_corpus(Path(FOLDER, name))
    found = (
        len(corpus.documents),
        sum(len(d.entities) for d in corpus.documents),
        sum(len(d.relations) for d in corpus.documents),
    )
    card = corpus.card
    assert found == (card.num_documents, card.num_entities, card.num_relations)
    assert validate(Path(FOLDER, name), default_schema()).faults == ()


@pytest.mark.parametrize("name", COHORTS)
def test_sentence_boundaries_cut_hardly_any_mention(name):
    num_cut = num_entities = 0
    for document in load_corpus(Path(FOLDER, name)).documents:
        ends = {span.end for span in sentence_spans(document.text)}
        num_entities += len(document.entities)
        num_cut += sum(
            any(entity.start < end < entity.end for end in ends) for entity in document.entities
        )
    assert num_cut <= 0.001 * num_entities


@pytest.mark.parametrize("name", ["chia", "maccrobat"])
def test_a_cohort_survives_brat(tmp_path, name):
    convert(Path(FOLDER, name), "jsonl", "brat", tmp_path / "brat")
    back = {d.id: d for d in load_corpus(tmp_path / "brat").documents}
    assert back == {d.id: d for d in load_corpus(Path(FOLDER, name)).documents}


@pytest.mark.parametrize(
    ("native", "num_documents", "num_bad"),
    # two notes of chia have a mention whose text stops at a line end that its offsets pass
    [("chia/chia_without_scope", 1622, 2), ("maccrobat/MACCROBAT2020", 160, 0)],
)
def test_native_brat_files_are_read_with_their_own_types(native, num_documents, num_bad):
    validation = validate(Path(FOLDER, native), None)
    assert validation.num_documents + validation.num_bad_notes == num_documents
    assert [fault.code for fault in validation.faults] == ["text-mismatch"] * num_bad
