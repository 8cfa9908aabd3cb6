"""Whatever is chosen, the text is copied exactly, tags balance, and the answer ends."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmedlora.core.document import Document, Span
from fedmedlora.inference.cursor import Choice, CopyCursor
from fedmedlora.inference.decision import Decision
from fedmedlora.models.tokens import PieceTokenizer
from fedmedlora.prompts.pieces import cut
from fedmedlora.prompts.registry import TAG_FORMATS, get_format
from fedmedlora.testing.generators import LABELS, note_texts
from fedmedlora.testing.tiny import tiny_tokenizer

TOKENIZER = PieceTokenizer(tiny_tokenizer(), "tiny")


def cursor_of(name: str, text: str, labels: tuple[str, ...] = LABELS) -> CopyCursor:
    tags = get_format(name)
    document = Document("note", text)
    window = Span(0, max(1, len(text)))
    return CopyCursor(tags.prompt(document, window, labels), tags, TOKENIZER)


def ways(cursor: CopyCursor) -> list[tuple[str, str, str]]:
    return [(c.kind, c.label, TOKENIZER.decode(c.token_ids)) for c in cursor.choices()]


def take(cursor: CopyCursor, kind: str, log_probability: float = -0.5) -> None:
    cursor.take(next(c for c in cursor.choices() if c.kind == kind), log_probability)


@pytest.mark.parametrize("name", TAG_FORMATS)
@settings(deadline=None)
@given(text=note_texts(), data=st.data())
def test_any_chain_of_choices_copies_the_text_and_ends(
    name: str, text: str, data: st.DataObject
) -> None:
    cursor = cursor_of(name, text)
    copied, answer, num_tags, last = "", "", 0, ""
    most = 3 * len(cut(text))
    for _ in range(most + 1):
        if cursor.done:
            break
        choices = cursor.choices()
        assert [c.kind for c in choices] == sorted(
            (c.kind for c in choices), key=["copy", "close", "open"].index
        )
        chosen = data.draw(st.sampled_from(choices))
        words = TOKENIZER.decode(chosen.token_ids)
        answer += words
        if chosen.kind == "copy":
            copied += words
        else:
            num_tags += 1
            tag = get_format(name).open_tag(chosen.label)
            tag = tag if chosen.kind == "open" else get_format(name).close_tag()
            assert words.endswith(tag)
            copied += words.removesuffix(tag)
            assert last != "open" or chosen.kind != "close"  # no empty span
        last = chosen.kind
        cursor.take(chosen, -1.0)

    assert cursor.done
    assert copied == text
    assert num_tags == 2 * len(cursor.found)
    position = 0
    for span in cursor.found:
        words = text[span.start : span.end]
        assert position <= span.start
        assert words == words.strip() != ""
        assert span.log_probability == -2.0
        position = span.end


def test_before_a_word_the_compact_tag_stands_before_its_space() -> None:
    cursor = cursor_of("compact", "no pain", ("problem", "drug"))
    take(cursor, "copy")

    assert ways(cursor) == [
        ("copy", "", " pain"),
        ("open", "problem", "<problem>"),
        ("open", "drug", "<drug>"),
    ]
    take(cursor, "open")
    assert ways(cursor) == [("copy", "", " pain")]  # nothing to close yet
    take(cursor, "copy")
    assert ways(cursor) == [("close", "", "</>")]  # and nothing left to copy
    take(cursor, "close")
    assert cursor.done
    assert [(s.label, s.start, s.end) for s in cursor.found] == [("problem", 3, 7)]


def test_before_a_word_the_html_tag_stands_behind_its_space() -> None:
    cursor = cursor_of("html", "no pain today", ("problem",))
    take(cursor, "copy")

    assert ways(cursor) == [("copy", "", " pain"), ("open", "problem", ' <span class="problem">')]
    take(cursor, "open")
    assert ways(cursor) == [("copy", "", "pain")]
    take(cursor, "copy")
    assert ways(cursor) == [("copy", "", " today"), ("close", "", "</span>")]


def test_no_tag_opens_before_white_space_alone() -> None:
    cursor = cursor_of("compact", "pain \n")
    take(cursor, "copy")

    assert ways(cursor) == [("copy", "", " \n")]


def test_white_space_that_was_copied_into_a_span_is_no_part_of_it() -> None:
    cursor = cursor_of("compact", " pain \n")
    for kind in ("open", "copy", "copy", "close"):
        take(cursor, kind)

    assert [(s.start, s.end) for s in cursor.found] == [(1, 5)]


def test_an_empty_text_is_done() -> None:
    assert cursor_of("html", "").done


def choice(kind: str, *token_ids: int) -> Choice:
    return Choice(kind, kind, token_ids)  # type: ignore[arg-type]


class Ahead:
    """A cursor of which only the token after a choice matters."""

    def __init__(self, token: int) -> None:
        self._token = token

    def copied_on(self, _choice: Choice) -> int:
        return self._token


def decided(choices: list[Choice], ahead: int, *logits: list[float]) -> tuple[Choice, list[int]]:
    """The choice that these logits lead to, and the tokens fed on the way."""
    decision = Decision(Ahead(ahead), choices)  # type: ignore[arg-type]
    fed = []
    rows = list(logits)
    while decision.choice is None:
        token = (
            decision.pick(rows.pop(0))
            if len(decision.candidates) > 1
            else decision.follow(decision.candidates[0])
        )
        fed += [] if token is None else [token]
    assert rows == []
    assert decision.choice.token_ids[: len(fed)] == tuple(fed)
    return decision.choice, fed


COPY, CLOSE, FIRST, SECOND = (
    choice("copy", 1, 2),
    choice("close", 3),
    choice("open", 4, 5, 9),
    choice("open", 4, 6, 9),
)


def test_choices_are_compared_where_they_first_differ() -> None:
    assert decided([COPY, FIRST, SECOND], 0, [2.0, 1.0]) == (COPY, [1])
    assert decided([COPY, FIRST, SECOND], 0, [1.0, 2.0], [0.0, 1.0]) == (SECOND, [4, 6])


def test_a_tie_goes_to_the_first() -> None:
    assert decided([COPY, CLOSE], 0, [1.0, 1.0])[0] == COPY
    assert decided([COPY, FIRST, SECOND], 0, [1.0, 2.0], [1.0, 1.0])[0] == FIRST


def test_a_choice_that_begins_another_is_judged_by_what_follows_it() -> None:
    bracket, tag = choice("copy", 4), choice("open", 4, 5, 9)

    assert decided([bracket, tag], 7, [2.0, 1.0]) == (bracket, [4])
    assert decided([bracket, tag], 7, [1.0, 2.0]) == (tag, [4, 5])


def test_the_notes_own_tag_string_is_copied() -> None:
    assert decided([choice("copy", 4), choice("open", 4, 5, 9)], 5) == (choice("copy", 4), [4])


def test_the_log_probability_is_that_of_every_token_that_was_decided() -> None:
    decision = Decision(Ahead(0), [COPY, FIRST, SECOND])  # type: ignore[arg-type]
    decision.pick([0.0, 0.0])
    assert decision.log_probability == pytest.approx(-0.693147, abs=1e-6)
    decision = Decision(Ahead(0), [COPY, FIRST, SECOND])  # type: ignore[arg-type]
    decision.pick([0.0, 1.0])
    decision.pick([3.0, 0.0])
    assert decision.log_probability == pytest.approx(-0.313262 - 0.048587, abs=1e-6)
    assert decision.choice == FIRST


def test_large_logits_do_not_overflow() -> None:
    decision = Decision(Ahead(0), [COPY, CLOSE])  # type: ignore[arg-type]
    decision.pick([1e4, -1e4])

    assert decision.log_probability == 0.0
