"""A note's text with marks: not a character is changed, and each mention is where it belongs."""

from __future__ import annotations

from collections import defaultdict
from html.parser import HTMLParser

import pytest
from hypothesis import given
from markupsafe import Markup

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.report.viewer_marks import Marked, marked_text
from fedmedlora.testing.generators import documents


class Read(HTMLParser):
    """What a browser would show, and the offsets of each mark's characters in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []
        self.places: dict[str, set[int]] = defaultdict(set)
        self.tags: list[dict[str, str | None]] = []
        self.feed(str(html))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "mark"
        self.tags.append(dict(attrs))
        self.open.append(str(dict(attrs)["data-m"]))

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for number in self.open:
            self.places[number] |= set(range(len(self.text), len(self.text) + len(data)))
        self.text += data


def marks(*entities: Entity) -> list[Marked]:
    return [
        Marked(e.spans, "c0", e.label == "severity", {"data-m": n}, {}, {"data-l": e.label})
        for n, e in enumerate(entities)
    ]


def places_of(entity: Entity) -> set[int]:
    return {place for span in entity.spans for place in range(span.start, span.end)}


@given(documents())
def test_the_text_is_unchanged_and_every_mention_covers_its_own_characters(note: Document) -> None:
    read = Read(marked_text(note.text, marks(*note.entities)))

    assert read.text == note.text
    assert {int(n): places for n, places in read.places.items()} == {
        n: places_of(entity) for n, entity in enumerate(note.entities)
    }
    # The name of each label is shown once, however many pieces the mention is in.
    assert sum("data-l" in tag for tag in read.tags) == len(note.entities)


@pytest.mark.parametrize(
    "text",
    [
        "a </script><script>alert(1)</script> b",
        '<img src=x onerror="alert(1)">',
        "&amp; &lt; &#13; \" '",
        "one\r\ntwo\rthree\n",
        "\n starts with a line end",
        "שלום \u202eabc\u202c",
        "😀🇨🇭👩\u200d⚕️ fever",
    ],
)
def test_hostile_text_stays_text(text: str) -> None:
    for entity in (Entity.at("T1", "drug", 0, 2), Entity.at("T1", "drug", 1, len(text))):
        html = marked_text(text, marks(entity))
        read = Read(html)

        assert read.text == text
        assert read.places["0"] == places_of(entity)
        assert isinstance(html, Markup)
        assert "\r" not in html  # a browser would make a line feed of it


def test_offsets_behind_an_emoji_count_characters_not_utf16_units() -> None:
    text = "😀😀 fever"

    assert '<mark class="c0" data-m="0" data-l="problem">fever</mark>' in marked_text(
        text, marks(Entity.at("T1", "problem", 3, 8))
    )


def test_a_modifier_is_inside_its_entity_even_where_both_are_the_same_characters() -> None:
    entity, modifier = (Entity.at(i, i, 0, 4) for i in ("problem", "severity"))

    for order in ((entity, modifier), (modifier, entity)):
        read = Read(marked_text("pain", marks(*order)))
        assert [tag["data-l"] for tag in read.tags] == ["problem", "severity"]


def test_of_two_mentions_that_cross_the_later_one_goes_on_in_a_second_piece() -> None:
    html = marked_text("abcdef", marks(Entity.at("A", "a", 0, 4), Entity.at("B", "b", 2, 6)))

    assert html == (
        '<mark class="c0" data-m="0" data-l="a">ab<mark class="c0 cut" data-m="1">cd</mark></mark>'
        '<mark class="c0 goes-on" data-m="1" data-l="b">ef</mark>'
    )


def test_a_discontinuous_mention_leaves_its_gap_unmarked() -> None:
    entity = Entity("T1", "problem", (Span(0, 4), Span(9, 13)))

    read = Read(marked_text("pain and knee", marks(entity)))

    assert read.places["0"] == {0, 1, 2, 3, 9, 10, 11, 12}


def test_labels_are_escaped_in_attributes() -> None:
    label = "\"><script>alert('x')</script>\r&"

    read = Read(marked_text("pain", marks(Entity.at("T1", label, 0, 4))))

    assert read.tags[0]["data-l"] == label
