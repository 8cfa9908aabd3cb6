"""The json format: a list of mentions, read whatever stands around it, each at its own place."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.errors import ConfigError
from fedmedlora.core.example import ParseResult, Prompt
from fedmedlora.prompts.alignment import AlignedAnswer
from fedmedlora.prompts.format import require_tags
from fedmedlora.prompts.registry import TAG_FORMATS, get_format
from fedmedlora.testing.generators import LABELS, documents, note_texts, spans_of

JSON = get_format("json")
NOTE = "Pain in the MIld left knee.\nNo pain, no MI; given asprin 50 mg for pain."


def item(words: str, label: str = "problem", occurrence: object = 1) -> str:
    return json.dumps({"text": words, "label": label, "occurrence": occurrence})


def listed(*items: str) -> str:
    return "[" + ",\n ".join(items) + "]"


def prompt_of(source: str) -> Prompt:
    """A window in the middle of a longer note."""
    text = f"Before. {source} After."
    return JSON.prompt(Document("d", text), Span(8, 8 + len(source)), LABELS)


def aligned(answer: str, source: str = NOTE) -> AlignedAnswer:
    return JSON.align(answer, prompt_of(source))


def shown(answer: AlignedAnswer) -> list[tuple[str, int, str]]:
    return [(NOTE[s.start : s.end], s.start, s.alignment) for s in answer.spans]


def found_in(result: ParseResult) -> list[tuple[str, int, int]]:
    return [(e.label, e.start, e.end) for e in result.entities]


@settings(deadline=None)
@given(document=documents(), data=st.data())
def test_what_is_rendered_is_read_back_and_is_what_the_tag_formats_hold(
    document: Document, data: st.DataObject
) -> None:
    window = data.draw(st.just(Span(0, len(document.text))) | spans_of(document.text))
    labels = tuple(data.draw(st.lists(st.sampled_from(LABELS), min_size=1, unique=True)))
    example = JSON.render(document, window, labels)
    result = JSON.parse(example.completion_text, example.prompt)
    found = JSON.align(example.completion_text, example.prompt)

    assert result.problems == ()
    assert [e.id for e in result.entities] == [f"T{n + 1}" for n in range(example.num_entities)]
    assert [(s.label, window.start + s.start, window.start + s.end) for s in found.spans] == (
        found_in(result)
    )
    assert {s.alignment for s in found.spans} <= {"exact"}
    tagged = get_format("compact").render(document, window, labels)
    if "<" in example.prompt.source:  # a note's own tags can keep a tag format from holding it all
        assert example.num_entities >= tagged.num_entities
    else:
        assert (example.num_entities, example.num_lost) == (tagged.num_entities, tagged.num_lost)
        read = get_format("compact").parse(tagged.completion_text, tagged.prompt)
        assert found_in(result) == found_in(read)


@settings(deadline=None)
@given(document=documents())
def test_an_answer_is_json_whose_occurrences_count_from_the_start(document: Document) -> None:
    example = JSON.render(document, Span(0, len(document.text)), LABELS)
    items = json.loads(example.completion_text)

    assert len(items) == example.num_entities
    for mention in items:
        assert list(mention) == ["text", "label", "occurrence"]
        assert document.text.count(mention["text"]) >= 1
        assert mention["occurrence"] >= 1
    words = "".join(segment.text for segment in example.completion if not segment.tag)
    if not any(char in document.text for char in '"\\') and document.text.isprintable():
        assert words == "".join(mention["text"] for mention in items)


def test_the_same_words_are_told_apart_by_their_occurrence() -> None:
    last = NOTE.rindex("pain")
    document = Document("d", NOTE, (Entity.at("T1", "problem", last, last + 4),))

    assert JSON.render(document, Span(0, len(NOTE)), LABELS).completion_text == (
        '[{"text": "pain", "label": "problem", "occurrence": 2}]'
    )


def test_line_breaks_and_quotes_of_a_note_survive() -> None:
    text = 'a "mild\r\n\tpain" 😀 \\ é'
    document = Document("d", text, (Entity.at("T1", "problem", 2, len(text)),))
    example = JSON.render(document, Span(0, len(text)), LABELS)

    assert json.loads(example.completion_text)[0]["text"] == text[2:]
    assert found_in(JSON.parse(example.completion_text, example.prompt)) == [
        ("problem", 2, len(text))
    ]


FIRST, SECOND = NOTE.index("pain"), NOTE.rindex("pain")
AROUND = {
    "as it should be": listed(item("pain", occurrence=2)),
    "a code fence": f"```json\n{listed(item('pain', occurrence=2))}\n```",
    "words around it": f"Here it is:\n{listed(item('pain', occurrence=2))}\nIs that all?",
    "braces around it": f"{{pain}} [x] {listed(item('pain', occurrence=2))} {{}}",
    "an object around it": f'{{"entities": {listed(item("pain", occurrence=2))}}}',
    "one a line": item("pain", occurrence=2) + "]",
    "label in capitals": listed(item("pain", "PROBLEM", 2)),
    "white space around the words": listed(item(" pain\n", occurrence=2)),
    "raw line breaks in a string": listed(item("pain ", occurrence=2).replace("pain ", "pain\n")),
}


@pytest.mark.parametrize("answer", AROUND.values(), ids=AROUND)
def test_the_list_is_read_whatever_stands_around_it(answer: str) -> None:
    assert shown(aligned(answer)) == [("pain", SECOND, "exact")]
    assert found_in(JSON.parse(answer, prompt_of(NOTE))) == [("problem", 8 + SECOND, 12 + SECOND)]


@pytest.mark.parametrize(
    ("occurrences", "found"),
    [
        ((1, 2), [(FIRST, "exact"), (SECOND, "exact")]),
        ((2, 1), [(FIRST, "exact"), (SECOND, "exact")]),
        ((1, 1), [(FIRST, "exact"), (SECOND, "moved")]),  # every mention is called the first
        ((7,), [(SECOND, "moved")]),
        ((1, 2, 3), [(FIRST, "exact"), (SECOND, "exact")]),  # said a third time
        ((None,), [(FIRST, "exact")]),
        ((None, None), [(FIRST, "exact"), (SECOND, "exact")]),
        (("2",), [(FIRST, "exact")]),  # no number: as if not stated
        ((0,), [(FIRST, "exact")]),
        ((True,), [(FIRST, "exact")]),
        ((2.0,), [(FIRST, "exact")]),
    ],
)
def test_a_wrong_occurrence_goes_to_the_nearest_free_one(
    occurrences: tuple[object, ...], found: list[tuple[int, str]]
) -> None:
    answer = aligned(listed(*(item("pain", occurrence=number) for number in occurrences)))

    assert [(s.start, s.alignment) for s in answer.spans] == found
    assert not answer.unaligned


def test_words_are_found_nearly_or_counted_and_whole_words_only() -> None:
    answer = listed(
        item("MI"),
        item("PAIN IN THE"),
        item("aspirin", "drug"),
        item("500 mg", "drug"),
        item("ld"),
        item("kidney failure"),
        item("knee", "body part"),
        item(""),
    )
    found = aligned(answer)

    assert shown(found) == [
        ("Pain in the", 0, "normalised"),
        ("MI", NOTE.index("MI;"), "exact"),
        ("asprin", NOTE.index("asprin"), "fuzzy"),
    ]
    assert dict(found.unaligned) == {"drug": 1, "problem": 2, "(unknown)": 1}
    strict = JSON.parse(answer, prompt_of(NOTE))
    assert found_in(strict) == [("problem", 8 + NOTE.index("MI;"), 10 + NOTE.index("MI;"))]
    assert [problem.code for problem in strict.problems] == [
        *["not-in-source"] * 5,
        "unknown-label",
        "empty",
    ]


def test_a_mention_within_another_is_in_neither_spans_nor_counts() -> None:
    found = aligned(listed(item("left knee"), item("knee"), item("left knee", "test")))

    assert shown(found) == [("left knee", NOTE.index("left"), "exact")]
    assert not found.unaligned


@pytest.mark.parametrize("size", [30, 62, 63, 64, 65, 90, 124])
def test_of_a_list_that_is_cut_off_the_whole_items_count(size: int) -> None:
    answer = listed(item("pain"), item("MI"), item("asprin", "drug"))[:size]
    result = JSON.parse(answer, prompt_of(NOTE))

    assert len(result.entities) == answer.count("}")
    assert [problem.code for problem in result.problems] == ["truncated"]


@pytest.mark.parametrize(
    ("answer", "unparsable"),
    [
        ("", True),
        ("There are no entities.", True),
        (NOTE, True),
        ("[", True),
        ('[{"text": "pa', True),
        ('[{"text": 5, "label": "problem"}]', True),
        ("[]", False),
        ("```json\n[ ]\n```", False),
        (listed(item("kidney failure")), False),
    ],
)
def test_what_is_no_list_is_unparsable(answer: str, unparsable: bool) -> None:
    found = aligned(answer)

    assert (found.spans, found.unparsable) == ((), unparsable)
    assert bool(JSON.parse(answer, prompt_of(NOTE)).problems) == (
        answer not in ("[]", "```json\n[ ]\n```")
    )


@settings(deadline=None)
@given(
    source=note_texts(),
    answer=st.lists(
        st.sampled_from([item("pain"), item("<problem>", "drug", 2), "[", "]", ",", "{", '"', "[]"])
        | note_texts(max_parts=3),
        max_size=12,
    ).map("".join),
)
def test_whatever_the_answer_spans_are_disjoint_stretches_of_the_source(
    source: str, answer: str
) -> None:
    prompt = Prompt("d", Span(0, max(1, len(source))), LABELS, "", source, "")
    found = JSON.align(answer, prompt)

    position = 0
    for span in found.spans:
        words = source[span.start : span.end]
        assert position <= span.start < span.end <= len(source)
        assert words == words.strip()
        assert span.label in LABELS
        position = span.end
    assert len(JSON.parse(answer, prompt).entities) <= len(found.spans)


DIGITS = '[{"text": "pain", "label": "problem", "occurrence": '
LONG: dict[str, Callable[[int], str]] = {  # about so many characters
    "letters": lambda length: "x" * length,
    "words": lambda length: "no pain, " * (length // 9),
    "opening brackets": lambda length: "[" * length,
    "opening braces": lambda length: '{"a":' * (length // 5),
    "braces and brackets": lambda length: '{"a":[' * (length // 6),
    "digits": lambda length: DIGITS + "9" * (length - 100) + "}]",
    "inventions": lambda length: listed(*[item("hypertensoin pains")] * (length // 70)),
    "the same again": lambda length: listed(
        *[item("pain", occurrence=n) for n in range(length // 58)]
    ),
    "single marks": lambda length: listed(*[item(",", occurrence=n) for n in range(length // 58)]),
}


@pytest.mark.parametrize("what", LONG)
def test_thousands_of_characters_are_read_in_linear_time(what: str, grows_linearly) -> None:
    for source in ("words", "letters", "opening braces"):

        def read(length: int, source: str = source) -> None:
            aligned(LONG[what](length), LONG[source](length))

        assert grows_linearly(read, 20_000), source


@pytest.mark.parametrize("name", TAG_FORMATS)
def test_constrained_decoding_takes_the_formats_with_tags(name: str) -> None:
    tags = get_format(name)

    assert require_tags(tags) is tags


def test_constrained_decoding_refuses_a_format_without_tags() -> None:
    with pytest.raises(ConfigError, match="json-v1: constrained decoding: expected answers that"):
        require_tags(JSON)
