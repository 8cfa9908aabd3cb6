"""Every preset against a scorer that others wrote, or against a plain port of its rules."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator
from seqeval.metrics.v1 import precision_recall_fscore_support
from seqeval.scheme import IOB2

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.evaluation.counting import count_entities, count_links
from fedmedlora.evaluation.items import mention_items
from fedmedlora.evaluation.matching import overlap_and_label, same_offsets_and_label
from fedmedlora.evaluation.presets import EXACT, N2C2_2018, PAPER, PARTIAL, STRICT
from fedmedlora.evaluation.scores import Counts
from fedmedlora.evaluation.semeval import categories, partly_right

LABELS = ("problem", "drug", "test")
LENGTH = 24

# A document as flat mentions: (label, start, end); token i of the made-up text is the character i.
Mention = tuple[str, int, int]


@st.composite
def flat_mentions(draw: st.DrawFn, labels: Sequence[str] = LABELS) -> list[Mention]:
    """Mentions that do not overlap, in text order; some of them touch."""
    cuts = sorted(draw(st.sets(st.integers(0, LENGTH), max_size=12)))
    stretches = list(pairwise(cuts))
    kept = draw(st.lists(st.booleans(), min_size=len(stretches), max_size=len(stretches)))
    return [
        (draw(st.sampled_from(labels)), start, end)
        for (start, end), keep in zip(stretches, kept, strict=True)
        if keep
    ]


def documents(notes: Sequence[Sequence[Mention]]) -> list[Document]:
    return [
        Document(
            f"d{number}",
            "x" * LENGTH,
            tuple(Entity.at(f"T{index}", *mention) for index, mention in enumerate(note)),
        )
        for number, note in enumerate(notes)
    ]


def tags(note: Sequence[Mention], *, only_class: str | None = None) -> list[str]:
    row = ["O"] * LENGTH
    for label, start, end in note:
        row[start:end] = [f"I-{only_class or label}"] * (end - start)
        row[start] = f"B-{only_class or label}"
    return row


def as_dicts(note: Sequence[Mention]) -> list[dict[str, object]]:
    # nervaluate's ends are inclusive.
    return [{"label": label, "start": start, "end": end - 1} for label, start, end in note]


@given(flat_mentions(), flat_mentions())
@settings(max_examples=80)
def test_strict_equals_seqeval(gold: list[Mention], predicted: list[Mention]) -> None:
    [pair] = zip(documents([gold]), documents([predicted]), strict=True)

    ours = count_entities([pair], STRICT, LABELS).total()

    if gold or predicted:
        precision, recall, f1, _ = precision_recall_fscore_support(
            [tags(gold)], [tags(predicted)], scheme=IOB2, average="micro", zero_division=0
        )
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx((precision, recall, f1))
    else:
        assert ours == Counts()


@given(flat_mentions(), flat_mentions())
@settings(max_examples=80)
def test_strict_exact_and_partial_equal_nervaluate(
    gold: list[Mention], predicted: list[Mention]
) -> None:
    evaluator = Evaluator([as_dicts(gold)], [as_dicts(predicted)], tags=list(LABELS), loader="dict")
    theirs = evaluator.evaluate()["overall"]
    [pair] = zip(documents([gold]), documents([predicted]), strict=True)

    assert count_entities([pair], STRICT, LABELS).total().tp == theirs["strict"].correct
    assert count_entities([pair], EXACT, LABELS).total().tp == theirs["exact"].correct
    ours = count_entities([pair], PARTIAL, LABELS).total()
    assert ours.tp == theirs["partial"].correct + 0.5 * theirs["partial"].partial
    assert (ours.precision, ours.recall) == pytest.approx(
        (theirs["partial"].precision, theirs["partial"].recall)
    )


@st.composite
def flat_with_prediction(draw: st.DrawFn) -> tuple[list[Mention], list[Mention]]:
    """Gold, and a prediction that misses, shifts the start of, and relabels its mentions."""
    gold = draw(flat_mentions())
    predicted = []
    for label, start, end in gold:
        if draw(st.integers(0, 5)):
            label = draw(st.sampled_from([label, label, *LABELS]))
            predicted.append((label, draw(st.integers(start, end - 1)), end))
    return gold, predicted


@given(flat_with_prediction())
@settings(max_examples=80)
def test_the_categories_of_all_four_schemes_equal_nervaluate(
    notes: tuple[list[Mention], list[Mention]],
) -> None:
    gold, predicted = notes
    evaluator = Evaluator([as_dicts(gold)], [as_dicts(predicted)], tags=list(LABELS), loader="dict")
    theirs = evaluator.evaluate()["overall"]
    [pair] = zip(documents([gold]), documents([predicted]), strict=True)

    ours = categories(*(mention_items(document.entities) for document in pair))

    for scheme, name in (("strict", "strict"), ("exact", "exact"), ("partial", "partial")):
        assert ours[scheme] == counted(theirs[name])
    assert ours["type"] == counted(theirs["ent_type"])
    assert ours["type"]["correct"] == len(
        overlap_and_label(*(mention_items(document.entities) for document in pair)).right
    )


def counted(result: object) -> dict[str, int]:
    names = ("correct", "incorrect", "partial", "missed", "spurious")
    return {name: getattr(result, name) for name in names}


@given(
    st.lists(st.tuples(flat_mentions(), flat_mentions()), min_size=1, max_size=3),
)
@settings(max_examples=120)
def test_paper_equals_the_scorer_of_the_reference_on_one_unified_class(
    notes: list[tuple[list[Mention], list[Mention]]],
) -> None:
    ner_metrics = pytest.importorskip(
        "ner_metrics", reason="the scorer of the reference comes with the dev extra"
    )
    # The reference puts the tags of all documents into one list.
    gold_tags, predicted_tags = (
        [tag for note in notes for tag in tags(note[side], only_class="unified")] for side in (0, 1)
    )
    aligned = list(
        zip(documents([g for g, _ in notes]), documents([p for _, p in notes]), strict=True)
    )

    for mode, further in (("strict", None), ("lenient", "lenient")):
        ours = count_entities(aligned, PAPER, LABELS, further=further).total()
        theirs = ner_metrics.classification_report(gold_tags, predicted_tags, mode=mode)
        if "B-unified" not in gold_tags:  # it then reports nothing
            assert (ours.tp, ours.fn) == (0, 0)
            continue
        unified = theirs["unified"]
        assert (ours.precision, ours.recall, ours.f1) == pytest.approx(
            (unified["precision"], unified["recall"], unified["f1-score"])
        )


@dataclass(frozen=True)
class Tag:
    """A text-bound line of the n2c2 scorer; a relation is one with two arguments."""

    type: str
    start: int
    end: int
    second: tuple[int, int] | None = None

    def equals(self, other: Tag, mode: str) -> bool:
        if self.type != other.type:
            return False
        if mode == "strict":
            return (self.start, self.end, self.second) == (other.start, other.end, other.second)
        first = self.end > other.start and self.start < other.end
        if self.second is None or other.second is None:
            return first
        return first and self.second[1] > other.second[0] and self.second[0] < other.second[1]


def n2c2_counts(gold: list[Tag], system: list[Tag], mode: str) -> Counts:
    """The published counting, written down line by line; list places are identities."""
    keep = list(range(len(system)))
    matched_gold: list[int] = []
    for s in range(len(system)):
        for g in range(len(gold)):
            if gold[g].equals(system[s], mode):
                if g not in matched_gold:
                    matched_gold.append(g)
                elif s in keep:
                    keep.remove(s)
    tp = len([s for s in keep if any(g.equals(system[s], mode) for g in gold)])
    return Counts(tp, len(keep) - tp, len(gold) - tp)


@st.composite
def tangled_notes(draw: st.DrawFn) -> Document:
    """Mentions that overlap, nest, repeat and have gaps, in any order, and links between them."""
    entities = []
    for index in range(draw(st.integers(0, 7))):
        cuts = sorted(draw(st.sets(st.integers(0, LENGTH), min_size=2, max_size=4)))
        cuts = cuts[: len(cuts) // 2 * 2]
        spans = tuple(Span(s, e) for s, e in zip(cuts[::2], cuts[1::2], strict=True))
        entities.append(Entity(f"T{index}", draw(st.sampled_from(LABELS[:2])), spans))
    relations = ()
    if entities:
        end = st.sampled_from([e.id for e in entities])
        chosen = draw(st.lists(st.tuples(st.sampled_from(["modifies", "causes"]), end, end)))
        relations = tuple(Relation(f"R{i}", *link) for i, link in enumerate(chosen[:7]))
    return Document("d", "x" * LENGTH, tuple(entities), relations)


def mention_tags(document: Document) -> list[Tag]:
    return [Tag(e.label, e.start, e.end) for e in document.entities]


def link_tags(document: Document) -> list[Tag]:
    of = {e.id: e for e in document.entities}
    return [
        Tag(
            f"{r.label} {of[r.head].label} {of[r.tail].label}",
            of[r.head].start,
            of[r.head].end,
            (of[r.tail].start, of[r.tail].end),
        )
        for r in document.relations
    ]


CHAIN = [("drug", 0, 2), ("drug", 1, 5), ("drug", 4, 8)]


# The second prediction touches a used gold mention: it is deleted, but uses up the other one.
@example(documents([[("drug", 0, 2), ("drug", 3, 5)]])[0], documents([CHAIN])[0])
@given(tangled_notes(), tangled_notes())
@settings(max_examples=250)
def test_n2c2_counts_as_its_published_rules_do(gold: Document, predicted: Document) -> None:
    for mode, further in (("lenient", None), ("strict", "strict")):
        of_mentions = count_entities([(gold, predicted)], N2C2_2018, LABELS, further=further)
        of_links = count_links([(gold, predicted)], N2C2_2018, LABELS, further=further)

        assert of_mentions.total() == n2c2_counts(mention_tags(gold), mention_tags(predicted), mode)
        assert of_links.total() == n2c2_counts(link_tags(gold), link_tags(predicted), mode)
        for label in LABELS:  # the scorer of one label sees the tags of that label only
            theirs = n2c2_counts(
                [t for t in mention_tags(gold) if t.type == label],
                [t for t in mention_tags(predicted) if t.type == label],
                mode,
            )
            assert of_mentions.total_of(label) == theirs


def test_scorers_of_one_system_lie_apart_as_their_rules_say() -> None:
    """Noise of every kind: the rules must order as published, and differ by points."""
    rng = random.Random(7)
    gold, predicted = [], []
    for _ in range(300):
        note, found, at = [], [], 0
        while at < LENGTH - 5:
            start = at + rng.randint(0, 2)
            at = start + rng.randint(2, 4)
            label = rng.choice(LABELS)
            note.append((label, start, at))
            seen = rng.choice(LABELS) if rng.random() < 0.12 else label
            kind = rng.random()
            if kind < 0.24:
                found.append((seen, start + 1, at))
            elif kind < 0.30:
                found += [(seen, start, start + 1), (seen, start + 1, at)]
            elif kind < 0.90:
                found.append((seen, start, at))
        gold.append(note)
        predicted.append(found)
    aligned = list(zip(documents(gold), documents(predicted), strict=True))
    items = [tuple(mention_items(d.entities) for d in pair) for pair in aligned]
    num_gold, num_predicted = (sum(len(pair[side]) for pair in items) for side in (0, 1))

    def f1(num_right: float) -> float:
        return 2 * num_right / (num_gold + num_predicted)

    for (of_gold, of_predicted), g, p in zip(items, gold, predicted, strict=True):
        theirs = Evaluator([as_dicts(g)], [as_dicts(p)], tags=list(LABELS), loader="dict")
        found = len(overlap_and_label(of_gold, of_predicted).right)
        assert theirs.evaluate()["overall"]["ent_type"].correct == found

    strict = f1(sum(len(same_offsets_and_label(g, p).right) for g, p in items))
    lenient = f1(sum(len(overlap_and_label(g, p).right) for g, p in items))
    halves = [partly_right(g, p) for g, p in items]
    partial = f1(sum(len(m.right) + 0.5 * len(m.half_right) for m in halves))
    n2c2 = count_entities(aligned, N2C2_2018, LABELS).total().f1
    paper_strict = count_entities(aligned, PAPER, LABELS).total().f1
    paper_lenient = count_entities(aligned, PAPER, LABELS, further="lenient").total().f1

    assert strict + 0.03 < paper_strict < partial < paper_lenient
    assert strict + 0.1 < lenient < n2c2 < paper_lenient
