"""The corpus card: read in full, written back the same, and refused with all that is wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.errors import CorpusError
from fedmedlora.corpora.card import CorpusCard, load_card, write_card

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)


def test_a_card_says_what_was_annotated_and_may_say_more(tmp_path):
    path = tmp_path / "corpus.toml"
    path.write_text(
        'name = "north"\ndocuments = "documents.jsonl"  # beside this file\nrole = "train"\n'
        'annotated_labels = ["drug", "problem"]\nannotated_relations = ["modifies"]\n'
        'num_documents = 3\ncontact = "nobody"\n'
    )
    assert load_card(path) == CorpusCard(
        "north", "documents.jsonl", ("drug", "problem"), ("modifies",), "train", num_documents=3
    )


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        CorpusCard,
        words,
        words,
        st.lists(words, max_size=3).map(tuple),
        st.lists(words, max_size=3).map(tuple),
        role=st.just("") | words,
        style=words | st.just("tab\tquote\"back\\slash\x7f\x00\n'''"),
        num_entities=st.none() | st.integers(0, 10**9),
    )
)
def test_a_card_is_read_back_as_it_was_written(tmp_path_factory, card):
    assert load_card(write_card(tmp_path_factory.mktemp("card"), card)) == card


def test_all_faults_of_a_card_are_told_at_once(tmp_path):
    path = tmp_path / "corpus.toml"
    path.write_text('name = ""\nannotated_labels = "drug"\nstyle = 3\nnum_relations = -1\n')
    with pytest.raises(CorpusError) as caught:
        load_card(path)
    assert str(caught.value).splitlines() == [
        f'{path}:1: name is empty. Write name = "north"; the folder\'s name will do.',
        f'{path}: documents is missing. Write documents = "documents.jsonl", or "." for BRAT files '
        "beside the card.",
        f'{path}:3: style is not a string. Write it in quotes: style = "...".',
        f'{path}:2: annotated_labels is not a list of strings. Write annotated_labels = ["drug"].',
        f"{path}:4: num_relations is not a whole number, zero or more. "
        "Correct it, or leave it out.",
    ]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("annotated_label", "annotated_labels"),
        ("labels", "annotated_labels"),
        ("Name", "name"),
        ("license", "licence"),
        ("annotated-relations", "annotated_relations"),
        ("num_document", "num_documents"),
    ],
)
def test_a_misspelt_key_is_told_with_the_right_one_and_not_as_a_missing_one(tmp_path, wrong, right):
    lines = {"name": '"x"', "documents": '"d.jsonl"', "annotated_labels": '["drug"]'}
    value = lines.pop(right, '["modifies"]')
    path = tmp_path / "corpus.toml"
    path.write_text("".join(f"{k} = {v}\n" for k, v in {**lines, wrong: value}.items()))

    with pytest.raises(CorpusError) as caught:
        load_card(path)

    line = len(lines) + 1
    assert (
        str(caught.value)
        == f"{path}:{line}: the key {wrong!r} is not known. Did you mean {right!r}?"
    )


@pytest.mark.parametrize(
    "own",
    [
        "num_patients",
        "num_notes",
        "num_sentences",
        "num_entries",
        "labels",
        "entities",
        "document_type",
        "documents_url",
        "relations",
        "site",
    ],
)
def test_a_key_of_ones_own_is_passed_over_however_like_ours_it_sounds(tmp_path, own):
    path = tmp_path / "corpus.toml"
    card = 'name = "x"\ndocuments = "d.jsonl"\nannotated_labels = ["drug"]\n'
    path.write_text(f"{card}{own} = 30\n")

    assert load_card(path) == CorpusCard("x", "d.jsonl", ("drug",))


def test_a_key_that_is_there_is_not_meant_by_another(tmp_path):
    path = tmp_path / "corpus.toml"
    card = 'name = "x"\ndocuments = "d.jsonl"\nannotated_labels = ["drug"]\n'
    path.write_text(f'{card}names = ["x", "y"]\n')

    assert load_card(path).name == "x"


@pytest.mark.parametrize("raw", [b"name = ", b'name = "caf\xe9"', b"\xff\xfe"])
def test_a_card_that_is_not_toml_is_refused_by_name(tmp_path, raw):
    path = tmp_path / "corpus.toml"
    path.write_bytes(raw)
    with pytest.raises(CorpusError, match=r"corpus\.toml: (not TOML|byte \d+ is not UTF-8)"):
        load_card(path)
