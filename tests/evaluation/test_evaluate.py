"""Whole documents in, scores out: what is scored, what is refused, what sums up."""

from __future__ import annotations

import dataclasses
import random

import pytest

from fedmedlora.core.document import Document, Entity, Relation
from fedmedlora.core.errors import ConfigError, CorpusError
from fedmedlora.core.schema import TaskSchema
from fedmedlora.evaluation.evaluate import Evaluation, evaluate_documents
from fedmedlora.evaluation.presets import (
    EXACT,
    LENIENT,
    N2C2_2018,
    PARTIAL,
    PRESETS,
    STRICT,
    Preset,
    find_preset,
)
from fedmedlora.evaluation.scores import Counts

TEXT = "Takes metoprolol 50 mg daily, no chest pain since the stent."
DRUG = Entity.at("T1", "drug", 6, 16)
STRENGTH = Entity.at("T2", "strength", 17, 22)
PROBLEM = Entity.at("T3", "problem", 33, 43)
NEGATION = Entity.at("T4", "negation", 30, 32)
LINKS = (Relation("R1", "modifies", "T2", "T1"), Relation("R2", "modifies", "T4", "T3"))
GOLD = Document("a", TEXT, (DRUG, STRENGTH, PROBLEM, NEGATION), LINKS)


def scored(
    gold: list[Document], predicted: list[Document], preset: Preset = STRICT, **options: object
) -> Evaluation:
    return evaluate_documents(gold, predicted, preset, num_draws=50, **options)  # type: ignore[arg-type]


def random_documents(seed: int) -> list[Document]:
    rng = random.Random(seed)
    documents = []
    for index in range(6):
        starts = [rng.randrange(50) for _ in range(rng.randint(0, 6))]
        entities = tuple(
            Entity.at(f"T{i}", rng.choice(["drug", "problem", "route"]), s, s + rng.randint(1, 9))
            for i, s in enumerate(starts)
        )
        documents.append(Document(f"d{index}", TEXT, entities))
    return documents


def noisy(documents: list[Document], seed: int) -> list[Document]:
    """The same mentions, some of them missed, shortened or with another label."""
    rng = random.Random(seed)
    found = []
    for document in documents:
        mentions = [
            Entity.at(
                e.id,
                rng.choice([e.label, e.label, "drug", "problem"]),
                e.start,
                e.end - (rng.random() < 0.3 and e.end - e.start > 1),
            )
            for e in document.entities
            if rng.random() < 0.9
        ]
        found.append(document.with_entities(mentions))
    return found


def test_gold_against_itself_is_perfect_in_every_block_of_every_preset() -> None:
    for preset in PRESETS.values():
        result = scored([GOLD], [GOLD], preset)
        assert result.entities.micro == Counts(tp=2)
        assert result.modifiers.micro == Counts(tp=2)
        assert result.relations.labels == {
            "strength-drug": Counts(tp=1),
            "negation-problem": Counts(tp=1),
        }
        for scores in result.figures.values():
            assert scores.macro_f1 == 1.0
        assert result.mistakes == ()


def test_entities_and_modifiers_are_counted_apart() -> None:
    predicted = GOLD.with_entities([DRUG, dataclasses.replace(NEGATION, label="severity")])

    result = scored([GOLD], [predicted])

    assert result.entities.labels == {"problem": Counts(fn=1), "drug": Counts(tp=1)}
    assert result.modifiers.micro == Counts(tp=0, fp=1, fn=2)
    assert result.relations.micro == Counts(fn=2)


def test_without_a_schema_a_label_of_ones_own_counts_as_an_entity() -> None:
    own = Document("a", TEXT, (Entity.at("T1", "device", 54, 59), STRENGTH))

    result = scored([own], [own])

    assert result.entities.labels == {"device": Counts(tp=1)}
    assert result.modifiers.labels == {"strength": Counts(tp=1)}


def test_a_schema_says_what_is_an_entity_and_what_is_scored_at_all() -> None:
    schema = TaskSchema("own", "v1", {"strength": "how much"}, {"drug": "what"}, {})

    result = scored([GOLD], [GOLD], schema=schema)

    assert list(result.entities.labels) == ["strength"]
    assert list(result.modifiers.labels) == ["drug"]
    assert result.not_scored == ("negation", "problem")


def test_a_prediction_of_a_label_that_was_not_annotated_is_no_error_of_the_system() -> None:
    gold = dataclasses.replace(
        GOLD.only_labels(["drug"]), annotated_labels=frozenset({"drug", "route"})
    )

    result = scored([gold], [GOLD])

    assert result.entities.micro == Counts(tp=1)
    assert result.modifiers.labels == {"route": Counts()}
    assert result.relations.micro == Counts()
    assert result.not_scored == ("negation", "problem", "strength")


