"""Tags written into a note and read back: nothing invented, nothing shifted, losses counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Entity, Span
from fedmedlora.core.example import Example, ParseResult
from fedmedlora.prompts.format import TagFormat
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.registry import TAG_FORMATS, get_format
from fedmedlora.testing.generators import LABELS, documents, note_texts, spans_of

Found = list[tuple[str, int, int]]
BOTH = pytest.mark.parametrize("tags", [get_format(name) for name in TAG_FORMATS], ids=TAG_FORMATS)


@st.composite
def windowed(draw: st.DrawFn) -> tuple[Document, Span, tuple[str, ...]]:
    """A document, a window of it that entities may cross, and the labels that are asked for."""
    document = draw(documents())
    window = draw(st.just(Span(0, len(document.text))) | spans_of(document.text))
    labels = draw(st.lists(st.sampled_from(LABELS), min_size=1, unique=True))
    return document, window, tuple(labels)


def found_in(result: ParseResult) -> Found:
    return [(e.label, e.start, e.end) for e in result.entities]


def asked_in(document: Document, window: Span, labels: tuple[str, ...]) -> list[Entity]:
    return [e for e in document.entities if e.label in labels and e.cover.overlaps(window)]


def fitting(document: Document, window: Span, labels: tuple[str, ...]) -> list[Entity]:
    """The entities that flat tags at piece boundaries can hold, were there no other entity."""
    words = [p for p in cut(document.text[window.start : window.end]) if p.core_start < p.end]
    starts = {window.start + p.core_start for p in words}
    ends = {window.start + p.end for p in words}
    return [
        e
        for e in asked_in(document, window, labels)
        if len(e.spans) == 1 and e.start in starts and e.end in ends and window.contains(e.cover)
    ]


def longest_first(entities: list[Entity], labels: tuple[str, ...]) -> Found:
    """Of overlapping entities the longest; among equals the first, then the first label."""
    kept: Found = []
    order = sorted(entities, key=lambda e: (e.start - e.end, e.start, labels.index(e.label)))
    for entity in order:
        if all(entity.end <= start or end <= entity.start for _, start, end in kept):
            kept.append((entity.label, entity.start, entity.end))
    return sorted(kept, key=lambda found: found[1])


@BOTH
@settings(deadline=None)
@given(case=windowed())
def test_what_is_rendered_is_read_back_and_every_entity_is_accounted_for(
    tags: TagFormat, case: tuple[Document, Span, tuple[str, ...]]
) -> None:
    document, window, labels = case
    example = tags.render(document, window, labels)
    result = tags.parse(example.completion_text, example.prompt)
    read = found_in(result)

    assert result.problems == ()
    assert example.num_entities == len(read)
    assert example.num_entities + example.num_lost == len(asked_in(document, window, labels))
    could = longest_first(fitting(document, window, labels), labels)
    if "<" in example.prompt.source:  # a note's own tags can make two taggings read the same
        assert set(read) <= set(could)
    else:
        assert read == could


@BOTH
@settings(deadline=None)
@given(case=windowed())
def test_an_answer_without_its_tags_is_the_source(
    tags: TagFormat, case: tuple[Document, Span, tuple[str, ...]]
) -> None:
    document, window, labels = case
    example = tags.render(document, window, labels)
    untagged = "".join(segment.text for segment in example.completion if not segment.tag)
    allowed = {tags.close_tag(), *(tags.open_tag(label) for label in labels)}

    assert untagged == example.prompt.source == document.text[window.start : window.end]
    assert {segment.text for segment in example.completion if segment.tag} <= allowed
    assert example.prompt.text.count(example.prompt.source) >= 1


@st.composite
def broken_answers(draw: st.DrawFn, tags: TagFormat) -> tuple[Example, str]:
    """A true answer with pieces taken out, put in or cut off; or something else altogether."""
    document, window, labels = draw(windowed())
    example = tags.render(document, window, labels)
    answer = example.completion_text
    junk = st.sampled_from(["<problem>", "</>", "</span>", '<span class="test">', " ", "<", ""])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(answer)))
        end = draw(st.integers(start, min(len(answer), start + 9)))
        answer = answer[:start] + draw(junk | note_texts(max_parts=2)) + answer[end:]
    return example, draw(st.just(answer) | note_texts())


@BOTH
@settings(deadline=None)
@given(data=st.data())
def test_a_broken_answer_gives_problems_and_never_a_wrong_offset(
    tags: TagFormat, data: st.DataObject
) -> None:
    example, answer = data.draw(broken_answers(tags))
    prompt = example.prompt
    result = tags.parse(answer, prompt)

    position = prompt.window.start
    for entity in result.entities:
        words = prompt.source[entity.start - prompt.window.start : entity.end - prompt.window.start]
        assert position <= entity.start
        assert entity.end <= prompt.window.end
        assert words == words.strip() != ""
        assert entity.label in prompt.labels
        position = entity.end
    assert all(0 <= problem.offset <= len(answer) for problem in result.problems)
    size_of_tags = sum(len(tags.open_tag(e.label)) + len(tags.close_tag()) for e in result.entities)
    # Read to the end is what holds the source and the tags, and nothing else.
    assert (len(answer) == len(prompt.source) + size_of_tags) or result.problems


def rendered(tags: TagFormat, text: str, *found: tuple[str, str]) -> Example:
    """The example of a note in which these words carry these labels, each at its last place."""
    entities = tuple(
        Entity.at(f"T{n}", label, text.rindex(words), text.rindex(words) + len(words))
        for n, (label, words) in enumerate(found)
    )
    return tags.render(Document("d", text, entities), Span(0, len(text)), LABELS)


NOTES = [
    "Write <problem>x</> for a problem; here it is pain.",
    "Own closing </> tags </> and then pain",
    'A page with <span class="problem">bold</span> words, and pain.',
    "BP < 90, Na > 140 & K<3 with pain",
    "pain\r\nagain\tpain\r\n",
    "😀 e\u0301 \u00a0pain",
]


@BOTH
@pytest.mark.parametrize("text", NOTES)
def test_a_note_with_tag_strings_of_its_own_keeps_its_entity(tags: TagFormat, text: str) -> None:
    example = rendered(tags, text, ("problem", "pain"))
    at = text.rindex("pain")

    assert (example.num_entities, example.num_lost) == (1, 0)
    assert found_in(tags.parse(example.completion_text, example.prompt)) == [
        ("problem", at, at + 4)
    ]


@BOTH
def test_an_entity_that_would_read_differently_is_not_taught_but_counted(tags: TagFormat) -> None:
    opening, closing = tags.open_tag("problem"), tags.close_tag()
    text = f"{opening}pain{closing} and fever"
    start = len(opening)
    document = Document(
        "d",
        text,
        (
            Entity.at("T1", "problem", start, start + 4),
            Entity.at("T2", "problem", len(text) - 5, len(text)),
        ),
    )
    example = tags.render(document, Span(0, len(text)), ("problem",))

    assert found_in(tags.parse(example.completion_text, example.prompt)) == [
        ("problem", len(text) - 5, len(text))
    ]
    assert (example.num_entities, example.num_lost) == (1, 1)


def test_white_space_stands_behind_the_compact_tag_and_before_the_html_tag() -> None:
    text = "on aspirin daily"
    answers = [
        rendered(get_format(name), text, ("drug", "aspirin")).completion_text
        for name in ("compact", "html")
    ]

    assert answers == [
        "on<drug> aspirin</> daily",
        'on <span class="drug">aspirin</span> daily',
    ]


CODES = [
    ("on<drug> aspirin</> daily", []),
    ("on<drug> aspirin daily", ["unclosed"]),
    ("on<drug> aspirin</>", ["truncated"]),
    ("on<drug> ibuprofen</> daily", ["not-in-source"]),
    ("on<dose> aspirin</> daily", ["not-in-source"]),
    ("on aspirin</> daily", ["not-in-source"]),
    ("on<drug></> aspirin daily", ["not-in-source"]),
    ("on<drug><test> aspirin</></> daily", ["not-in-source"]),
    ("on<drug> aspirin</> daily.", ["not-in-source"]),
    ("", ["truncated"]),
]


@pytest.mark.parametrize(("answer", "codes"), CODES, ids=[answer for answer, _ in CODES])
def test_what_is_wrong_with_an_answer_is_named(answer: str, codes: list[str]) -> None:
    prompt = rendered(get_format("compact"), "on aspirin daily").prompt

    assert [problem.code for problem in get_format("compact").parse(answer, prompt).problems] == (
        codes
    )


def test_entities_closed_before_the_answer_goes_wrong_are_kept() -> None:
    prompt = rendered(get_format("compact"), "on aspirin daily").prompt
    result = get_format("compact").parse("on<drug> aspirin</> dai1y", prompt)

    assert found_in(result) == [("drug", 3, 10)]
    assert result.problems[0].offset == len("on<drug> aspirin</> dai")


@BOTH
@pytest.mark.parametrize("ending", ["", "!"])
def test_an_answer_full_of_ambiguous_tags_is_read_in_bounded_time(
    tags: TagFormat, ending: str
) -> None:
    opening, closing = tags.open_tag("problem"), tags.close_tag()
    source = f"{opening}x{closing}" * 60
    answer = f"{opening}{opening}x{closing}{closing}" * 60 + ending
    document = Document("d", source)
    prompt = tags.prompt(document, Span(0, len(source)), ("problem",))
    result = tags.parse(answer, prompt)

    assert len(result.entities) == 60
    assert bool(result.problems) == bool(ending)


@BOTH
def test_a_copy_of_a_note_full_of_opening_tags_is_read_in_linear_time(
    tags: TagFormat, grows_linearly
) -> None:
    def read(num_tags: int) -> None:
        source = tags.open_tag("problem") * num_tags
        prompt = tags.prompt(Document("d", source), Span(0, len(source)), ("problem",))
        tags.parse(source, prompt)

    assert grows_linearly(read, 800)
