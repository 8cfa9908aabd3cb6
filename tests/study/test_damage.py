"""Labels can be made wrong on purpose, at one site, in what it trains on and nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity
from fedmedlora.core.errors import ConfigError
from fedmedlora.study.config import DamageConfig, StudyConfig
from fedmedlora.study.damage import damaged
from fedmedlora.study.data import load_notes

Small = Callable[..., StudyConfig]
LABELS = ("problem", "treatment", "test", "drug")
SITE = "alder-icu"


def notes(count: int) -> list[Document]:
    return [
        Document(
            f"n{i}",
            "pain aspirin scan cast mild",
            tuple(
                Entity.at(f"T{place}", label, start, end)
                for place, (label, start, end) in enumerate(
                    [
                        ("problem", 0, 4),
                        ("drug", 5, 12),
                        ("test", 13, 17),
                        ("treatment", 18, 22),
                        ("severity", 23, 27),
                    ]
                )
            ),
        )
        for i in range(count)
    ]


def test_a_flipped_label_is_another_one_of_the_site_and_nothing_else_changes() -> None:
    before = notes(300)

    after = damaged(before, LABELS, DamageConfig(site=SITE, share=0.6), seed=1)

    changed = Counter()
    for old, new in zip(before, after, strict=True):
        assert (old.id, old.text, old.relations) == (new.id, new.text, new.relations)
        for was, is_ in zip(old.entities, new.entities, strict=True):
            assert (was.id, was.spans) == (is_.id, is_.spans)
            if was.label not in LABELS:
                assert was == is_  # a modifier
            elif was.label != is_.label:
                assert is_.label in LABELS
                changed[was.label, is_.label] += 1
    assert changed.total() / 1200 == pytest.approx(0.6, abs=0.04)
    assert len(changed) == 12  # every wrong pair occurs
    assert max(changed.values()) < 2 * min(changed.values())


def test_permuted_labels_are_one_wrong_guideline() -> None:
    after = damaged(notes(5), LABELS, DamageConfig(site=SITE, kind="permute-labels"), seed=1)

    assert {tuple(e.label for e in note.entities) for note in after} == {
        ("treatment", "problem", "drug", "test", "severity")
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 1))
def test_the_same_seed_gives_the_same_damage_whatever_notes_stand_beside(
    seed: int, share: float
) -> None:
    damage = DamageConfig(site=SITE, share=share)
    some, all_of_them = notes(3), notes(6)

    assert damaged(some, LABELS, damage, seed) == damaged(all_of_them, LABELS, damage, seed)[:3]


def test_only_the_training_notes_of_the_named_site_are_damaged(small: Small) -> None:
    sound = load_notes(small())
    spoilt = load_notes(small('data.damage={site="alder-icu"}'))

    for before, after in zip(sound.sites, spoilt.sites, strict=True):
        assert after.validation == before.validation
        assert after.test == before.test
        assert (after.train == before.train) == (after.name != SITE)
    assert spoilt.cohorts == sound.cohorts
    (before,), (after,) = ([s for s in found.sites if s.name == SITE] for found in (sound, spoilt))
    wrong = sum(
        old.label != new.label
        for one, other in zip(before.train, after.train, strict=True)
        for old, new in zip(one.entities, other.entities, strict=True)
        if old.label in before.labels
    )
    assert wrong == sum(e.label in before.labels for d in before.train for e in d.entities)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (['data.damage={site="elm-eye"}'], "data.damage.site: 'elm-eye' is not a training site"),
        (['data.damage={site="alder-icu", kind="shuffle"}'], "data.damage.kind"),
        (['data.damage={site="alder-icu", share=0.0}'], "data.damage.share"),
        (
            ['data.damage={site="alder-icu"}', 'sites.0.labels=["problem"]'],
            "annotates 1 label; expected at least 2",
        ),
    ],
)
def test_damage_that_cannot_be_done_is_a_fault(
    small: Small, overrides: list[str], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_notes(small(*overrides))
