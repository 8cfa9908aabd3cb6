"""One door to a corpus: a card, BRAT files or one JSON lines file."""

import gc

import pytest

from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.corpora.brat_writer import write_brat
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.corpora.open_corpus import find_corpora, load_corpus

NOTES = [Document("n1", "aspirin", (Entity.at("T1", "drug", 0, 7),)), Document("n2", "")]


def test_documents_of_a_corpus_with_a_card_know_its_name_and_what_was_annotated(tmp_path):
    write_jsonl(tmp_path / "d.jsonl.gz", NOTES)
    write_card(tmp_path, CorpusCard("north", "d.jsonl.gz", ("drug", "route")))
    for path in (tmp_path, tmp_path / "corpus.toml"):
        corpus = load_corpus(path)
        assert (corpus.name, corpus.annotated_labels) == ("north", {"drug", "route"})
        assert {d.source for d in corpus.documents} == {"north"}
        assert {d.annotated_labels for d in corpus.documents} == {frozenset({"drug", "route"})}
        assert [d.id for d in corpus.documents] == ["n1", "n2"]


def test_a_card_may_name_a_folder_of_brat_files_or_its_own(tmp_path):
    write_brat(tmp_path / "north" / "brat", NOTES)
    write_card(tmp_path / "north", CorpusCard("north", "brat", ("drug",)))
    write_brat(tmp_path / "south", NOTES)
    write_card(tmp_path / "south", CorpusCard("south", ".", ("drug",)))
    for name in ("north", "south"):
        corpus = load_corpus(tmp_path / name)
        assert [(d.id, d.source) for d in corpus.documents] == [("n1", name), ("n2", name)]


def test_without_a_card_nobody_knows_what_was_annotated(tmp_path):
    write_jsonl(tmp_path / "east.jsonl.zst", NOTES)
    write_brat(tmp_path / "west", NOTES)
    east, west = load_corpus(tmp_path / "east.jsonl.zst"), load_corpus(tmp_path / "west")
    assert (east.name, west.name) == ("east", "west")
    assert east.annotated_labels is None
    assert [d.annotated_labels for d in west.documents] == [None, None]


def test_bad_notes_can_be_left_out(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", NOTES)
    with (tmp_path / "d.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(CorpusError, match=r"d\.jsonl:3"):
        load_corpus(tmp_path / "d.jsonl")
    assert len(load_corpus(tmp_path / "d.jsonl", skip_bad_notes=True).documents) == 2


def test_where_there_is_no_corpus_the_error_says_what_was_expected(tmp_path):
    (tmp_path / "notes.csv").write_text("id,text\n")
    for path in (tmp_path, tmp_path / "notes.csv", tmp_path / "nothing"):
        with pytest.raises(ConfigError, match=r"expected .*\.jsonl|Name a \.jsonl"):
            load_corpus(path)


@pytest.mark.parametrize("documents", ["nothing.jsonl", "corpus.toml"])
def test_a_card_that_names_no_notes_is_refused(tmp_path, documents):
    write_card(tmp_path, CorpusCard("north", documents, ("drug",)))
    with pytest.raises(CorpusError, match="Correct the card"):
        load_corpus(tmp_path)


def test_a_folder_of_corpora_stands_for_each_of_them(tmp_path):
    for name in ("south", "north"):
        (tmp_path / name).mkdir()
        write_card(tmp_path / name, CorpusCard(name, "d.jsonl", ("drug",)))
    assert find_corpora(tmp_path) == [tmp_path / "north", tmp_path / "south"]
    assert find_corpora(tmp_path / "north") == [tmp_path / "north"]
    assert find_corpora(tmp_path / "x.jsonl") == [tmp_path / "x.jsonl"]


@pytest.mark.parametrize("was_on", [True, False])
def test_the_garbage_collector_is_left_as_it_was_also_by_a_corpus_that_cannot_be_read(
    tmp_path, was_on
):
    write_jsonl(tmp_path / "good.jsonl", NOTES)
    (tmp_path / "bad.jsonl").write_text("{\n")
    before = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        load_corpus(tmp_path / "good.jsonl")
        with pytest.raises(CorpusError):
            load_corpus(tmp_path / "bad.jsonl")
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()