def test_documents_of_one_set_may_be_annotated_for_different_labels() -> None:
    first = dataclasses.replace(GOLD, annotated_labels=frozenset({"drug"}))
    second = dataclasses.replace(GOLD, id="b", annotated_labels=frozenset({"problem"}))
    predicted = [GOLD.with_entities([PROBLEM]), dataclasses.replace(GOLD, id="b", relations=())]

    result = scored([first, second], predicted)

    assert result.entities.labels == {"problem": Counts(tp=1), "drug": Counts(fn=1)}


def test_links_of_a_corpus_without_annotated_links_are_not_scored() -> None:
    assert scored([GOLD], [GOLD], annotated_relations=()).relations.micro == Counts()


def test_only_the_labels_asked_for_are_scored_and_only_links_between_them() -> None:
    result = scored([GOLD], [GOLD], labels=["drug", "strength"])

    assert list(result.entities.labels) == ["drug"]
    assert list(result.modifiers.labels) == ["strength"]
    assert list(result.relations.labels) == ["strength-drug"]
    assert result.not_scored == ()


def test_an_unknown_label_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown: drgu; expected some of .*\bdrug\b"):
        scored([GOLD], [GOLD], labels=["drgu"])


def test_asking_only_for_labels_that_were_not_annotated_is_refused() -> None:
    gold = dataclasses.replace(GOLD, annotated_labels=frozenset({"drug"}))

    with pytest.raises(ConfigError, match="none of problem can be scored"):
        scored([gold], [gold], labels=["problem"])


def test_a_gold_document_without_a_prediction_is_missed_altogether() -> None:
    other = dataclasses.replace(GOLD, id="b")

    result = scored([GOLD, other], [GOLD])

    assert result.num_documents == 2
    assert result.entities.micro == Counts(tp=2, fn=2)
    assert result.relations.micro == Counts(tp=2, fn=2)


def test_a_predicted_document_that_is_not_gold_is_refused_by_id() -> None:
    with pytest.raises(CorpusError, match="1 document not among the gold ones: 'b'"):
        scored([GOLD], [dataclasses.replace(GOLD, id="b")])


def test_a_prediction_on_another_text_is_refused_without_showing_either() -> None:
    with pytest.raises(CorpusError, match="1 document with another text than the gold") as caught:
        scored([GOLD], [dataclasses.replace(GOLD, text=TEXT + " ")])

    assert "'a'" in str(caught.value)
    assert "metoprolol" not in str(caught.value)


def test_an_id_that_looks_like_note_text_is_withheld() -> None:
    with pytest.raises(CorpusError) as caught:
        scored([GOLD], [Document("Mr Doe has chest pain", TEXT)])

    assert "Doe" not in str(caught.value)


def test_a_document_that_occurs_twice_is_refused() -> None:
    with pytest.raises(CorpusError, match="predicted: document id 'a' occurs twice"):
        scored([GOLD], [GOLD, GOLD])


def test_no_gold_documents_are_refused() -> None:
    with pytest.raises(CorpusError, match="no document to score"):
        scored([], [])


def test_predictions_that_could_not_be_placed_are_false_positives() -> None:
    lost = {"unaligned_predictions": {"drug": 2, "strength": 1}}

    result = scored([GOLD], [dataclasses.replace(GOLD, metadata=lost)])

    assert result.rates.num_unaligned == 3
    assert result.entities.micro == Counts(tp=2, fp=2)
    assert result.modifiers.labels["strength"] == Counts(tp=1, fp=1)


def test_an_unplaced_prediction_is_false_also_where_its_label_occurs_nowhere_else() -> None:
    lost = {"unaligned_predictions": {"test": 2}}

    result = scored([GOLD], [dataclasses.replace(GOLD, metadata=lost)])

    assert result.entities.labels["test"] == Counts(fp=2)


def test_a_note_without_a_prediction_inherits_no_counts_from_the_gold_metadata() -> None:
    gold = dataclasses.replace(GOLD, metadata={"unaligned_predictions": {"drug": 9}})

    result = scored([gold], [])

    assert result.entities.micro == Counts(fn=2)
    assert result.rates.num_unaligned == 0


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
@pytest.mark.parametrize("seed", range(3))
def test_labels_sum_to_micro_under_every_preset_and_figure(preset: Preset, seed: int) -> None:
    gold = random_documents(seed)

    result = scored(gold, noisy(gold, seed), preset)

    for scores in result.figures.values():
        assert sum(scores.labels.values(), Counts()) == scores.micro
    assert result.entities.micro.tp > 0


