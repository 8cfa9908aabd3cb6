"""The viewer's page as a browser gets it: what it shows, and what it can never run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedmedlora.core.document import Document, Entity, Relation, Span
from fedmedlora.core.errors import RunStoreError
from fedmedlora.evaluation.evaluate import evaluate_presets
from fedmedlora.evaluation.mistakes import KINDS
from fedmedlora.evaluation.presets import LENIENT, STRICT
from fedmedlora.inference.rule_linker import link_by_rule
from fedmedlora.report.viewer import Scored, write_marked_page, write_scored_page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=\"alert('x')\">&amp;"
VOID = {"meta", "input", "br"}
TEXT = "😀 Severe ankle pain, takes ibuprofen 600 mg.\r\nNo fever or pain in knee and hip."


def at(id: str, label: str, words: str, score: float | None = None) -> Entity:
    start = TEXT.index(words)
    return Entity.at(id, label, start, start + len(words), score=score)


SPLIT = Entity(
    "T6",
    "problem",
    (
        Span(TEXT.index("pain in"), TEXT.index("pain in") + 4),
        Span(TEXT.index("hip"), TEXT.index("hip") + 3),
    ),
)
GOLD = Document(
    "n1",
    TEXT,
    (
        at("T1", "problem", "Severe ankle pain"),
        at("T2", "severity", "Severe"),
        at("T3", "drug", "ibuprofen"),
        at("T4", "strength", "600 mg"),
        at("T5", "problem", "fever"),
        SPLIT,
    ),
    (Relation("R1", "modifies", "T2", "T1"), Relation("R2", "modifies", "T4", "T3")),
)
PREDICTED = Document(
    "n1",
    TEXT,
    (
        at("T1", "problem", "ankle pain", 0.75),
        at("T2", "severity", "Severe", 0.5),
        at("T3", "drug", "ibuprofen", 0.987),
        at("T4", "strength", "600 mg", 0.9),
        at("T5", "drug", "fever", 0.4),
        at("T7", "test", "knee", 0.3),
    ),
    (Relation("R1", "modifies", "T2", "T1"), Relation("R2", "modifies", "T4", "T5")),
    metadata={"unaligned_predictions": {"drug": 2}},
)
RIGHT = Document("n2", "No fever.", (Entity.at("T1", "problem", 3, 8),))


class Page(HTMLParser):
    """Elements with the text in them; fails where an end tag does not fit."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", "inside": [e["tag"] for e in self.open], **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [
            e
            for e in self.elements
            if e["tag"] == tag and all(e.get(key) == value for key, value in wanted.items())
        ]

    def rows(self) -> dict[str, list[str]]:
        """The cells of each table row behind its heading; of equal headings the first."""
        found: dict[str, list[str]] = {}
        for row in re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", self.html):
            name, *cells = re.sub(r"<[^>]+>", "|", row).strip("|").split("|")
            found.setdefault(name, [cell for cell in cells if cell])
        return found


def scored(tmp_path: Path, gold: list[Document], predicted: list[Document], **more: Any) -> Page:
    presets = [STRICT, LENIENT]
    results = evaluate_presets(gold, predicted, presets, num_draws=50)
    by_rule = evaluate_presets(gold, [link_by_rule(d) for d in predicted], presets, num_draws=50)
    scores = [Scored(*pair) for pair in zip(results, by_rule, strict=True)]
    path = tmp_path / "page.html"
    write_scored_page(path, gold, predicted, scores, [("Gold", "somewhere")], **more)
    return Page(path.read_bytes().decode())


def marked(tmp_path: Path, documents: list[Document]) -> Page:
    path = tmp_path / "page.html"
    write_marked_page(path, lambda: documents, [("Adapter", HOSTILE)])
    return Page(path.read_bytes().decode())


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return scored(tmp_path, [GOLD, RIGHT], [PREDICTED, RIGHT])


