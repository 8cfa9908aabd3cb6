"""Splits are disjoint, budgets are kept, and test notes are nowhere but in tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError
from fedmedlora.corpora.card import CorpusCard, write_card
from fedmedlora.corpora.jsonl import write_jsonl
from fedmedlora.corpora.open_corpus import load_corpus
from fedmedlora.study.config import StudyConfig
from fedmedlora.study.data import load_notes
from fedmedlora.study.prepare import Prepared
from fedmedlora.study.study_file import load_study


def ids(documents: tuple[Document, ...]) -> set[str]:
    return {document.id for document in documents}


def test_a_sites_splits_share_no_note_and_lose_none(prepared: Prepared) -> None:
    root = prepared.config.data.root
    for site in prepared.notes.sites:
        everything = [*site.train, *site.validation, *site.test]
        assert len(ids(tuple(everything))) == len(everything)
        assert ids(tuple(everything)) == ids(load_corpus(root / site.name).documents)
        assert site.train
        assert site.validation
        assert site.test


def test_notes_of_one_patient_are_in_one_split(prepared: Prepared) -> None:
    for site in prepared.notes.sites:
        patients = [
            {document.metadata["patient_id"] for document in split}
            for split in (site.train, site.validation, site.test)
        ]
        assert sum(map(len, patients)) == len(set.union(*patients))


def test_a_site_trains_on_its_training_notes_only(prepared: Prepared) -> None:
    for site in prepared.notes.sites:
        assert prepared.data[site.name].keys() == {"entities"}
        data = prepared.data[site.name]["entities"]
        assert {example.document_id for example in data.train} <= ids(site.train)
        assert {example.document_id for example in data.validation} <= ids(site.validation)


def test_the_pooled_examples_are_those_of_all_sites_and_no_others(prepared: Prepared) -> None:
    own = [e for s in prepared.notes.sites for e in prepared.data[s.name]["entities"].train]
    pool = prepared.data["pooled"]["entities"]

    assert sorted(pool.train, key=repr) == sorted(own, key=repr)
    assert pool.num_documents == len({e.document_id for e in own})


def test_the_server_holds_validation_notes_only_and_as_many_as_were_agreed(
    prepared: Prepared,
) -> None:
    assert prepared.server_notes is not None
    given = set(prepared.server_notes.notes["entities"])
    by_site = {site.name: site for site in prepared.notes.sites}

    assert {site for site, _ in given} == set(by_site)
    for site, note in given:
        assert note in ids(by_site[site].validation)
    assert len(given) == len(by_site)  # notes_per_site = 1
    assert prepared.server_notes.num_tokens <= 900


def test_in_domain_cohorts_are_the_sites_test_notes_and_external_ones_are_no_sites(
    prepared: Prepared,
) -> None:
    in_domain = {c.name: c for c in prepared.notes.cohorts if c.setting == "in-domain"}
    external = {c.name: c for c in prepared.notes.cohorts if c.setting == "external"}

    for site in prepared.notes.sites:
        assert ids(in_domain.pop(site.name).documents) <= ids(site.test)
    assert in_domain == {}
    assert set(external) == {"dogwood-triage", "elm-eye"}


def test_only_annotated_labels_are_asked_for(prepared: Prepared) -> None:
    tokenizer = prepared.base.tokenizer
    labels = {site.name: site.labels for site in prepared.notes.sites}

    assert labels == {
        "alder-icu": ("problem", "treatment", "test", "drug"),
        "birch-clinic": ("problem", "treatment", "drug"),
        "cedar-dictation": ("problem", "test", "drug"),
    }
    for site, own in labels.items():
        for label in ("problem", "treatment", "test", "drug"):
            tag = prepared.tags.open_tag(label)
            for example in prepared.data[site]["entities"].train:
                answer = tokenizer.decode(example.token_ids[example.num_prompt_tokens :])
                assert label in own or tag not in answer
            prompts = {
                tokenizer.decode(e.token_ids[: e.num_prompt_tokens])
                for e in prepared.data[site]["entities"].train
            }
            assert all((label in p.split("Text:")[0]) == (label in own) for p in prompts)


def test_labels_in_question_can_be_narrowed(tiny_study: Path) -> None:
    notes = load_notes(load_study(tiny_study, ['sites.0.labels=["drug", "problem"]']))

    assert notes.sites[0].labels == ("problem", "drug")
    assert notes.cohorts[0].labels == ("problem", "drug")


@pytest.mark.parametrize("budget", [1, 300, 700, 10_000])
def test_the_token_budget_of_training_holds_for_every_site(tiny_study, budget: int) -> None:
    from fedmedlora.core.records import SilentObserver
    from fedmedlora.study.prepare import prepare, resolve

    config = load_study(tiny_study, [f"training.max_tokens={budget}"])
    found = prepare(resolve(config, SilentObserver()), SilentObserver())
    for site in found.notes.sites:
        data = found.data[site.name]["entities"]
        # At least one example, however small the budget is.
        assert len(data.train) >= 1
        assert data.num_tokens <= budget or len(data.train) == 1
        assert data.num_documents == len({e.document_id for e in data.train})


@pytest.mark.parametrize("budget", [1, 400, 900, 100_000])
def test_the_character_budget_draws_whole_notes(tiny_study, budget: int) -> None:
    everything = load_notes(load_study(tiny_study, ["evaluation.max_characters=1000000"]))
    notes = load_notes(load_study(tiny_study, [f"evaluation.max_characters={budget}"]))

    for cohort, full in zip(notes.cohorts, everything.cohorts, strict=True):
        assert cohort.num_characters <= budget or len(cohort.documents) == 1
        assert ids(cohort.documents) <= ids(full.documents)
        assert [d.id for d in cohort.documents] == sorted(ids(cohort.documents))
    if budget == 100_000:
        assert [c.documents for c in notes.cohorts] == [c.documents for c in everything.cohorts]


def test_another_seed_splits_otherwise_and_the_same_seed_likewise(tiny_study: Path) -> None:
    def splits(seed: int) -> list[tuple[set[str], set[str]]]:
        notes = load_notes(load_study(tiny_study, [f"seed={seed}"]))
        return [(ids(site.train), ids(site.test)) for site in notes.sites]

    assert splits(1) == splits(1)
    assert splits(1) != splits(2)


def test_the_digest_tells_other_labels_and_other_corpora(tiny_study: Path) -> None:
    def digest(*overrides: str) -> str:
        return load_notes(load_study(tiny_study, overrides)).digest

    plain = digest()
    assert digest("training.max_tokens=5") == plain  # settings are part of the run's own hash
    assert digest('sites.0.labels=["problem"]') != plain
    assert digest("cohorts=[]") != plain


# Faults ------------------------------------------------------------------------------------------


def corpus(folder: Path, *notes: Document, labels: tuple[str, ...] = ("problem", "drug")) -> Path:
    folder.mkdir(parents=True)
    write_jsonl(folder / "documents.jsonl", notes)
    write_card(folder, CorpusCard(folder.name, "documents.jsonl", labels))
    return folder


def note(number: int, *, label: str | None = "drug") -> Document:
    entities = () if label is None else (Entity.at("T1", label, 6, 13),)
    # Notes with one text are kept together, so each has its own.
    return Document(f"n{number}", f"Given aspirin daily, visit {number}.", entities)


@pytest.fixture
def study_of(tmp_path: Path) -> Callable[..., StudyConfig]:
    def make(**corpora: tuple[Document, ...]) -> StudyConfig:
        text = 'name = "s"\n'
        for name, notes in corpora.items():
            corpus(tmp_path / name, *notes)
            kind = "cohorts" if name.startswith("far") else "sites"
            text += f'[[{kind}]]\nname = "{name}"\ncorpus = "{name}"\n'
        path = tmp_path / "study.toml"
        path.write_text(text, "utf-8")
        return load_study(path)

    return make


def told(config: StudyConfig) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_notes(config)
    return str(caught.value).splitlines()


def test_three_notes_are_enough_for_a_site(study_of) -> None:
    notes = load_notes(study_of(north=(note(1), note(2), note(3))))

    (site,) = notes.sites
    assert len(site.train) == len(site.validation) == len(site.test) == 1


def test_a_site_with_too_few_notes_is_told_which_split_lacks_some(study_of) -> None:
    config = study_of(north=(note(1),))

    (fault,) = told(config)
    assert fault.startswith("site north: has no test note; expected at least one of 1 note.")


def test_a_giver_of_server_notes_without_validation_notes_is_told(study_of) -> None:
    from fedmedlora.study.config import ServerNotesConfig

    config = study_of(north=(note(1), note(2)), south=tuple(map(note, range(9))))
    giving = config.model_copy(update={"server_notes": ServerNotesConfig()})
    other = config.model_copy(update={"server_notes": ServerNotesConfig(sites=("south",))})

    assert "has no validation note to give to the server" in told(giving)[0]
    assert load_notes(other)
    assert load_notes(config)


def test_all_faulty_corpora_are_told_at_once(study_of, tmp_path: Path) -> None:
    config = study_of(
        north=tuple(note(n, label=None) for n in range(9)),
        south=tuple(note(n, label="problem") for n in range(9)),
        far=(note(1),),
        far_off=(note(1),),
    )
    (tmp_path / "far" / "documents.jsonl").write_text("", "utf-8")
    card = tmp_path / "far_off" / "corpus.toml"
    card.write_text(card.read_text("utf-8").replace('"problem", "drug"', '"mood"'), "utf-8")
    (tmp_path / "south" / "documents.jsonl").unlink()

    found = told(config)

    for start in (
        "site north: has no training note",
        "south: ",
        "far: ",
        "far_off: annotates none",
    ):
        assert any(fault.startswith(start) for fault in found), (start, found)


def test_labels_must_be_named_where_no_card_says_what_was_annotated(study_of) -> None:
    config = study_of(north=tuple(map(note, range(9))))
    site = config.sites[0].model_copy(update={"corpus": Path("north/documents.jsonl")})
    bare = config.model_copy(update={"sites": (site,)})
    named = site.model_copy(update={"labels": ("drug",)})

    assert any("no corpus card says which labels were annotated" in f for f in told(bare))
    labelled = load_notes(config.model_copy(update={"sites": (named,)}))
    assert labelled.sites[0].labels == ("drug",)
    assert load_notes(config).sites[0].labels == ("problem", "drug")


def test_a_label_that_the_site_never_annotated_is_a_fault(study_of) -> None:
    config = study_of(north=tuple(map(note, range(9))))
    for labels in (("test",), ("drug", "mood")):
        site = config.sites[0].model_copy(update={"labels": labels})
        wrong = labels[-1]
        found = told(config.model_copy(update={"sites": (site,)}))
        assert any(f"labels: '{wrong}' is not an entity label that the corpus" in f for f in found)


def test_entities_of_other_labels_do_not_make_a_training_note(study_of) -> None:
    config = study_of(north=tuple(note(n, label="drug") for n in range(9)))
    site = config.sites[0].model_copy(update={"labels": ("problem",)})

    (fault,) = told(config.model_copy(update={"sites": (site,)}))
    assert "has no training note with an annotated entity" in fault


def test_notes_of_one_source_are_in_one_split(study_of) -> None:
    config = study_of(north=tuple(map(note, range(40))))
    site = config.sites[0].model_copy(update={"group": r"n\d?(\d)$"})  # by last digit: ten groups

    (found,) = load_notes(config.model_copy(update={"sites": (site,)})).sites

    digits = [{d.id[-1] for d in split} for split in (found.train, found.validation, found.test)]
    assert sum(map(len, digits)) == len(set.union(*digits)) == 10


def test_a_changed_patient_changes_the_digest_as_it_changes_the_split(study_of, tmp_path) -> None:
    notes = tuple(map(note, range(9)))
    config = study_of(north=notes)
    before = load_notes(config).digest
    changed = (replace(notes[0], metadata={"patient_id": "p"}), *notes[1:])
    write_jsonl(tmp_path / "north" / "documents.jsonl", changed)

    assert load_notes(config).digest != before