def test_where_labels_do_not_matter_a_hit_counts_for_the_gold_label() -> None:
    predicted = GOLD.with_entities([dataclasses.replace(DRUG, label="problem")])

    result = scored([GOLD], [predicted], EXACT).entities

    assert result.labels == {"problem": Counts(fn=1), "drug": Counts(tp=1)}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_entities_are_never_paired_with_modifiers_even_where_labels_do_not_matter(
    preset: Preset,
) -> None:
    predicted = GOLD.with_entities([dataclasses.replace(DRUG, label="strength")])

    result = scored([GOLD], [predicted], preset)

    assert result.entities.micro == Counts(fn=2)
    assert result.modifiers.micro == Counts(fp=1, fn=2)


def test_each_document_counts_the_same_in_a_macro_f1_over_documents() -> None:
    def note(id: str, num: int) -> Document:
        drugs = [Entity.at(f"T{i}", "drug", 2 * i, 2 * i + 1) for i in range(num)]
        return Document(id, TEXT, tuple(drugs))

    gold = [note("long", 9), note("short", 1), note("empty", 0)]
    predicted = [note("long", 9), note("short", 0), note("empty", 0)]

    result = scored(gold, predicted, N2C2_2018)

    assert result.entities.macro_f1 == pytest.approx((1 + 0 + 0) / 3)
    assert result.entities.micro.f1 == pytest.approx(18 / 19)
    assert scored(gold, predicted).entities.macro_f1 == pytest.approx(18 / 19)


def test_intervals_of_labels_come_from_the_draws_of_the_whole() -> None:
    gold = random_documents(3)
    predicted = noisy(gold, 4)

    scores = scored(gold, predicted, LENIENT).entities

    for label in ("problem", "drug"):
        alone = scored(gold, predicted, LENIENT, labels=[label]).entities
        assert scores.labels_f1_ci95[label] == alone.f1_ci95
    assert scores.labels_f1_ci95["drug"] != scores.f1_ci95


def test_the_categories_of_semeval_add_up_to_the_mentions_with_unplaced_ones_spurious() -> None:
    gold, predicted = random_documents(1), random_documents(2)
    predicted[0] = dataclasses.replace(
        predicted[0], metadata={"unaligned_predictions": {"drug": 2, "strength": 1}}
    )

    result = scored(gold, predicted, PARTIAL, labels=["drug", "problem", "strength"])

    for scheme, tally in result.categories["entities"].items():
        paired = tally["correct"] + tally["incorrect"] + tally["partial"]
        micro = result.entities.micro
        assert paired + tally["missed"] == micro.tp + micro.fn
        assert paired + tally["spurious"] == micro.tp + micro.fp
        if scheme == "partial":
            assert tally["correct"] + 0.5 * tally["partial"] == micro.tp
    assert result.categories["modifiers"]["strict"]["spurious"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_labels_sum_to_micro_strict_is_below_lenient_and_swapping_swaps(seed: int) -> None:
    gold, predicted = random_documents(seed), random_documents(seed + 100)

    lenient, strict = scored(gold, predicted, LENIENT), scored(gold, predicted, STRICT)
    swapped = scored(predicted, gold, LENIENT)

    assert sum(lenient.entities.labels.values(), Counts()) == lenient.entities.micro
    assert lenient.entities.micro.tp > 0
    assert strict.entities.micro.tp <= lenient.entities.micro.tp
    assert swapped.entities.micro.precision == lenient.entities.micro.recall
    assert swapped.entities.micro.recall == lenient.entities.micro.precision


def test_the_order_of_documents_and_entities_changes_no_score() -> None:
    gold, predicted = random_documents(1), random_documents(2)
    turned = [d.with_entities(reversed(d.entities)) for d in reversed(predicted)]

    assert scored(gold, turned, LENIENT) == scored(gold, predicted, LENIENT)


def test_macro_f1_is_the_mean_over_labels_that_occur() -> None:
    gold = dataclasses.replace(GOLD, annotated_labels=frozenset({"drug", "problem", "test"}))
    predicted = GOLD.with_entities([DRUG])

    result = scored([gold], [predicted])

    assert list(result.entities.labels) == ["problem", "test", "drug"]
    assert result.entities.macro_f1 == pytest.approx((1.0 + 0.0) / 2)


def test_ratios_without_a_denominator_are_zero() -> None:
    assert (Counts().precision, Counts().recall, Counts().f1) == (0.0, 0.0, 0.0)
    assert Counts(tp=1, fp=3, fn=1).precision == 0.25
    assert Counts(tp=1, fp=3, fn=1).recall == 0.5
    assert Counts(tp=1, fp=3, fn=1).f1 == pytest.approx(1 / 3)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"expected one of strict, lenient, .*; got 'loose'"):
        find_preset("loose")