def test_the_policy_allows_nothing_but_the_script_and_style_that_are_there(page: Page) -> None:
    (policy,) = page.all("meta", http_equiv="Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy["content"].split("; "))

    assert rules["default-src"] == "'none'"
    for tag in ("script", "style"):
        (element,) = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(element["text"].encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert rules["trusted-types"] == "'none'"


def test_the_page_loads_nothing_and_makes_no_element_of_a_string(page: Page) -> None:
    assert not {"link", "iframe", "img", "object", "base", "form", "a"} & {
        e["tag"] for e in page.elements
    }
    attributes = {name for element in page.elements for name in element}
    assert not {name for name in attributes if name.startswith("on")}
    assert not {"src", "href", "style"} & attributes
    assert not re.search(r"url\(|@import|https?:(?!//www\.w3\.org/2000/svg)", page.html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", page.html)


def test_whatever_notes_hold_no_element_comes_of_it(tmp_path: Path) -> None:
    note = Document(
        HOSTILE,
        HOSTILE + " 😀 \u202eRTL\u202c\r\nend",
        (
            Entity.at(HOSTILE, HOSTILE, 0, len(HOSTILE)),
            Entity.at("T2", "severity", 3, 9),
        ),
        (Relation(HOSTILE, HOSTILE, "T2", HOSTILE),),
    )
    other = note.with_entities([Entity.at(HOSTILE, "drug", 0, 4)])

    for hostile in (marked(tmp_path, [note]), scored(tmp_path, [note], [other])):
        assert len(hostile.all("script")) == 1
        assert hostile.all("img") == []
        texts = hostile.all("div", class_="text")
        assert {text["text"] for text in texts} == {note.text}
        assert hostile.all("article")[0]["text"].count(HOSTILE) >= 2  # its id and its text
        assert any(e.get("data-l", "").startswith(HOSTILE) for e in hostile.all("mark"))
        assert not {e["tag"] for e in hostile.elements} & {"object", "svg"}


def test_both_sides_hold_the_note_character_for_character(page: Page) -> None:
    texts = [element["text"] for element in page.all("div", class_="text")]

    assert texts == [TEXT, TEXT, RIGHT.text, RIGHT.text]


def test_a_mention_says_its_label_offsets_probability_and_links_when_pointed_at(
    page: Page,
) -> None:
    titles = [mark["title"] for mark in page.all("mark") if "title" in mark]

    start = TEXT.index("600 mg")
    assert (
        f"strength (T4), characters {start}-{start + 6} · probability 0.90\n→ drug “fever”"
        in titles
    )
    first, second = (f"{span.start}-{span.end}" for span in SPLIT.spans)
    split = [title for title in titles if f"characters {first} and {second}" in title]
    assert split == [f"problem (T6), characters {first} and {second} · missed"] * 2


def test_every_error_is_listed_with_its_kind_and_marked_on_both_sides(page: Page) -> None:
    (errors,) = page.all("details", class_="errors")
    listed = [
        (e["data-k"], e.get("data-g"), e.get("data-p")) for e in page.all("li") if "data-k" in e
    ]

    assert listed == [
        ("boundary", "0", "0"),
        ("type", "4", "4"),
        ("missed", "5", None),
        ("spurious", None, "5"),
        ("link-end", "1 0", None),
        ("link", "3 2", None),
        ("link-end", None, "1 0"),
        ("link-end", None, "3 4"),
    ]
    assert "gold problem “fever”" in errors["text"]
    assert "gold, not predicted: strength “600 mg” → drug “ibuprofen”" in errors["text"]
    badges = {mark["data-l"] for mark in page.all("mark") if ":" in mark.get("data-l", "")}
    assert badges == {
        "problem: wrong boundaries",
        "problem: wrong label",
        "drug: wrong label",
        "problem: missed",
        "test: spurious",
    }
    # Arcs lead from the modifier to its entity; an x marks a wrong link.
    assert [mark["data-to"] for mark in page.all("mark") if "data-to" in mark] == [
        *("0x", "2x"),
        *("0x", "4x"),
    ]


def test_the_filter_counts_what_the_evaluation_counts(page: Page) -> None:
    options = [e["text"] for e in page.all("option")]
    mistakes = evaluate_presets([GOLD, RIGHT], [PREDICTED, RIGHT], [STRICT])[0].mistakes

    assert "all notes (2)" in options
    assert "notes with errors (1)" in options
    titles = ("wrong boundaries", "wrong label", "wrong label and boundaries", "missed", "spurious")
    for kind, title in zip(KINDS, titles, strict=True):
        assert f"{title} ({sum(m.kind == kind for m in mistakes)})" in options
    assert "problem (4 gold, 2 predicted)" in options


def test_the_scores_are_those_of_evaluate_with_the_rule_linker_beside_the_model(
    page: Page,
) -> None:
    gold, predicted = [GOLD, RIGHT], [PREDICTED, RIGHT]
    result = evaluate_presets(gold, predicted, [STRICT], num_draws=50)[0]
    by_rule = evaluate_presets(gold, [link_by_rule(d) for d in predicted], [STRICT])[0]
    rows = page.rows()

    for title, scores in (
        ("Entities", result.entities),
        ("Modifiers, end to end", result.modifiers),
        ("Relations, end to end", result.relations),
        ("Relations by the rule linker, end to end", by_rule.relations),
    ):
        micro = scores.micro
        assert rows[title][:6] == [
            *(str(n) for n in (micro.tp, micro.fp, micro.fn)),
            *(f"{100 * r:.1f}" for r in (micro.precision, micro.recall, micro.f1)),
        ]
    drug = result.entities.labels["drug"]
    assert rows["drug"][:3] == [str(drug.tp), str(drug.fp), str(drug.fn)]
    assert drug.fp == 3  # one in the note, two that are not in it
    assert "2 answers not in the note" in page.all("article")[0]["text"]
    assert [e["text"] for e in page.all("summary") if "preset" in e["text"]] == [
        "Scores, preset lenient"
    ]


def test_a_prediction_that_nobody_annotated_is_called_not_scored(tmp_path: Path) -> None:
    gold = Document("n1", "No fever.", (), annotated_labels=frozenset({"drug"}))
    found = Document("n1", "No fever.", (Entity.at("T1", "problem", 3, 8),))

    page = scored(tmp_path, [gold], [found])

    assert [m["data-l"] for m in page.all("mark") if "data-l" in m] == ["problem: not scored"]
    assert page.all("details", class_="errors") == []


def test_without_gold_there_are_marks_and_links_and_no_scores(tmp_path: Path) -> None:
    page = marked(tmp_path, [PREDICTED])

    assert len(page.all("div", class_="text")) == 1
    assert page.all("select", id="kind") == page.all("li", data_k="missed") == []
    assert "Scores" not in "".join(e["text"] for e in page.all("h2"))
    assert "strength “600 mg” → drug “fever”" in page.all("article")[0]["text"]
    assert "drug (2)" in [e["text"] for e in page.all("option")]


def test_notes_are_read_one_at_a_time_and_none_is_kept(tmp_path: Path) -> None:
    alive, most = 0, 0

    class Counted(Document):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def notes() -> Iterator[Document]:
        nonlocal alive, most
        for number in range(300):
            alive += 1
            most = max(most, alive)
            yield Counted(f"n{number}", "No fever.", (Entity.at("T1", "problem", 3, 8),))

    write_marked_page(tmp_path / "page.html", notes, [])

    assert most <= 3


def test_notes_out_of_sight_are_not_laid_out_and_the_page_works_without_a_script(
    page: Page,
) -> None:
    assert re.search(r"article \{[^}]*content-visibility: auto", page.all("style")[0]["text"])
    (bar,) = page.all("div", id="bar")
    assert "hidden" in bar  # the script shows it: without one its filters would do nothing
    assert len(page.all("noscript")) == 1


def test_the_same_notes_give_the_same_bytes_and_a_failure_leaves_the_old_page(
    tmp_path: Path,
) -> None:
    path = tmp_path / "page.html"
    marked(tmp_path, [PREDICTED])
    before = path.read_bytes()
    marked(tmp_path, [PREDICTED])
    assert path.read_bytes() == before

    def broken() -> Iterator[Document]:
        yield PREDICTED
        raise RunStoreError("cut off")

    with pytest.raises(RunStoreError):
        write_marked_page(path, broken, [])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    note = Document("n1", json.loads('"a\\ud800b fever"'), (Entity.at("T1", "problem", 4, 9),))

    page = marked(tmp_path, [note])

    assert page.all("div", class_="text")[0]["text"] == "a?b fever"
    assert page.all("mark", data_l="problem")[0]["text"] == "fever"
