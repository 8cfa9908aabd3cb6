"""Splits: a partition that is seeded, balanced by label, and keeps patients together."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.seeds import python_rng
from fedmedlora.corpora.split import split_documents

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def document(number, labels, patient=None, source="north"):
    entities = tuple(Entity.at(f"T{i}", label, 0, 1) for i, label in enumerate(labels))
    metadata = {} if patient is None else {"patient_id": patient}
    return Document(f"n{number}", "x", entities, source=source, metadata=metadata)


def notes(count, seed=0):
    rng = python_rng(seed, "test notes")
    shares = {"problem": 0.9, "drug": 0.5, "route": 0.1, "course": 0.03}
    return [
        document(
            i, [x for x, p in shares.items() for _ in range(rng.randint(1, 9)) if rng.random() < p]
        )
        for i in range(count)
    ]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.sampled_from("abc"), max_size=4), st.none() | st.integers(0, 5)),
        max_size=30,
    ),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_a_split_loses_nothing_keeps_patients_together_and_ignores_the_order(drawn, seed, rng):
    documents = [document(i, labels, patient) for i, (labels, patient) in enumerate(drawn)]
    splits = split_documents(documents, FRACTIONS, seed)
    assert list(splits) == list(FRACTIONS)
    assert sorted(d.id for s in splits.values() for d in s) == sorted(d.id for d in documents)
    for patient in {d.metadata.get("patient_id") for d in documents} - {None}:
        holders = [
            name
            for name, split in splits.items()
            if any(d.metadata.get("patient_id") == patient for d in split)
        ]
        assert len(holders) == 1
    shuffled = documents.copy()
    rng.shuffle(shuffled)
    assert split_documents(shuffled, FRACTIONS, seed) == splits


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 40, 101])
def test_sizes_follow_the_fractions_and_no_split_is_empty_without_need(count):
    sizes = [len(split) for split in split_documents(notes(count), FRACTIONS, 0).values()]
    assert sum(sizes) == count
    if count >= 3:
        assert min(sizes) >= 1
    if count >= 10:
        assert all(
            abs(size - count * share) <= 1
            for size, share in zip(sizes, FRACTIONS.values(), strict=True)
        )


def test_labels_are_shared_out_as_asked_rare_ones_too():
    documents = notes(300)
    splits = split_documents(documents, FRACTIONS, 0)
    total = Counter(e.label for d in documents for e in d.entities)
    for name, share in FRACTIONS.items():
        count = Counter(e.label for d in splits[name] for e in d.entities)
        for label, number in total.items():
            assert count[label] == pytest.approx(number * share, rel=0.15, abs=1.5)


def test_another_seed_gives_another_split():
    tests = [
        {d.id for d in split_documents(notes(100), FRACTIONS, seed)["test"]} for seed in range(3)
    ]
    assert len({frozenset(t) for t in tests}) == 3


def test_the_split_of_a_seed_never_changes():
    test = split_documents(notes(30), FRACTIONS, 0)["test"]
    assert [d.id for d in test] == ["n0", "n16", "n17", "n23", "n25", "n7"]


def test_patients_of_two_corpora_with_the_same_number_are_two_patients():
    documents = [document(i, "a", "p1", source) for source in ("north", "south") for i in range(9)]
    splits = split_documents(documents, {"train": 0.5, "test": 0.5}, 0)
    assert [len({d.source for d in split}) for split in splits.values()] == [1, 1]


@pytest.mark.parametrize("seed", range(8))
def test_a_large_group_goes_where_there_is_room_for_it(seed):
    documents = [document(i, "a", "p" if i < 4 else None) for i in range(10)]
    splits = split_documents(documents, {"train": 0.8, "test": 0.2}, seed)
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "test": 2}


def test_what_belongs_together_can_be_said():
    documents = [document(i, "a") for i in range(12)]
    splits = split_documents(
        documents, {"train": 0.5, "test": 0.5}, 0, group=lambda d: str(int(d.id[1:]) % 4)
    )
    for split in splits.values():
        assert len(split) == 6
        assert len({int(d.id[1:]) % 4 for d in split}) == 2


@pytest.mark.parametrize(
    "fractions", [{}, {"train": 0.5}, {"train": 1.2, "test": -0.2}, {"train": 1, "test": 0}]
)
def test_fractions_that_are_no_partition_are_refused(fractions):
    with pytest.raises(ConfigError, match="add up to 1"):
        split_documents(notes(5), fractions, 0)
