"""Two prediction sets on the same gold, from documents to adjusted p values."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.evaluation.comparison import Difference
from fedmedlora.evaluation.counting import count_entities
from fedmedlora.evaluation.evaluate import Evaluation, evaluate_presets
from fedmedlora.evaluation.intervals import estimate_f1, paired_difference
from fedmedlora.evaluation.presets import LENIENT, N2C2_2018, PRESETS, STRICT, Preset
from fedmedlora.evaluation.significance import holm

TEXT = "x" * 60


def made_up_notes(num: int = 40) -> list[Document]:
    rng = random.Random(5)
    notes = []
    for number in range(num):
        labels = [rng.choice(["drug", "problem"]) for _ in range(rng.randint(1, 6))]
        mentions = [Entity.at(f"T{i}", label, 8 * i, 8 * i + 5) for i, label in enumerate(labels)]
        notes.append(Document(f"d{number}", TEXT, tuple(mentions)))
    return notes


def found_by(skill: float, seed: int, notes: list[Document]) -> list[Document]:
    rng = random.Random(seed)
    found = []
    for note in notes:
        kept = [e for e in note.entities if rng.random() < skill]
        short = [replace(e, spans=(replace(e.spans[0], start=e.start + 1),)) for e in kept]
        found.append(
            note.with_entities(
                s if rng.random() < 0.2 else e for e, s in zip(kept, short, strict=True)
            )
        )
    return found


NOTES = made_up_notes()
GOOD, POOR = found_by(0.9, 1, NOTES), found_by(0.6, 2, NOTES)


def compared(
    first: list[Document], second: list[Document], *presets: Preset, gold: list[Document] = NOTES
) -> list[Evaluation]:
    return evaluate_presets(
        gold, first, presets, against=second, num_draws=400, num_swaps=499, seed=3
    )


def differences(results: list[Evaluation]) -> dict[tuple[str, str], Difference]:
    return {(d.preset, d.figure): d for r in results for d in r.differences or ()}


def test_the_difference_is_the_paired_one_of_the_bootstrap() -> None:
    found = differences(compared(GOOD, POOR, LENIENT))["lenient", "entities"]

    estimates = [
        estimate_f1(
            count_entities(
                list(zip(NOTES, each, strict=True)), LENIENT, ["drug", "problem"]
            ).matrix(),
            num_draws=400,
            seed=3,
        )
        for each in (GOOD, POOR)
    ]
    expected = paired_difference(*estimates)
    assert found.f1 == estimates[0].value > estimates[1].value == found.against_f1
    assert found.difference == pytest.approx(expected.value)
    assert found.ci95 == pytest.approx(expected.ci95)
    assert found.ci95[0] > 0
    assert found.p == pytest.approx(1 / 500)


def test_the_better_system_stays_the_better_one_when_the_two_are_swapped() -> None:
    there = differences(compared(GOOD, POOR, STRICT))["strict", "entities"]
    back = differences(compared(POOR, GOOD, STRICT))["strict", "entities"]

    assert back.difference == -there.difference
    assert back.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))
    assert back.p == there.p


def test_a_system_compared_with_itself_differs_by_nothing() -> None:
    found = differences(compared(GOOD, GOOD, STRICT))["strict", "entities"]

    assert (found.difference, found.ci95, found.p) == (0.0, (0.0, 0.0), 1.0)


def test_all_figures_of_all_presets_are_one_family() -> None:
    results = compared(GOOD, found_by(0.85, 4, NOTES), STRICT, LENIENT, N2C2_2018)

    found = differences(results)

    assert list(found) == [
        ("strict", "entities"),
        ("lenient", "entities"),
        ("n2c2-2018", "entities"),
        ("n2c2-2018", "entities.strict"),
    ]
    assert [d.p_holm for d in found.values()] == holm([d.p for d in found.values()])
    assert any(d.p_holm > d.p for d in found.values())
    for preset in (STRICT, LENIENT, N2C2_2018):
        for key, alone in differences(compared(GOOD, found_by(0.85, 4, NOTES), preset)).items():
            assert replace(alone, p_holm=found[key].p_holm) == found[key]


def test_links_are_compared_end_to_end_but_not_on_mentions_that_differ_by_system() -> None:
    gold = [
        replace(note, relations=(Relation("R1", "modifies", "T0", "T1"),))
        for note in NOTES
        if len(note.entities) > 1
    ]
    unlinked = [replace(note, relations=()) for note in gold]

    found = differences(compared(gold, unlinked, STRICT, gold=gold))

    assert set(found) == {("strict", "entities"), ("strict", "relations")}
    assert found["strict", "relations"].difference == 1.0


def test_links_that_were_not_annotated_are_compared_for_neither_system() -> None:
    links = (Relation("R1", "modifies", "T0", "T1"),)
    gold = [note for note in NOTES if len(note.entities) > 1]
    linked = [replace(note, relations=links) for note in gold]

    [result] = evaluate_presets(
        gold, gold, [STRICT], against=linked, annotated_relations=(), num_draws=10, num_swaps=9
    )

    assert set(differences([result])) == {("strict", "entities")}


def test_labels_that_only_the_other_system_predicts_are_scored_for_both() -> None:
    extra = Entity.at("T9", "test", 50, 55)
    strange = [note.with_entities([*note.entities, extra]) for note in NOTES]

    [result] = compared(NOTES, strange, STRICT)

    assert "test" in result.entities.labels
    assert differences([result])["strict", "entities"].difference > 0


def test_without_a_second_set_nothing_is_compared() -> None:
    for result in evaluate_presets(NOTES, GOOD, list(PRESETS.values()), num_draws=10):
        assert result.differences is None
        assert "against" not in result.to_json()
