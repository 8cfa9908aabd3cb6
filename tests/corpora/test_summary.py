"""Summaries: counts by label and pair, and scipy's divergence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.corpora.open_corpus import Corpus
from fedmedlora.corpora.summary import divergence, divergences, summarize


def test_a_summary_counts_documents_sentences_labels_and_pairs():
    note = Document(
        "n1",
        "Aspirin daily. No pain.\nRest.",
        (
            Entity.at("T1", "drug", 0, 7),
            Entity.at("T2", "frequency", 8, 13),
            Entity.at("T3", "drug", 0, 7),
        ),
        (Relation("R1", "modifies", "T2", "T1"), Relation("R2", "modifies", "T2", "T3")),
    )
    summary = summarize(Corpus("north", (note, Document("n2", "")), frozenset({"drug", "a"})))
    assert summary.to_json() == {
        "name": "north",
        "num_documents": 2,
        "num_sentences": 3,
        "num_characters": 29,
        "entities": {"drug": 2, "frequency": 1},
        "relations": {"frequency-drug": 2},
        "annotated_labels": ("a", "drug"),
        "num_entities": 3,
        "num_relations": 2,
    }


counts = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 1000), min_size=1)


@given(counts, counts)
def test_the_divergence_is_scipys_in_bits(first, second):
    labels = sorted(first.keys() | second.keys())
    p, q = [first.get(x, 0) for x in labels], [second.get(x, 0) for x in labels]
    expected = 0.0 if len(labels) == 1 else jensenshannon(p, q, base=2) ** 2
    assert divergence(first, second) == pytest.approx(expected, abs=1e-9)


def test_the_divergence_is_0_for_the_same_shares_1_without_a_common_label_none_without_any():
    assert divergence({"a": 1, "b": 2}, {"a": 10, "b": 20}) == pytest.approx(0, abs=1e-12)
    assert divergence({"a": 5}, {"b": 1}) == 1
    assert divergence({"a": 5}, {}) is None


def test_each_pair_of_corpora_is_compared_once():
    corpora = [Corpus(name, (), None) for name in ("a", "b", "c")]
    pairs = divergences([summarize(corpus) for corpus in corpora])
    assert [(p["first"], p["second"], p["bits"]) for p in pairs] == [
        ("a", "b", None),
        ("a", "c", None),
        ("b", "c", None),
    ]
