"""The artificial hospitals: exact gold, all labels, no notes that can be learnt by heart."""

from pathlib import Path

import pytest

from fedmedlora.core.schema import default_schema
from fedmedlora.corpora.card import load_card
from fedmedlora.corpora.jsonl import read_jsonl
from fedmedlora.corpora.synthetic import FIVE, generate_site, synthesize

SCHEMA = default_schema()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return synthesize(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def sites(folders):
    return {folder.name: read_jsonl(folder / "documents.jsonl") for folder in folders}


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_the_same_arguments_write_the_same_bytes(tmp_path):
    synthesize(tmp_path / "a", num_notes=6, seed=3)
    synthesize(tmp_path / "b", num_notes=6, seed=3)
    synthesize(tmp_path / "c", num_notes=6, seed=4)
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")
    assert all_bytes(tmp_path / "a") != all_bytes(tmp_path / "c")


def test_five_hospitals_show_every_label_and_only_allowed_links(sites):
    labels = {e.label for notes in sites.values() for d in notes for e in d.entities}
    assert labels == set(SCHEMA.labels)
    pairs = set()
    for notes in sites.values():
        for document in notes:
            label = {e.id: e.label for e in document.entities}
            pairs |= {(label[r.head], label[r.tail]) for r in document.relations}
    assert pairs == {(m, e) for e, ms in SCHEMA.allowed_pairs.items() for m in ms}


def test_a_hospital_marks_only_the_labels_of_its_card_and_all_of_them_occur(folders, sites):
    for folder in folders:
        card = load_card(folder / "corpus.toml")
        found = {e.label for d in sites[folder.name] for e in d.entities}
        assert found <= set(card.annotated_labels), card.name
        assert card.num_documents == len(sites[folder.name])


@pytest.mark.parametrize("site", FIVE, ids=lambda site: site.name)
def test_a_note_does_not_depend_on_how_many_follow(site):
    assert generate_site(site.name, 5, 0) == generate_site(site.name, 9, 0)[:5]
