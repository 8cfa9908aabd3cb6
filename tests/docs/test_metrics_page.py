"""Every number in an example of docs/metrics.md is computed from the page itself."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.evaluation.evaluate import Evaluation, evaluate_documents, evaluate_presets
from fedmedlora.evaluation.intervals import estimate_f1, f1_of, mean_of, paired_difference
from fedmedlora.evaluation.mistakes import KINDS, mistake_table
from fedmedlora.evaluation.presets import PRESETS
from fedmedlora.evaluation.rates import rates_of
from fedmedlora.evaluation.significance import holm, randomisation_p

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
MENTION = r"(\w+) (\d+)-(\d+)"


def section(title: str) -> str:
    """The page from this heading to the next one."""
    start = PAGE.index(f"# {title}\n")
    end = PAGE.find("\n## ", start)
    return PAGE[start:] if end < 0 else PAGE[start:end]


def rows(part: str, header: str) -> list[list[str]]:
    """The cells of the table whose header line starts with `header`."""
    lines = part[part.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [
        [cell.strip().strip("`") for cell in line.strip().removeprefix("|")[:-1].split("|")]
        for line in lines
    ]


def plain(number: float) -> str:
    return f"{number:.0f}" if number == int(number) else f"{number:.3f}"


def note(mentions: str, id: str = "d") -> Document:
    """A document with mentions such as `drug 0-5, test 7-9`, each one an entity."""
    entities = tuple(
        Entity.at(f"T{i}", label, int(start), int(end))
        for i, (label, start, end) in enumerate(re.findall(MENTION, mentions))
    )
    return Document(id, "x" * 60, entities)


def scored(gold: list[Document], predicted: list[Document], preset: str) -> Evaluation:
    return evaluate_documents(gold, predicted, PRESETS[preset], num_draws=10)


def counts_of(scores: object) -> list[str]:
    return [f"{getattr(scores, name):g}" for name in ("tp", "fp", "fn")]


@pytest.mark.parametrize("row", rows(section("What is scored"), "| gold | predicted | `una"))
def test_what_is_scored_where_not_everything_was_annotated(row: list[str]) -> None:
    gold, predicted, unplaced, *stated = row
    annotated = dataclasses.replace(note(gold), annotated_labels=frozenset({"drug", "problem"}))
    found = dataclasses.replace(
        note(predicted), metadata={"unaligned_predictions": json.loads(unplaced)}
    )

    assert counts_of(scored([annotated], [found], "strict").entities.micro) == stated


def test_whose_label_counts_where_labels_do_not_matter() -> None:
    part = section("Presets")
    stated = re.search(r"Gold: (.*)\. Predicted: (.*)\.\nUnder `exact`", part)
    assert stated is not None

    labels = scored([note(stated[1])], [note(stated[2])], "exact").entities.labels

    assert [[name, *counts_of(counts)] for name, counts in labels.items()] == rows(
        part, "| label | tp"
    )


@pytest.mark.parametrize(
    "row", rows(section("Where they differ"), "| case | predicted | `strict`"), ids=lambda r: r[0]
)
def test_where_the_presets_differ_on_a_discontinuous_mention(row: list[str]) -> None:
    _, predicted, *stated = row
    label, fragments = predicted.split(" ")
    pairs = [fragment.split("-") for fragment in fragments.split("+")]

    def document(*spans: tuple[int, int]) -> Document:
        mention = Entity("T1", label, tuple(Span(*span) for span in spans))
        return Document("d", "x" * 60, (mention,))

    gold, found = document((0, 4), (8, 12)), document(*((int(s), int(e)) for s, e in pairs))
    figures = [
        ("strict", "entities"),
        ("lenient", "entities"),
        ("n2c2-2018", "entities"),
        ("n2c2-2018", "entities.strict"),
    ]

    f1 = [scored([gold], [found], preset).figures[figure].micro.f1 for preset, figure in figures]

    assert [plain(value) for value in f1] == stated


DIFFERENCES = rows(section("Where they differ"), "| case | gold")


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row[0])
def test_where_the_presets_differ(row: list[str]) -> None:
    _, gold, predicted, *stated = row
    figures = [
        ("strict", "entities"),
        ("lenient", "entities"),
        ("exact", "entities"),
        ("partial", "entities"),
        ("paper", "entities"),
        ("paper", "entities.lenient"),
        ("n2c2-2018", "entities"),
    ]

    found = [
        scored([note(gold)], [note(predicted)], preset).figures[figure].micro.f1
        for preset, figure in figures
    ]

    assert [plain(f1) for f1 in found] == stated


def linked(links: str) -> Document:
    """A document with links such as `dosage 0-5 to drug 10-17`, and the other drug."""
    document = note("drug 10-17, drug 30-37")
    entities, relations = [], []
    for number, text in enumerate(links.split(", ")):
        ends = [
            Entity.at(f"L{number}{side}", label, int(start), int(end))
            for side, (label, start, end) in enumerate(re.findall(MENTION, text))
        ]
        for index, end in enumerate(ends):
            same = [e for e in entities if (e.label, e.spans) == (end.label, end.spans)]
            ends[index] = same[0] if same else end
            entities += [] if same else [end]
        relations.append(Relation(f"R{number}", "modifies", ends[0].id, ends[1].id))
    places = {e.spans for e in entities}
    return document.with_entities(
        [*entities, *(e for e in document.entities if e.spans not in places)], relations
    )


@pytest.mark.parametrize(
    "row", rows(section("Where they differ"), "| case | predicted link"), ids=lambda row: row[0]
)
def test_where_the_presets_differ_on_links(row: list[str]) -> None:
    _, links, *stated, of_modifiers = row
    gold, predicted = linked("dosage 0-5 to drug 10-17"), linked(links)
    figures = [
        ("strict", "relations"),
        ("lenient", "relations"),
        ("n2c2-2018", "relations"),
        ("n2c2-2018", "relations.strict"),
    ]

    found = [scored([gold], [predicted], p).figures[figure].micro for p, figure in figures]

    assert [f"{c.tp} / {c.fp} / {c.fn}" for c in found] == stated
    paper = scored([gold], [predicted], "paper").figures
    both = (paper["modifiers"].micro.f1, paper["modifiers.lenient"].micro.f1)
    assert ", ".join(plain(f1) for f1 in both) == of_modifiers


def test_the_categories_of_semeval() -> None:
    part = section("The categories of SemEval 2013")
    gold, predicted = re.findall(r"^(?:Gold|Predicted): (.*)\.$", part, re.MULTILINE)
    stated = {
        scheme: [int(number) for number in numbers]
        for scheme, *numbers in rows(part, "| scheme | correct")
    }
    # The route is a modifier; here it stands for any label.
    documents = [note(text.replace("route", "treatment")) for text in (gold, predicted)]

    found = scored([documents[0]], [documents[1]], "partial").categories["entities"]

    assert {scheme: list(tally.values()) for scheme, tally in found.items()} == stated


def test_the_interval_of_two_documents() -> None:
    stated = re.search(
        r"F1 is ([\d.]+), its interval ([\d.]+) to ([\d.]+)\.", flat(section("Figures"))
    )
    assert stated is not None
    counts = np.array([[1, 0, 0], [0, 1, 1]])

    estimate = estimate_f1(counts)

    assert [f"{v:.3f}" for v in (estimate.value, *estimate.ci95)] == list(stated.groups())
    assert set(estimate.draws) == {0, 0.5, 1}


def test_macro_f1_over_labels_and_documents() -> None:
    part = section("Figures")
    table = rows(part, "| document | gold | predicted")
    gold = [note(row[1], row[0]) for row in table]
    predicted = [note(row[2], row[0]) for row in table]

    by_document = [
        scored([g], [p], "n2c2-2018").entities.micro.f1
        for g, p in zip(gold, predicted, strict=True)
    ]
    over_labels = scored(gold, predicted, "strict").entities

    assert [plain(f1) for f1 in by_document] == [row[3] for row in table]
    stated = re.search(
        r"each have an F1 of ([\d.]+): macro F1 ([\d.]+)\. .* = ([\d.]+)\.", flat(part)
    )
    assert stated is not None
    assert {plain(counts.f1) for counts in over_labels.labels.values()} == {stated[1]}
    assert plain(over_labels.macro_f1) == stated[2]
    assert plain(scored(gold, predicted, "n2c2-2018").entities.macro_f1) == stated[3]


def flat(text: str) -> str:
    return " ".join(text.split())


def test_difference_and_p_of_two_systems() -> None:
    part = section("Two systems")
    table = rows(part, "| document | first")
    first, second = (
        np.array([[int(n) for n in row[column].split(" / ")] for row in table]) for column in (1, 2)
    )
    text = flat(part)
    stated = re.search(
        r"F1 of ([\d.]+), the second ([\d.]+): a difference of ([\d.]+), its interval ([\d.]+) to "
        r"([\d.]+)\. .* the means over the two would be ([\d.]+) and ([\d.]+)\.",
        text,
    )
    stated_p = re.search(r"only two .* 2 / 16 = ([\d.]+):", text)
    assert stated is not None
    assert stated_p is not None

    f1 = [float(f1_of(counts.sum(axis=0))) for counts in (first, second)]
    gaps = []
    for choice in product([False, True], repeat=4):
        swap = np.array(choice)[:, None]
        sums = [
            np.where(swap, second, first).sum(axis=0),
            np.where(swap, first, second).sum(axis=0),
        ]
        gaps.append(abs(float(f1_of(sums[0]) - f1_of(sums[1]))))

    apart = paired_difference(estimate_f1(first), estimate_f1(second)).ci95
    means = [
        mean_of([estimate_f1(counts[:1]), estimate_f1(counts[1:])]).value
        for counts in (first, second)
    ]

    assert [plain(v) for v in (*f1, f1[0] - f1[1], *apart, *means)] == list(stated.groups())
    assert sum(gap >= gaps[0] - 1e-12 for gap in gaps) == 2
    assert randomisation_p(first, second) == pytest.approx(float(stated_p[1]), abs=0.01)


def test_holms_example() -> None:
    stated = re.search(
        r"figures with p (.*?) have, adjusted by Holm, p (.*?)\.$", section("Two systems"), re.M
    )
    assert stated is not None
    p_values, adjusted = ([float(p) for p in group.split(", ")] for group in stated.groups())

    assert holm(p_values) == pytest.approx(adjusted)


def test_the_rates() -> None:
    part = section("What went wrong")
    documents = []
    for name, placed, metadata in rows(part, "| document | placed"):
        mentions = ", ".join(f"drug {i}-{i + 1}" for i in range(int(placed)))
        document = note(mentions, name)
        documents.append(
            Document(name, document.text, document.entities, metadata=json.loads(metadata))
        )

    found = rates_of(documents).to_json()

    for rate, value in rows(part, "| rate |"):
        assert f"{found[rate]:.3f}" == value


def test_an_error_of_every_kind() -> None:
    table = rows(section("What went wrong"), "| kind | gold")
    gold, predicted = (note(", ".join(row[side] for row in table)) for side in (1, 2))

    def told(mention: Entity | None) -> str:
        return "" if mention is None else f"{mention.label} {mention.start}-{mention.end}"

    mistakes = scored([gold], [predicted], "strict").mistakes

    assert [[m.kind, told(m.gold), told(m.predicted)] for m in mistakes] == table
    assert [row[0] for row in table] == list(KINDS)


EXAMPLE = section("Worked example")


def example(label_column: int) -> Document:
    """Gold (column 0) or predicted (column 2) side of the worked example."""
    text = re.search(r"```text\n(.*)\n```", EXAMPLE)
    assert text is not None
    entities, links = [], []
    for row in rows(EXAMPLE, "| gold | offsets"):
        label = row[label_column]
        if label.startswith("link"):
            links.append(re.findall(r"(\d+)-(\d+)", label))
        elif label:
            start, end = row[label_column + 1].split("-")
            entities.append(Entity.at(f"T{len(entities)}", label, int(start), int(end)))
    by_offsets = {(e.start, e.end): e.id for e in reversed(entities)}
    relations = [
        Relation(f"R{i}", "modifies", *(by_offsets[int(s), int(e)] for s, e in ends))
        for i, ends in enumerate(links)
    ]
    return Document("example", text[1], tuple(entities), tuple(relations))


def test_every_figure_of_every_preset_of_the_worked_example() -> None:
    stated = rows(EXAMPLE, "| preset | figure")

    found = []
    for preset in PRESETS:
        for figure, scores in scored([example(0)], [example(2)], preset).figures.items():
            micro = scores.micro
            counts = [f"{n:g}" for n in (micro.tp, micro.fp, micro.fn)]
            ratios = [f"{r:.3f}" for r in (micro.precision, micro.recall, micro.f1)]
            found.append([preset, figure, *counts, *ratios])

    assert found == stated


def test_the_errors_of_the_worked_example() -> None:
    stated = rows(EXAMPLE, "| error | gold")

    table = mistake_table(scored([example(0)], [example(2)], "strict").mistakes)

    found = [[r["kind"], r["gold"] or "", r["predicted"] or "", str(r["count"])] for r in table]
    assert found == stated


def test_the_page_defines_every_preset_and_every_kind_of_error() -> None:
    defined = [row[0] for row in rows(section("Presets"), "| preset | a predicted")]
    assert defined == list(PRESETS)
    for kind in KINDS:
        assert f"`{kind}`" in section("What went wrong")


def test_the_table_of_json_keys_holds_every_key_that_is_printed() -> None:
    table = rows(section("JSON"), "| key | holds")
    named = {name for row in table for cell in row for name in re.findall(r"[\w.]+", cell)}
    gold, predicted = [example(0)], [example(2)]
    results = evaluate_presets(
        gold, predicted, list(PRESETS.values()), against=gold, num_draws=10, num_swaps=9
    )

    for result in (each.to_json() for each in results):
        printed = set(result)
        printed |= {
            f"relations.{key}" for key in set(result["relations"]) & {"gold_entities", "pairs"}
        }
        printed |= {f"entities.{key}" for key in result["entities"]}
        printed |= set(result["entities"]["micro"]) | set(result["errors"][0])
        printed |= set(result["against"][0])
        assert printed <= named
